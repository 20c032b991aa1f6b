"""LAMOST low-resolution spectra in the three layouts of their FITS files, told apart by content.

A (DR1): primary image (5, n_pix) with rows flux, inverse variance, continuum-normalised flux, and-mask, or-mask; no OBSID.
B (DR2 to DR8): the same with the wavelength in the third row.
C (DR9 on): binary table COADD with columns FLUX, IVAR, WAVELENGTH, ANDMASK, ORMASK; the keywords are in the empty primary.

Wavelengths are in vacuum and heliocentric in all of them; flux is calibrated only relatively.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from specdb.errors import ReadError
from specdb.spectra.readers.arrays import content_ids
from specdb.spectra.readers.facts import describe_hdus, fact_fitting, fact_number, fact_text
from specdb.spectra.readers.fits_scan import header_values, table_columns
from specdb.spectra.readers.opened import FITS_SUFFIXES, OpenSource, codec_errors
from specdb.spectra.readers.registry import OtherInstrument
from specdb.spectra.schema import METADATA
from specdb.spectra.spectrum import Spectra

if TYPE_CHECKING:
    from astropy.io.fits import ImageHDU

__all__ = ["LAMOST_COLUMNS", "LamostReader"]

_TEXT, _REAL, _DOUBLE, _SMALL, _INT = pa.string(), pa.float32(), pa.float64(), pa.int16(), pa.int32()

#: column, type, unit, keywords in order of preference, description
_EXTRA: tuple[tuple[str, pa.DataType, str, tuple[str, ...], str], ...] = (
    ("plan_id", _TEXT, "", ("PLANID",), "observation plan"),
    ("spectrograph", _SMALL, "", ("SPID",), "spectrograph, 1 to 16"),
    ("fiber", _SMALL, "", ("FIBERID",), "fibre of the spectrograph, 1 to 250"),
    ("lmjd", _INT, "d", ("LMJD",), "local modified Julian day of the night"),
    ("obs_date", _TEXT, "", ("DATE-OBS",), "median UTC of the observation as the file states it"),
    ("input_name", _TEXT, "", ("OBJNAME",), "name of the object in the input catalogue"),
    ("input_type", _TEXT, "", ("OBJTYPE",), "type of the object in the input catalogue"),
    ("input_catalogue", _TEXT, "", ("TSOURCE", "OBJSOURC"), "who proposed the target"),
    ("target_catalogue", _TEXT, "", ("TFROM", "T_FROM"), "catalogue the target was taken from"),
    ("target_info", _TEXT, "", ("TCOMMENT", "T_INFO"), "the target's name or a remark in that catalogue"),
    ("fiber_type", _TEXT, "", ("FIB_TYPE", "FIBERTYP"), "Obj, F-Std (flux standard), Sky, ..."),
    ("fiber_mask", _INT, "", ("FIB_MASK", "FIBERMAS"), "warning bits of the fibre, 0 = good"),
    ("ra_obs", _DOUBLE, "deg", ("RA_OBS", "OBS_RA"), "right ascension the fibre was put on"),
    ("dec_obs", _DOUBLE, "deg", ("DEC_OBS", "OBS_DEC"), "declination the fibre was put on"),
    ("offset_arcsec", _REAL, "arcsec", ("OFFSET_V",), "deliberate offset of the fibre from the object"),
    ("mag_type", _TEXT, "", ("MAGTYPE",), "bands of the input magnitudes as the file states them"),
    *((f"mag_{b}", _REAL, "mag", (), f"input magnitude in {b}, system of the input catalogue") for b in "ugrizyjhk"),
    *((f"mag_ps_{b}", _REAL, "mag", (f"MAG_PS_{b.upper()}",), f"Pan-STARRS magnitude in {b}") for b in "grizy"),
    ("pipeline", _TEXT, "", ("VERSPIPE",), "version of the pipeline"),
    ("helio_rv_kms", _REAL, "km/s", ("HELIO_RV",), "heliocentric correction that was applied"),
    ("exposure_s", _REAL, "s", ("EXPTIME",), "exposure time"),
    ("n_exposures", _SMALL, "", ("NEXP",), "number of exposures"),
    ("seeing_arcsec", _REAL, "arcsec", ("SEEING",), "seeing during the exposure"),
    ("z_source", _TEXT, "", ("ZFLAG", "Z_FROM"), "what the redshift comes from: LASP, PIPELINE, ..."),
)

#: Columns that LAMOST adds to `specdb.spectra.METADATA`.
LAMOST_COLUMNS = pa.schema(
    [
        pa.field(name, kind, metadata={"description": what} | ({"unit": unit} if unit else {}))
        for name, kind, unit, _, what in _EXTRA
    ]
)

_COMMON = (
    ("object_name", _TEXT, ("DESIG",)),
    ("ra", _DOUBLE, ("RA",)),
    ("dec", _DOUBLE, ("DEC",)),
    ("class", _TEXT, ("CLASS",)),
    ("subclass", _TEXT, ("SUBCLASS",)),
    ("z", _DOUBLE, ("Z",)),
    ("z_err", _DOUBLE, ("Z_ERR",)),
    ("release", _TEXT, ("DATA_V",)),
)
_FACTS = (*_COMMON, *((name, kind, keys) for name, kind, _, keys, _ in _EXTRA if keys))
_SNR = re.compile(r"S_?N_?R?_?([UGRIZ])")
_ROW = pa.struct([*METADATA, *LAMOST_COLUMNS])

_FAINTEST, _BRIGHTEST = 90.0, -90.0  # magnitudes beyond are 99 and -999: not measured

#: Files of DR1 do not name their release, but this version of the pipeline was used for DR1 only.
_RELEASE_OF_PIPELINE = {"v2.6.4": "LAMOST DR1"}

#: Largest relative deviation of a stored float32 wavelength, itself computed in float32, from the keywords.
_ROUNDING = 1e-6


class LamostReader:
    """LAMOST LRS, all releases: one spectrum per file."""

    name = "lamost"
    suffixes: tuple[str, ...] = FITS_SUFFIXES
    native = True

    def identify(self, opened: OpenSource) -> str | None:
        """Return None for a LAMOST LRS file, else what it is instead."""
        if not opened.is_fits:
            return f"looked for FITS, which begins with 'SIMPLE  =', found {opened.head[:12]!r}"
        if _layout(opened):
            return None
        return OtherInstrument(f"a LAMOST LRS spectrum expected, this is {describe_hdus(opened.hdus)}")

    def read(self, opened: OpenSource) -> Iterator[Spectra]:
        """Yield the one spectrum of the file."""
        with codec_errors("LAMOST FITS"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spectra = _read(opened)
        yield spectra


def _layout(opened: OpenSource) -> str:
    """A, B, C, or empty for something else."""
    hdus = opened.hdus
    first = hdus[0]
    if len(first.shape) == 2 and first.shape[0] == 5:
        rows = str(first.header.get("EXTEN0", "")).lower()
        if not rows and "LAMOST" not in f"{first.header.get('TELESCOP')} {first.header.get('ORIGIN')}":
            return ""
        if rows:
            return "B" if "wavelength" in rows else "A" if "flux" in rows else ""
        third = np.asarray(first.data[2], dtype=np.float64)
        return "B" if third.size and third[0] > 2000 and (np.diff(third) > 0).all() else "A"
    if len(hdus) > 1 and hdus[1].name == "COADD":
        names = {str(value).upper() for key, value in header_values(opened, hdus[1]).items() if key.startswith("TTYPE")}
        return "C" if "WAVELENGTH" in names else ""
    # Nothing but LAMOST's keywords: the extension has been cut off, which `_read` reports.
    return "C" if len(hdus) == 1 and not first.shape and first.header.get("TELESCOP") == "LAMOST" else ""


def _read(opened: OpenSource) -> Spectra:
    hdus = opened.hdus
    layout = _layout(opened)
    header = _header_facts(opened, hdus[0])
    if layout in ("A", "B"):
        image = hdus[0].data
        flux, ivar, third, and_mask, or_mask = image
        stored = third if layout == "B" else None
    elif layout == "C":
        if len(hdus) < 2:
            raise ReadError("truncated", "the file ends after its primary header; the table COADD is missing")
        table = table_columns(opened, hdus[1])
        if missing := {"FLUX", "IVAR", "WAVELENGTH"} - set(table):
            raise ReadError("missing_column", f"the table COADD has {sorted(table)}; it lacks {sorted(missing)}")
        flux, ivar, stored = table["FLUX"], table["IVAR"], table["WAVELENGTH"]
        zero = np.zeros(flux.shape, np.float32)
        and_mask, or_mask = table.get("ANDMASK", zero), table.get("ORMASK", zero)
    else:
        raise ReadError("unknown_format", f"not a LAMOST LRS file but {describe_hdus(hdus)}")
    if flux.size == 0:
        raise ReadError("corrupt", "the spectrum has no pixels")
    wavelength, grid = _wavelength(header, stored, flux.size)
    values = _native(flux)[None]
    return Spectra(
        wavelength=wavelength,
        flux=values,
        ivar=_native(ivar).astype(np.float32, copy=False)[None],
        and_mask=_bits(and_mask)[None],
        or_mask=_bits(or_mask)[None],
        metadata=_metadata(header, values, wavelength, opened.name),
        log10_grid=grid,
    )


def _header_facts(opened: OpenSource, hdu: ImageHDU) -> dict[str, Any]:
    """Keywords of the primary header, with S/N under uniform names."""
    facts = {key: value for key, value in header_values(opened, hdu).items() if value is not None}
    for key in [key for key in facts if key.startswith("S")]:
        if snr := _SNR.fullmatch(key):
            facts.setdefault(f"snr_{snr[1].lower()}", facts[key])
    return facts


@lru_cache(maxsize=64)
def _log_grid(coeff0: float, coeff1: float, n: int) -> np.ndarray:
    wavelength = 10 ** (coeff0 + coeff1 * np.arange(n))
    wavelength.setflags(write=False)
    return wavelength


def _wavelength(header: dict[str, Any], stored: np.ndarray | None, n: int) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Wavelength in float64 from the keywords where the stored float32 one agrees with them, else the stored one."""
    coeff0 = fact_number(header.get("COEFF0", header.get("CRVAL1")))
    coeff1 = fact_number(header.get("COEFF1", header.get("CD1_1")))
    if coeff0 is not None and coeff1 is not None and 2 < coeff0 < 6 and 0 < coeff1 < 0.1:
        grid = _log_grid(coeff0, coeff1, n)
        if stored is None or (np.abs(stored - grid) <= _ROUNDING * grid).all():
            return grid, (coeff0, coeff1)
    if stored is None:
        raise ReadError(
            "missing_column", f"no wavelength: COEFF0 = {coeff0} and COEFF1 = {coeff1}; expected about 3.57, 0.0001"
        )
    return stored.astype(np.float64), None


