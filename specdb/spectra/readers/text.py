"""One spectrum in a text file: CSV, TXT, DAT or ECSV, in columns or in rows."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from specdb.errors import ReadError
from specdb.spectra.readers.arrays import content_ids
from specdb.spectra.readers.columns import column_role, ivar_from_error, vacuum_angstrom
from specdb.spectra.readers.opened import OpenSource, codec_errors
from specdb.spectra.schema import METADATA, metadata_table
from specdb.spectra.spectrum import Spectra

__all__ = ["TextReader"]

_COMMENT = ("#", "%", "!", "//")
_SPLIT = re.compile(r"\s*[,;|\t]\s*|\s+")


@dataclass(frozen=True)
class _Table:
    """Numbers of a text file as columns, with what is known about each."""

    columns: list[np.ndarray]
    names: list[str]  # empty where the file has none
    units: list[str]
    facts: dict[str, object] = field(default_factory=dict)


class TextReader:
    """Wavelength, flux and perhaps error or inverse variance, in two or three columns or rows.

    Columns are found by name; without names the first is the wavelength, the second the flux, the third the standard
    deviation. Wavelengths are taken to be in vacuum; their unit comes from an ECSV header, from the name (``wavelength_nm``,
    ``wave [A]``), else from their range (see `vacuum_angstrom`). Lines that begin with #, %, ! or // are comments; the last
    one before the numbers may hold the names.
    """

    name = "text"
    suffixes: tuple[str, ...] = (".csv", ".txt", ".dat", ".ecsv", ".tsv", ".ascii", ".asc", ".csv.gz", ".txt.gz", ".dat.gz")
    native = False

    def identify(self, opened: OpenSource) -> str | None:
        """Return None for text that holds a wavelength and a flux."""
        if opened.is_fits or b"\0" in opened.head:
            return "looked for text, found binary data"
        try:
            _spectrum(_parse(opened))
        except ReadError as error:
            return f"looked for columns of wavelength and flux: {error.detail}"
        return None

    def read(self, opened: OpenSource) -> Iterator[Spectra]:
        """Yield the one spectrum of the file."""
        with codec_errors("text"):
            table = _parse(opened)
            wavelength, flux, ivar = _spectrum(table)
            stem = PurePosixPath(opened.source.member or opened.source.path.as_posix()).name.partition(".")[0]
            metadata = {
                "spectrum_id": content_ids(flux[None], wavelength),
                "source_file": [opened.name],
                "object_name": [stem],
            } | {name: [value] for name, value in table.facts.items()}
            spectra = Spectra(
                wavelength, flux[None], None if ivar is None else ivar[None], metadata=metadata_table(metadata)
            )
        yield spectra


def _parse(opened: OpenSource) -> _Table:
    if opened.head.startswith((b"# %ECSV", b"\xef\xbb\xbf# %ECSV")):
        return _parse_ecsv(opened.data)
    try:
        text = opened.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReadError("unknown_format", f"not UTF-8 text ({error.reason} at byte {error.start})") from None
    names: list[str] = []
    lines: list[list[str]] = []
    comment = ""
    for line in text.splitlines():
        stripped = line.strip()
        if not stripped:
            continue
        if stripped.startswith(_COMMENT):
            comment = comment if lines else stripped.lstrip("#%!/ ")
            continue
        fields = _SPLIT.split(stripped.strip(",;|"))
        if not lines and not names and not all(map(_is_number, fields)):
            names = _names(stripped)
            if not {role for role, _ in map(column_role, names)} & {"flux"}:
                raise ReadError("unknown_format", f"no flux among the columns {names[:6]}")
            continue
        lines.append(fields)
    widths = {len(fields) for fields in lines}
    if len(widths) != 1:
        raise ReadError("unknown_format", f"lines of {sorted(widths)[:5]} fields; expected one number of fields throughout")
    try:
        values = np.array([[float(field) if field else np.nan for field in fields] for fields in lines])
    except ValueError as error:
        raise ReadError("corrupt", f"{error}; expected numbers only below the names") from None
    if len(values) in (2, 3) and values.shape[1] > 3 and not names:
        return _Table(list(values), [], [""] * len(values))
    candidates = _names(comment)
    if not names and len(candidates) == values.shape[1] and "flux" in {column_role(name)[0] for name in candidates}:
        names = candidates
    if names and len(names) != values.shape[1]:
        raise ReadError("unknown_format", f"{len(names)} names for {values.shape[1]} columns")
    return _Table(list(values.T), names, [""] * values.shape[1])


def _parse_ecsv(data: bytes) -> _Table:
    from astropy.table import Table

    with codec_errors("ECSV"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = Table.read(io.BytesIO(data), format="ascii.ecsv")
        known = {str(key).lower(): value for key, value in table.meta.items()}
        facts = {name: known[name] for name in METADATA.names if isinstance(known.get(name), str | int | float)}
        numeric = [name for name in table.colnames if table[name].dtype.kind in "fiu"]
        columns: list[np.ndarray] = [np.ma.filled(np.ma.asarray(table[name], dtype=float), np.nan) for name in numeric]
        return _Table(columns, numeric, [str(table[name].unit or "") for name in numeric], facts)


def _spectrum(table: _Table) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Wavelength (n_pix,), flux (n_pix,) and inverse variance (n_pix,) or None."""
    if table.names:
        roles = [column_role(name) for name in table.names]
    elif len(table.columns) in (2, 3):
        roles = [("wavelength", ""), ("flux", ""), ("error", "")][: len(table.columns)]
    else:
        raise ReadError("unknown_format", f"{len(table.columns)} columns without names; name them or keep two or three")
    place: dict[str, int] = {}
    for i, (role, _) in enumerate(roles):
        place.setdefault(role, i)
    grid = next((place[role] for role in ("wavelength", "log_wavelength", "air_wavelength") if role in place), None)
    if grid is None or "flux" not in place:
        raise ReadError("unknown_format", f"the columns are {table.names}; expected wavelength and flux")
    wavelength = vacuum_angstrom(table.columns[grid], roles[grid][0], table.units[grid] or roles[grid][1])
    flux = table.columns[place["flux"]]
    if flux.size < 2:
        raise ReadError("unknown_format", f"{flux.size} pixels; a spectrum has more")
    if "ivar" in place:
        return wavelength, flux, table.columns[place["ivar"]].astype(np.float32)
    return wavelength, flux, ivar_from_error(table.columns[place["error"]]) if "error" in place else None


def _names(line: str) -> list[str]:
    """Split a line of names; units in brackets stay with their name."""
    separator = next((s for s in (",", ";", "|", "\t") if s in line), None)
    parts = line.split(separator) if separator else re.sub(r"\s+(?=[\[(])", "", line).split()
    return [part.strip().strip("\"'") for part in parts]


def _is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return False
    return True
