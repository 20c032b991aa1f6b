"""Readers of Gaia DR3 XP spectra: coefficients (`gaia_xp_continuous`) and samples (`gaia_xp_sampled`).

Both take the archive's products in every container of `gaia_xp_tables`, from one source to the bulk files of the download
site, and the layouts in which such data are commonly passed on: coefficients as vectors, as ``bp_coeff_0 ...`` or as one
vector of 110; samples as vectors, as one column per source, or as one row per wavelength. Fluxes keep the unit of the file,
W m-2 nm-1 in the archive. Inverse variances are float64: those of faint sources overflow float32.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.errors import ReadError
from specdb.spectra.readers.arrays import content_ids
from specdb.spectra.readers.gaia_xp_tables import TableFile, as_lists, matrix, open_table
from specdb.spectra.readers.opened import OpenSource
from specdb.spectra.readers.registry import OtherInstrument
from specdb.spectra.schema import metadata_table
from specdb.spectra.spectrum import Spectra
from specdb.spectra.xp_sampling import N_BASES, N_CORRELATIONS, XpArm, load_xp_sampling

__all__ = ["XP_COLUMNS", "GaiaXpContinuous", "GaiaXpSampled", "source_id_position"]

_MAY_BE_ZIPPED = (".csv", ".ecsv", ".fits", ".fit", ".xml", ".vot", ".votable")
SUFFIXES = (*_MAY_BE_ZIPPED, *(f"{ending}.gz" for ending in _MAY_BE_ZIPPED), ".parquet", ".h5", ".hdf5", ".npz")


def _column(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    return pa.field(name, kind, metadata={"description": description} | ({"unit": unit} if unit else {}))


_EXTRA_NUMBERS = (
    _column("bp_n_relevant_bases", pa.int16(), "coefficients of BP that the archive recommends to keep"),
    _column("rp_n_relevant_bases", pa.int16(), "coefficients of RP that the archive recommends to keep"),
    _column("bp_n_transits", pa.int16(), "BP transits that contributed"),
    _column("rp_n_transits", pa.int16(), "RP transits that contributed"),
    _column("bp_n_measurements", pa.int32(), "measurements that the BP coefficients were fitted to"),
    _column("rp_n_measurements", pa.int32(), "measurements that the RP coefficients were fitted to"),
    _column("phot_g_mean_mag", pa.float32(), "mean G magnitude", "mag"),
    _column("bp_rp", pa.float32(), "colour BP - RP", "mag"),
)

#: Metadata columns that Gaia XP adds to `specdb.spectra.METADATA`; null where a file lacks them.
XP_COLUMNS = pa.schema(
    [
        _column(
            "position_from_source_id",
            pa.bool_(),
            "ra and dec are the centre of the HEALPix pixel that source_id names, good to about 30 arcsec",
        ),
        *_EXTRA_NUMBERS,
    ]
)

_ROW_COLUMNS = {"source_id", "ra", "dec", "object_name", "star_name", *(column.name for column in _EXTRA_NUMBERS)}
_COEFFICIENTS = re.compile(r"coefficients|[br]p_coefficient(s|_errors|_correlations)|(e_)?[br]p_coeff_\d+")
_FLUX = ("flux", "sampled_flux", "gaia_spectrum", "flux_norm")
_FLUX_ERROR = ("flux_error", "sampled_flux_error")
_WAVELENGTH = ("wavelength", "wavelength_nm")
_ONE_COLUMN_PER_SOURCE = re.compile(r"flux_(\d+)")
_NAMED_AFTER_SOURCE = re.compile(r"gaia[ _+-]*e?dr3[ _+-]*(\d+)", re.IGNORECASE)
#: Samples belong to XP if they lie in the range for which the instrument is calibrated.
_XP_RANGE_NM = (325.0, 1055.0)


def source_id_position(source_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the centre of the HEALPix pixel (level 12, nested, ICRS, epoch 2016.0) that a Gaia source_id names.

    The pixel number is ``source_id // 2**35`` (Gaia DR3 documentation, section 20.1.1). Pixels are 51 arcsec wide.

    Parameters
    ----------
    source_id : ndarray (n,), int64

    Returns
    -------
    ra, dec : ndarray (n,), float64
        Degrees; NaN for numbers that name no pixel.
    """
    from astropy_healpix import healpix_to_lonlat

    pixel = np.asarray(source_id, np.int64) >> 35
    valid = (pixel >= 0) & (pixel < 12 * 4**12)
    ra, dec = healpix_to_lonlat(np.where(valid, pixel, 0), nside=4096, order="nested")
    return np.where(valid, ra.deg, np.nan), np.where(valid, dec.deg, np.nan)