def _native(array: np.ndarray) -> np.ndarray:
    """In the byte order of the machine, float32 unless the file has float64."""
    return array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32)


def _bits(array: np.ndarray) -> np.ndarray:
    """Mask bits that LAMOST stores as float; what is no number has all bits set."""
    values = np.asarray(array, dtype=np.float64)
    return np.where(np.abs(values) < 2**31, values, -1).astype(np.int32)


def _metadata(header: dict[str, Any], flux: np.ndarray, wavelength: np.ndarray, source_file: str) -> pa.Table:
    row: dict[str, Any] = {"survey": "LAMOST", "source_file": source_file, "epoch": 2000.0}
    for column, kind, keys in _FACTS:
        value = next((header[key] for key in keys if key in header), None)
        row[column] = fact_text(value) if kind == _TEXT else fact_fitting(fact_number(value), kind)
    row |= {f"snr_{band}": fact_number(header.get(f"snr_{band}")) for band in "ugriz"}
    row |= _magnitudes(header)
    if row["release"] is None:
        row["release"] = _RELEASE_OF_PIPELINE.get(row["pipeline"])
    row["mjd"] = _mjd(row["obs_date"]) or fact_number(header.get("MJD"))
    row["gaia_source_id"] = _gaia_dr3(row)
    obsid = fact_fitting(fact_number(header.get("OBSID")), pa.int64())
    row["spectrum_id"] = obsid if obsid and obsid > 0 else int(content_ids(flux, wavelength)[0])
    # Three times as fast as Table.from_pylist, which converts column by column.
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(pa.array([row], _ROW))])


