"""Spectra that a user hands over as arrays, and ids for spectra that have none of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from specdb.errors import InputError
from specdb.spectra.schema import METADATA, metadata_table
from specdb.spectra.spectrum import Spectra

__all__ = ["content_ids", "from_arrays"]


def content_ids(flux: np.ndarray, wavelength: np.ndarray) -> np.ndarray:
    """Return stable ids made from the content of spectra.

    The id is the first 62 bits of BLAKE2b over the flux as little-endian float32 and the first wavelength, the last (to
    0.001 Angstrom) and the number of pixels. Bit 62 is always set, so ids lie in [2**62, 2**63): above every LAMOST obsid.

    Parameters
    ----------
    flux : ndarray (n, n_pix)
    wavelength : ndarray (n_pix,), Angstrom

    Returns
    -------
    ndarray (n,), int64
    """
    grid = f"{wavelength[0]:.3f} {wavelength[-1]:.3f} {len(wavelength)}".encode() if len(wavelength) else b""
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(flux, dtype="<f4")
    digests = b"".join(blake2b(row.tobytes() + grid, digest_size=8).digest() for row in rows)
    return (np.frombuffer(digests, "<u8") >> 2 | 1 << 62).astype(np.int64)


def from_arrays(
    wavelength_vac_angstrom: np.ndarray,
    flux: np.ndarray,
    ivar: np.ndarray | None = None,
    *,
    ids: Sequence[int] | np.ndarray | None = None,
    metadata: pa.Table | Mapping[str, Sequence] | None = None,
) -> Spectra:
    """Make `Spectra` of arrays.

    Parameters
    ----------
    wavelength_vac_angstrom : array (n_pix,)
        Vacuum wavelength in Angstrom, strictly increasing, common to all spectra.
    flux : array (n, n_pix) or (n_pix,)
        In any unit; not finite where there is no measurement.
    ivar : array of the shape of `flux`, optional
        Inverse variance; 0 for bad pixels.
    ids : sequence of int (n,), optional
        Distinct spectrum ids; made from the content if not given.
    metadata : pyarrow.Table or mapping of column name to sequence, optional
        Columns of `specdb.spectra.METADATA`, each of length n.

    Raises
    ------
    InputError
        Where shapes, order, unit, ids or columns do not fit.
    """
    wavelength = _numbers("wavelength_vac_angstrom", wavelength_vac_angstrom, np.float64)
    values = np.atleast_2d(_numbers("flux", flux, None))
    if wavelength.ndim != 1 or values.ndim != 2 or values.shape[1] != wavelength.size or wavelength.size < 2:
        raise InputError(f"wavelength has shape {wavelength.shape}, flux {values.shape}; expected (n_pix,) and (n, n_pix)")
    if not (np.isfinite(wavelength).all() and (np.diff(wavelength) > 0).all()):
        raise InputError("wavelength must be finite and strictly increasing; sort it, and the flux with it")
    if wavelength[-1] < 2000:
        raise InputError(f"wavelength ends at {wavelength[-1]:g}; expected Angstrom: multiply nm by 10, micron by 10000")
    weights = None
    if ivar is not None:
        weights = np.atleast_2d(_numbers("ivar", ivar, np.float32))
        if weights.shape != values.shape:
            raise InputError(f"ivar has shape {weights.shape}, flux {values.shape}; they must be equal")
    given = {} if metadata is None else metadata
    columns = {name: given[name] for name in (given.column_names if isinstance(given, pa.Table) else given)}
    if unknown := sorted(set(columns) - set(METADATA.names)):
        raise InputError(f"metadata has unknown columns {unknown}; known are {METADATA.names}")
    for name, column in columns.items():
        if len(column) != len(values):
            raise InputError(f"metadata column {name!r} has {len(column)} entries for {len(values)} spectra")
    if ids is not None:
        numbers = np.asarray(ids)
        if numbers.shape != (len(values),) or numbers.dtype.kind not in "iu" or len(np.unique(numbers)) != len(numbers):
            raise InputError(f"ids must be {len(values)} distinct integers, one per spectrum")
        columns["spectrum_id"] = numbers.astype(np.int64)
    elif "spectrum_id" not in columns:
        columns["spectrum_id"] = content_ids(values, wavelength)
    try:
        table = metadata_table({name: _plain(column) for name, column in columns.items()})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"metadata: {error}") from error
    return Spectra(wavelength, values, weights, metadata=table)


def _plain(column: Sequence | pa.ChunkedArray) -> Sequence:
    return column.to_pylist() if isinstance(column, pa.Array | pa.ChunkedArray) else column


def _numbers(name: str, array: np.ndarray, dtype: type | None) -> np.ndarray:
    try:
        values = np.ma.asarray(array, dtype=np.float64).filled(np.nan) if np.ma.isMA(array) else np.asarray(array)
        kept = values.dtype if dtype is None and values.dtype in (np.float32, np.float64) else dtype or np.float64
        return values.astype(kept, copy=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is no array of numbers: {error}") from error