class GaiaXpContinuous:
    """Gaia XP coefficients, turned into 343 samples from 336 to 1020 nm."""

    name = "gaia_xp_continuous"
    suffixes = SUFFIXES
    native = True

    def identify(self, opened: OpenSource) -> str | None:
        """Claim tables with coefficients of both photometers."""
        table = open_table(opened)
        if any(_COEFFICIENTS.fullmatch(name) for name in table.names):
            return None
        return _decline(opened, table, "bp_coefficients and rp_coefficients, bp_coeff_0 ..., or coefficients (110)")

    def read(self, opened: OpenSource) -> Iterator[Spectra]:
        """Yield the sources of a table in batches."""
        table = open_table(opened)
        _require(table, "source_id")
        wanted = {name for name in table.names if name in _ROW_COLUMNS or _COEFFICIENTS.fullmatch(name)}
        sampling = load_xp_sampling()
        for rows in _non_empty(table.batches(wanted.__contains__)):
            bp, rp = _arm(rows, "bp"), _arm(rows, "rp")
            samples = Spectra(sampling.wavelength_nm * 10, sampling.flux(bp, rp), sampling.ivar(bp, rp))
            yield _with_metadata(samples, rows, opened.name)


class GaiaXpSampled:
    """Gaia XP spectra that are already sampled, on the grid of the file."""

    name = "gaia_xp_sampled"
    suffixes = SUFFIXES
    native = True

    def identify(self, opened: OpenSource) -> str | None:
        """Claim tables of sources and fluxes on the archive's grid, or with wavelengths in nm within the range of XP."""
        table = open_table(opened)
        looked_for = "source_id or a file name with 'Gaia DR3 <source_id>', flux, and 343 samples or a wavelength in nm"
        has_flux = any(name in _FLUX or _ONE_COLUMN_PER_SOURCE.fullmatch(name) for name in table.names)
        has_grid = any(name in _WAVELENGTH for name in table.names)
        if not (has_flux and ("source_id" in table.names or has_grid)):
            return _decline(opened, table, looked_for)
        try:
            first = next(self.read(opened))
        except ReadError as damage:
            archive_product = {"source_id", "flux", "flux_error"} <= set(table.names)
            return None if archive_product else f"{damage.detail}; it looked for {looked_for}"
        low, high = np.nanmin(first.wavelength) / 10, np.nanmax(first.wavelength) / 10
        if _XP_RANGE_NM[0] <= low and high <= _XP_RANGE_NM[1]:
            return None
        return OtherInstrument(f"wavelengths run from {low:g} to {high:g}; XP samples lie within {_XP_RANGE_NM} nm")

    def read(self, opened: OpenSource) -> Iterator[Spectra]:
        """Yield the sources of a table in batches that share a wavelength grid."""
        table = open_table(opened)
        known = {*_ROW_COLUMNS, *_FLUX, *_FLUX_ERROR, *_WAVELENGTH, "flux_scale"}
        wanted = {name for name in table.names if name in known or _ONE_COLUMN_PER_SOURCE.fullmatch(name)}
        for rows in _non_empty(table.batches(wanted.__contains__)):
            yield from _sampled(_one_row_per_source(rows, opened), opened.name)