def _magnitudes(header: dict[str, Any]) -> dict[str, float | None]:
    """Give MAG1..MAG7 the names that MAGTYPE lists; only where it is a plain list of known bands."""
    bands = str(header.get("MAGTYPE") or "").strip().removeprefix("MOD")
    plain = len(set(bands)) == len(bands) and set(bands) <= set("ugrizyjhk")
    found = {f"mag_{band}": header.get(f"MAG{i}") for i, band in enumerate(bands, 1)} if plain else {}
    found |= {f"mag_ps_{band}": header.get(f"MAG_PS_{band.upper()}") for band in "grizy"}
    numbers = {name: fact_number(value) for name, value in found.items()}
    return {name: v if v is not None and _BRIGHTEST < v < _FAINTEST else None for name, v in numbers.items()}


def _mjd(text: str | None) -> float | None:
    """Modified Julian date of DATE-OBS, which several releases write in ways that ISO 8601 does not allow."""
    fields = re.fullmatch(r"(\d{4})-(\d\d?)-(\d\d?)[T ](\d\d?):(\d\d?):(\d\d?(?:\.\d*)?)", text or "")
    if not fields:
        return None
    year, month, day, hour, minute = (int(f) for f in fields.groups()[:5])
    try:
        days = date(year, month, day).toordinal() - date(1858, 11, 17).toordinal()
    except ValueError:
        return None
    return days + (hour * 3600 + minute * 60 + float(fields[6])) / 86400


def _gaia_dr3(row: dict[str, Any]) -> int | None:
    """The Gaia id, only where the header says that it is one of (E)DR3: ids of DR2 may mean another star."""
    origin = f"{row['target_catalogue']} {row['input_catalogue']}".upper()
    name = row["input_name"] or ""
    said = re.search(r"GAIA[ _-]*E?DR3", origin)
    return int(name) if said and name.isdigit() and len(name) < 20 and int(name) < 2**63 else None
