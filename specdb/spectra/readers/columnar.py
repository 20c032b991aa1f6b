"""Many spectra on one grid in one Parquet, HDF5 or npz file, read in batches so that memory does not grow with the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from specdb.errors import ReadError
from specdb.spectra.readers.arrays import content_ids
from specdb.spectra.readers.columns import column_role, ivar_from_error, vacuum_angstrom
from specdb.spectra.readers.containers import Store, kind_of, open_store
from specdb.spectra.readers.opened import OpenSource
from specdb.spectra.schema import METADATA, metadata_table
from specdb.spectra.spectrum import Spectra

__all__ = ["ColumnarReader"]

_START = ("coeff0", "log10_wave0", "log10_start", "crval1")
_STEP = ("coeff1", "dlog10_wave", "log10_step", "cd1_1")
_WAVELENGTH_ROLES = ("wavelength", "log_wavelength", "air_wavelength")


class ColumnarReader:
    """Parquet, HDF5 or npz with flux (n, n_pix) and one wavelength grid.

    The grid is an array (n_pix,) called wavelength, wave, loglam, ..., also in the attributes of an HDF5 file or as JSON in
    the metadata of a Parquet schema, or two numbers for the start and the step in log10 of Angstrom (coeff0, coeff1;
    log10_wave0, dlog10_wave). Parquet may also repeat the grid in a list column. Columns of `METADATA` are taken over.
    """

    name = "columnar"
    suffixes: tuple[str, ...] = (".parquet", ".pq", ".h5", ".hdf5", ".npz")
    native = False

    def identify(self, opened: OpenSource) -> str | None:
        """Return None for a file with a recognised flux and wavelength."""
        kind = kind_of(opened)
        if not kind:
            return f"looked for Parquet, HDF5 or npz, found a file that begins with {opened.head[:8]!r}"
        try:
            with open_store(opened) as store:
                _flux_name(store)
                _wavelength(store)
        except ReadError as error:
            return f"{kind}: {error.detail}"
        return None

    def read(self, opened: OpenSource) -> Iterator[Spectra]:
        """Yield batches of up to 1024 spectra."""
        with open_store(opened) as store:
            flux_name = _flux_name(store)
            grid = _wavelength(store)
            n = store.columns[flux_name][0]
            per_row = [name for name, shape in store.columns.items() if shape and shape[0] == n and _wanted(name, flux_name)]
            for batch in store.read(per_row):
                if len(batch[flux_name]):
                    yield _spectra(batch, flux_name, grid, opened.name)


def _wanted(name: str, flux_name: str) -> bool:
    return name == flux_name or name in METADATA.names or bool(column_role(name)[0])


def _spectra(batch: dict[str, np.ndarray], flux_name: str, grid: np.ndarray | None, source_file: str) -> Spectra:
    flux = _matrix(flux_name, batch.pop(flux_name))
    roles = {column_role(name)[0]: name for name in reversed(list(batch)) if column_role(name)[0]}
    for role in _WAVELENGTH_ROLES:
        if grid is None and role in roles:
            rows = _matrix(roles[role], batch[roles[role]])
            if not (rows == rows[:1]).all():
                raise ReadError("bad_wavelength", "the spectra are on different grids; this format needs one grid per file")
            grid = vacuum_angstrom(rows[0], role, column_role(roles[role])[1])
    if grid is None or flux.shape[1] != grid.size:
        raise ReadError("corrupt", f"flux has {flux.shape[1]} pixels, the grid {None if grid is None else grid.size}")
    ivar = None
    if "ivar" in roles:
        ivar = _matrix(roles["ivar"], batch[roles["ivar"]]).astype(np.float32)
    elif "error" in roles:
        ivar = ivar_from_error(_matrix(roles["error"], batch[roles["error"]]))
    columns: dict[str, Any] = {name: _entries(batch[name], name) for name in METADATA.names if name in batch}
    if "gaia_source_id" in roles:
        columns.setdefault("gaia_source_id", _entries(batch[roles["gaia_source_id"]], "gaia_source_id"))
    given = roles.get("spectrum_id") or roles.get("gaia_source_id")
    ids = _entries(batch[given], "spectrum_id") if given else [None] * len(flux)
    if None in ids:
        made = content_ids(flux, grid).tolist()
        ids = [own if own is not None else other for own, other in zip(ids, made, strict=True)]
    columns |= {"spectrum_id": ids, "source_file": [source_file] * len(flux)}
    return Spectra(grid, flux, ivar, metadata=metadata_table(columns))


def _entries(values: np.ndarray, name: str) -> list:
    """Values of a metadata column as Python objects of its type; None where they are missing."""
    kind = METADATA.field(name).type
    items = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.tolist()]
    if pa.types.is_string(kind):
        return [None if v is None else str(v) for v in items]
    out = []
    for v in items:
        try:
            number = None if v is None or v != v else int(v) if pa.types.is_integer(kind) else float(v)
        except (TypeError, ValueError):
            raise ReadError("corrupt", f"column {name!r} holds {v!r}; expected a number") from None
        out.append(number)
    return out


def _matrix(name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        lengths = {len(v) if v is not None else 0 for v in values}
        if len(lengths) != 1:
            raise ReadError("corrupt", f"column {name!r} has rows of {sorted(lengths)[:4]} values; expected one length")
        values = np.stack([np.asarray(v, dtype=np.float64) for v in values])
    values = values.reshape(len(values), -1)
    return values.astype(np.float64 if values.dtype.itemsize == 8 else np.float32, copy=False)


def _flux_name(store: Store) -> str:
    for name, shape in store.columns.items():
        if column_role(name)[0] == "flux" and len(shape) >= 2:
            return name
    raise ReadError("missing_column", f"no flux (n, n_pix) among {sorted(store.columns)[:12]}")


def _wavelength(store: Store) -> np.ndarray | None:
    """The common grid; None where a Parquet column repeats it per row, which is checked while reading."""
    n_pix = store.columns[_flux_name(store)][1]
    for name in [*store.constants, *store.columns]:
        role, unit = column_role(name)
        if name == "wavelength_vac_angstrom":
            role, unit = "wavelength", "angstrom"
        if role not in _WAVELENGTH_ROLES:
            continue
        if name in store.constants:
            values = np.asarray(_decoded(store.constants[name]))
            if values.ndim == 1 and values.dtype.kind in "fiu":
                return vacuum_angstrom(values, role, unit)
        elif len(store.columns[name]) == 1 and store.columns[name][0] == n_pix:
            return vacuum_angstrom(store.whole(name), role, unit or str(store.constants.get(f"{name}.unit", "")))
        elif len(store.columns[name]) == 2:
            return None
    start = next((store.constants[k] for k in _START if k in store.constants), None)
    step = next((store.constants[k] for k in _STEP if k in store.constants), None)
    if start is not None and step is not None:
        return 10 ** (float(_decoded(start)) + float(_decoded(step)) * np.arange(n_pix))
    raise ReadError(
        "missing_column", f"no wavelength of {n_pix} pixels among {sorted([*store.columns, *store.constants])[:12]}"
    )


def _decoded(value: Any) -> Any:
    """JSON in text, as metadata of a Parquet schema are stored; other values as they are."""
    if isinstance(value, bytes | str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