def _decline(opened: OpenSource, table: TableFile, looked_for: str) -> str:
    """Say what was looked for and what was found."""
    if table.container == "FITS":
        telescopes = [str(hdu.header.get("TELESCOP", "")).strip() for hdu in opened.hdus]
        telescope = next(filter(None, telescopes), "")
        if telescope and "gaia" not in telescope.lower():
            return OtherInstrument(f"the FITS header says telescope {telescope}")
    found = ", ".join(table.names[:8]) or "no table"
    return f"looked for {looked_for}; the {table.container} file has {found}"


def _require(table: TableFile, name: str) -> None:
    if name not in table.names:
        raise ReadError("missing_column", f"there is no column {name}; the file has {', '.join(table.names[:8])}")


def _non_empty(batches: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Pass batches on; a table without rows is an error."""
    any_rows = False
    for rows in batches:
        if rows.num_rows:
            any_rows = True
            yield rows
    if not any_rows:
        raise ReadError("empty_file", "the table has no rows")


def _first(rows: pa.Table, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in rows.column_names), None)


def _arm(rows: pa.Table, arm: str) -> XpArm:
    """Collect the coefficients of one photometer from whichever layout the table has."""
    names = set(rows.column_names)

    def vectors(vector: str, scalar: str, width: int = N_BASES) -> np.ndarray | None:
        if vector in names:
            return matrix(rows[vector], width, vector)
        parts = [f"{scalar}_{i}" for i in range(width)]
        if scalar and names.issuperset(parts):
            return np.stack([rows[part].to_numpy().astype(np.float64) for part in parts], axis=1)
        return None

    coefficients = vectors(f"{arm}_coefficients", f"{arm}_coeff")
    if coefficients is None and "coefficients" in names:
        both = matrix(rows["coefficients"], 2 * N_BASES, "coefficients")
        coefficients = both[:, :N_BASES] if arm == "bp" else both[:, N_BASES:]
    if coefficients is None:
        raise ReadError("missing_column", f"there is no complete set of {arm} coefficients: {arm}_coefficients (55)")
    errors = vectors(f"{arm}_coefficient_errors", f"e_{arm}_coeff")
    correlations = vectors(f"{arm}_coefficient_correlations", "", N_CORRELATIONS)
    return XpArm(coefficients, errors, correlations)


def _one_row_per_source(rows: pa.Table, opened: OpenSource) -> pa.Table:
    """Bring tables with one column per source, or one row per wavelength, to one row per source."""
    sources = [name for name in rows.column_names if _ONE_COLUMN_PER_SOURCE.fullmatch(name)]
    grid = _first(rows, _WAVELENGTH)
    if sources and grid:
        n = len(sources)
        columns = {
            "source_id": pa.array([int(name.removeprefix("flux_")) for name in sources]),
            "flux": pa.array([rows[name].to_numpy() for name in sources]),
            grid: pa.array([_numbers(rows[grid])] * n),
        }
        return pa.table(columns)
    flux = _first(rows, _FLUX)
    if flux is None:
        raise ReadError("missing_column", f"there is no flux; looked for {', '.join(_FLUX)}")
    first = next((value.as_py() for value in rows[flux] if value.is_valid), None)
    long_form = isinstance(first, float) or (isinstance(first, str) and not first.lstrip().startswith(("(", "[")))
    if not (grid and long_form):
        return rows
    if "source_id" not in rows.column_names:
        match = _NAMED_AFTER_SOURCE.search(opened.source.member or opened.source.path.name)
        if match is None:
            raise ReadError("missing_column", "one spectrum without source_id, neither as a column nor in the file name")
        rows = rows.append_column("source_id", pa.array([int(match[1])] * rows.num_rows))
    ids = _source_ids(rows)
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    offsets = pa.array(np.append(starts, len(ids)), pa.int32())
    vectors = {name for name in (grid, flux, _first(rows, _FLUX_ERROR)) if name}
    return pa.table(
        {
            name: pa.ListArray.from_arrays(offsets, pa.array(_numbers(rows[name])))
            if name in vectors
            else rows[name].take(pa.array(starts))
            for name in rows.column_names
        }
    )


def _sampled(rows: pa.Table, source_file: str) -> Iterator[Spectra]:
    """Yield runs of rows that share a wavelength grid."""
    flux_name, error_name, grid_name = (_first(rows, names) for names in (_FLUX, _FLUX_ERROR, _WAVELENGTH))
    if flux_name is None:
        raise ReadError("missing_column", f"there is no flux; looked for {', '.join(_FLUX)}")
    grids = as_lists(rows[grid_name], grid_name) if grid_name else None
    for run in [slice(0, rows.num_rows)] if grids is None else _equal_runs(grids):
        part = rows.slice(run.start, run.stop - run.start)
        if grids is None:
            wavelength = load_xp_sampling().wavelength_nm
        else:
            wavelength = np.asarray(grids[run.start].values.to_numpy(zero_copy_only=False), np.float64)
        flux = matrix(part[flux_name], len(wavelength), flux_name)
        if flux_name == "flux_norm" and "flux_scale" in part.column_names:
            flux = flux * part["flux_scale"].to_numpy()[:, None]
        ivar = None
        if error_name:
            error = matrix(part[error_name], len(wavelength), error_name)
            ivar = np.divide(1.0, error**2, out=np.zeros_like(error), where=np.isfinite(flux) & (error > 0))
        yield _with_metadata(Spectra(wavelength * 10, flux, ivar), part, source_file)


def _equal_runs(grids: pa.Array) -> list[slice]:
    """Cut rows into runs of equal wavelength vectors; most files have a single one."""
    starts = [0]
    current = None
    for row, grid in enumerate(grids):
        if not grid.is_valid or not len(grid.values):
            raise ReadError("bad_wavelength", f"row {row} of its batch has no wavelengths")
        if current is not None and not grid.values.equals(current):
            starts.append(row)
        current = grid.values
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], len(grids)], strict=True)]


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    try:
        return column.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise ReadError("corrupt", f"a number was expected: {error}") from error


def _source_ids(rows: pa.Table) -> np.ndarray:
    """Return source_id as int64 (n,); refuses what cannot hold 19 digits."""
    column = rows["source_id"]
    if pa.types.is_floating(column.type):
        raise ReadError("corrupt", "source_id is stored as floating point, which cannot hold its 19 digits; store integers")
    try:
        ids = column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        raise ReadError("corrupt", f"source_id is not an integer: {error}") from error
    if ids.null_count:
        raise ReadError("corrupt", f"source_id is missing in {ids.null_count} of {len(ids)} rows")
    return ids.to_numpy()


def _with_metadata(samples: Spectra, rows: pa.Table, source_file: str) -> Spectra:
    """Add the metadata; without source_id the id is made from the content and the position stays unknown."""
    n = rows.num_rows
    names = set(rows.column_names)

    def numbers(name: str) -> np.ndarray:
        return _numbers(rows[name]) if name in names else np.full(n, np.nan)

    ra, dec = numbers("ra"), numbers("dec")
    known = np.isfinite(ra) & np.isfinite(dec)
    if "source_id" in names:
        ids = _source_ids(rows)
        coarse_ra, coarse_dec = source_id_position(ids)
        identity = {"spectrum_id": ids, "gaia_source_id": ids}
        titles = pc.binary_join_element_wise("Gaia DR3", pa.array(ids).cast(pa.string()), " ").to_pylist()
    else:
        coarse_ra = coarse_dec = np.full(n, np.nan)
        identity = {"spectrum_id": content_ids(samples.flux, samples.wavelength)}
        titles = [None] * n
    if title := _first(rows, ("object_name", "star_name")):
        titles = [own or default for own, default in zip(rows[title].to_pylist(), titles, strict=True)]
    columns = identity | {
        "survey": ["Gaia"] * n,
        "release": ["Gaia DR3"] * n,
        "source_file": [source_file] * n,
        "object_name": titles,
        "ra": np.where(known, ra, coarse_ra),
        "dec": np.where(known, dec, coarse_dec),
        "epoch": np.full(n, 2016.0),
        "position_from_source_id": ~known & np.isfinite(coarse_ra),
    }
    columns |= {c.name: numbers(c.name) for c in _EXTRA_NUMBERS if c.name in names}
    return replace(samples, metadata=metadata_table(columns, XP_COLUMNS))
