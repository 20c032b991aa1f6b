"""The words of the `spectra` and `rejected` tables: metadata columns, quality bits, reasons for rejection."""

from __future__ import annotations

from enum import IntFlag

import pyarrow as pa

__all__ = ["BLANK", "METADATA", "REASONS", "SKY", "Quality", "metadata_table"]

#: What readers write into the column `fiber_type` for a fibre on the sky, and for one that saw nothing.
SKY, BLANK = "SKY", "BLANK"


def _column(name: str, kind: pa.DataType, description: str, unit: str = "", ucd: str = "") -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {}) | ({"ucd": ucd} if ucd else {})
    return pa.field(name, kind, metadata=metadata)


#: Columns that every modality has; a reader fills what its format knows and leaves the rest null.
METADATA = pa.schema(
    [
        _column(
            "spectrum_id", pa.int64(), "LAMOST obsid, Gaia source_id, else a hash of the content", "", "meta.id;meta.main"
        ),
        _column("survey", pa.string(), "survey that took the spectrum, e.g. LAMOST, Gaia"),
        _column("release", pa.string(), "data release as the file states it, e.g. LAMOST DR10"),
        _column("source_file", pa.string(), "file the spectrum came from; members of archives as archive::member"),
        _column("object_name", pa.string(), "designation of the object", "", "meta.id"),
        _column("ra", pa.float64(), "right ascension, ICRS", "deg", "pos.eq.ra;meta.main"),
        _column("dec", pa.float64(), "declination, ICRS", "deg", "pos.eq.dec;meta.main"),
        _column("epoch", pa.float64(), "epoch of ra and dec, Julian year", "yr", "time.epoch"),
        _column("gaia_source_id", pa.int64(), "Gaia DR3 source_id where known", "", "meta.id.cross"),
        _column("mjd", pa.float64(), "modified Julian date of the observation", "d", "time.epoch;obs"),
        _column("snr_u", pa.float32(), "signal-to-noise in u as the survey states it", "", "stat.snr"),
        _column("snr_g", pa.float32(), "signal-to-noise in g as the survey states it", "", "stat.snr"),
        _column("snr_r", pa.float32(), "signal-to-noise in r as the survey states it", "", "stat.snr"),
        _column("snr_i", pa.float32(), "signal-to-noise in i as the survey states it", "", "stat.snr"),
        _column("snr_z", pa.float32(), "signal-to-noise in z as the survey states it", "", "stat.snr"),
        _column("class", pa.string(), "pipeline class: STAR, GALAXY, QSO, Unknown", "", "src.class"),
        _column("subclass", pa.string(), "pipeline subclass, e.g. G5, A1V, dM3", "", "src.spType"),
        _column("z", pa.float64(), "redshift; velocity in km/s = z * 299792.458", "", "src.redshift"),
        _column("z_err", pa.float64(), "error of z", "", "stat.error;src.redshift"),
    ]
)


def metadata_table(columns: dict[str, object], extra: pa.Schema | None = None) -> pa.Table:
    """Build a metadata table from the columns a reader knows; the others are null.

    Parameters
    ----------
    columns : dict of column name to sequence
        All of one length; None or NaN entries are kept as null / NaN.
    extra : pyarrow.Schema, optional
        Further columns of this modality, appended after `METADATA`.

    Raises
    ------
    KeyError
        For a column that is in neither schema.
    """
    schema = pa.schema([*METADATA, *(extra or [])])
    n = len(next(iter(columns.values())))  # type: ignore[arg-type]
    unknown = set(columns) - set(schema.names)
    if unknown:
        raise KeyError(f"columns {sorted(unknown)} are not in the schema; declare them in `extra`")
    arrays = [
        pa.array(columns[f.name], f.type, from_pandas=True) if f.name in columns else pa.nulls(n, f.type) for f in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


class Quality(IntFlag):
    """Bits of the `quality` column; 0 means that nothing was touched."""

    REPAIRED = 1  #: pixels inside the spectrum without information were interpolated
    LATE_START = 2  #: the spectrum starts inside the grid; the missing blue end was filled
    EARLY_END = 4  #: the spectrum ends inside the grid; the missing red end was filled
    MANY_REPAIRED = 8  #: more than a tenth of the grid was repaired or filled
    LOW_CONTINUUM = 16  #: the continuum was zero or negative somewhere and was set to one there
    NO_ERRORS = 32  #: the input had no inverse variance
    MISSING_BP = 64  #: Gaia XP without the blue photometer
    MISSING_RP = 128  #: Gaia XP without the red photometer


#: Why something did not get in, and how it counts. `skipped`: deliberately left out. `failed`: should have worked.
REASONS: dict[str, str] = {
    "deleted": "skipped",  # the user deleted this spectrum_id and has not taken it back
    "duplicate": "skipped",  # the spectrum_id is already in the database
    "not_a_spectrum": "skipped",  # a file met while walking a folder that no reader of the survey claims
    "other_instrument": "skipped",  # a spectrum, but of another instrument
    "blank_fibre": "skipped",  # the fibre saw the sky, or nothing
    "low_snr": "skipped",
    "low_coverage": "skipped",
    "unreadable": "failed",  # missing, no permission, input/output error
    "empty_file": "failed",
    "truncated": "failed",
    "corrupt": "failed",
    "unknown_format": "failed",  # named by the user, recognised by no reader
    "missing_column": "failed",
    "bad_wavelength": "failed",  # not finite or not strictly increasing
    "bad_flux": "failed",  # no finite flux on the grid, or flat
    "no_valid_pixels": "failed",  # inverse variance zero everywhere on the grid
    "missing_flux": "failed",  # BP or RP missing where the preparation needs both
}
