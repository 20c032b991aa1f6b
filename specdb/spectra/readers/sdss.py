"""SDSS spectra of the optical spectrographs: the `spec` files of SDSS I to IV, BOSS and eBOSS, and those of SDSS-V.

A file holds one star: the table COADD with flux, loglam, ivar, masks and wdisp, then one row of facts (SPECOBJ of the first
spectrograph, SPALL of BOSS and SDSS-V, where column names are in upper case and fields and catalogids take the place of
plates and fibres), then tables that are not needed here. Wavelengths are in vacuum and heliocentric, on pixels of 1e-4 in
log10; wdisp is the standard deviation of the line spread in such pixels.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from specdb.errors import ReadError
from specdb.spectra.readers.arrays import content_ids
from specdb.spectra.readers.facts import describe_hdus, fact_fitting, fact_number, fact_text
from specdb.spectra.readers.fits_scan import first_row, header_values, table_columns
from specdb.spectra.readers.opened import FITS_SUFFIXES, OpenSource, codec_errors
from specdb.spectra.readers.registry import OtherInstrument
from specdb.spectra.schema import METADATA, SKY
from specdb.spectra.spectrum import Spectra

if TYPE_CHECKING:
    from astropy.io.fits import BinTableHDU, HDUList

__all__ = ["SDSS_COLUMNS", "SDSS_MASK_BITS", "SdssReader", "specobjid"]

_TEXT, _REAL, _DOUBLE, _INT, _LONG = pa.string(), pa.float32(), pa.float64(), pa.int32(), pa.int64()

#: Bits of the and-mask (SPPIXMASK) of pixels without information: NOPLUG, BADTRACE, BADFLAT, BADARC, FULLREJECT, NOSKY,
#: COMBINEREJ. NODATA is not among them: early coadds of BOSS set it in good pixels. Where the sky is bright (BRIGHTSKY),
#: errors are large and honest.
SDSS_MASK_BITS = sum(1 << bit for bit in (0, 1, 2, 3, 18, 22, 25))

#: column, type, unit, names in the table of facts and the header in order of preference, description
_EXTRA: tuple[tuple[str, pa.DataType, str, tuple[str, ...], str], ...] = (
    ("plate", _INT, "", ("PLATE", "PLATEID"), "plate"),
    ("fiber", _INT, "", ("FIBERID",), "fibre of the plate"),
    ("field", _INT, "", (), "field of SDSS-V"),
    ("catalogid", _LONG, "", ("CATALOGID",), "identifier of the target in SDSS-V"),
    ("sdss_id", _LONG, "", ("SDSS_ID",), "identifier of the object across SDSS-V catalogues"),
    ("specobjid", _TEXT, "", (), "specObjID of the archive as text: above plate 8191 it does not fit 63 bits"),
    ("run2d", _TEXT, "", ("RUN2D", "VERS2D"), "version of the reduction"),
    ("sub_survey", _TEXT, "", ("SURVEY",), "survey within SDSS: sdss, segue1, segue2, boss, eboss, ..."),
    ("program", _TEXT, "", ("PROGRAMNAME", "FIRSTCARTON", "PROGRAM"), "observing programme, or carton of SDSS-V"),
    ("fiber_type", _TEXT, "", (), "what the fibre was on, as the file states it; SKY for sky"),
    ("zwarning", _INT, "", ("ZWARNING",), "warning bits of the redshift, 0 = good"),
    ("snr_all", _REAL, "", ("SN_MEDIAN_ALL",), "median signal-to-noise over all good pixels as the survey states it"),
    ("gaia_id", _LONG, "", ("GAIA_ID",), "Gaia source_id as SDSS-V states it; of DR2 or DR3, depending on the target"),
    ("phot_g_mean_mag", _REAL, "mag", ("GAIA_G", "GAIA_G_MAG"), "Gaia G magnitude as SDSS-V states it"),
    ("helio_rv_kms", _REAL, "km/s", ("HELIO_RV",), "heliocentric correction that was applied"),
    ("exposure_s", _REAL, "s", ("EXPTIME",), "exposure time"),
    ("n_exposures", _INT, "", ("NEXP",), "number of exposures that were added"),
)

#: Columns that SDSS adds to `specdb.spectra.METADATA`.
SDSS_COLUMNS = pa.schema(
    [
        pa.field(name, kind, metadata={"description": what} | ({"unit": unit} if unit else {}))
        for name, kind, unit, _, what in _EXTRA
    ]
)

_COMMON = (
    ("class", _TEXT, ("CLASS",)),
    ("subclass", _TEXT, ("SUBCLASS",)),
    ("z", _DOUBLE, ("Z",)),
    ("z_err", _DOUBLE, ("Z_ERR",)),
    ("mjd", _DOUBLE, ("MJD",)),
)
_FACTS = (*_COMMON, *((name, kind, keys) for name, kind, _, keys, _ in _EXTRA if keys))
_POSITIONS = (("RACAT", "DECCAT"), ("PLUG_RA", "PLUG_DEC"), ("RA", "DEC"))
_ROW = pa.struct([*METADATA, *SDSS_COLUMNS])
_STEP = 1e-4
_ROUNDING = 2e-6  # of loglam, which is stored as float32
_LOGLAM = (3.3, 4.3)  # 2000 to 20000 Angstrom


def specobjid(plate: int, mjd: int, fiber: int, run2d: str) -> int | None:
    """Return the specObjID of the archive, 64 bits without sign; None for a reduction that has no number.

    Bits 50-63 hold the plate, 38-49 the fibre, 24-37 MJD - 50000, 10-23 run2d: a number for the first spectrograph, for BOSS
    ``vN_M_P`` as ``(N - 5) * 10000 + M * 100 + P`` (SDSS DR9 documentation of specObjID).
    """
    version = re.fullmatch(r"v(\d+)_(\d+)_(\d+)", run2d)
    if version:
        n, m, p = map(int, version.groups())
        run = (n - 5) * 10000 + m * 100 + p
    elif run2d.isdigit():
        run = int(run2d)
    else:
        return None
    fields = ((plate, 14, 50), (fiber, 12, 38), (mjd - 50000, 14, 24), (run, 14, 10))
    return sum(value << at for value, _, at in fields) if all(0 <= v < 1 << size for v, size, _ in fields) else None


class SdssReader:
    """SDSS, BOSS, eBOSS and SDSS-V `spec` files: one spectrum per file."""

    name = "sdss"
    suffixes: tuple[str, ...] = FITS_SUFFIXES
    native = True

    def identify(self, opened: OpenSource) -> str | None:
        """Return None for a `spec` file, else what it is instead."""
        if not opened.is_fits:
            return f"looked for FITS, which begins with 'SIMPLE  =', found {opened.head[:12]!r}"
        hdus = opened.hdus
        if _coadd(opened) is not None or _cut_off(hdus):
            return None
        if str(hdus[0].header.get("TELESCOP", "")).startswith("SDSS") and len(hdus[0].shape) == 2:
            return OtherInstrument(
                f"an SDSS image of shape {hdus[0].shape}, as in spSpec and spPlate files; fetch spec-PLATE-MJD-FIBER.fits"
            )
        return OtherInstrument(f"an SDSS spec file expected (a table with flux and loglam), this is {describe_hdus(hdus)}")

    def read(self, opened: OpenSource) -> Iterator[Spectra]:
        """Yield the one spectrum of the file."""
        with codec_errors("SDSS FITS"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spectra = _read(opened)
        yield spectra


def _names(opened: OpenSource, hdu: BinTableHDU) -> set[str]:
    """Names of the columns of a table in upper case; empty for an image."""
    if hdu.header.get("XTENSION") != "BINTABLE":
        return set()
    return {str(value).upper() for key, value in header_values(opened, hdu).items() if key.startswith("TTYPE")}


def _coadd(opened: OpenSource) -> int | None:
    """Number of the extension that holds the coadded spectrum."""
    return next((i for i, hdu in enumerate(opened.hdus[1:3], 1) if {"FLUX", "LOGLAM"} <= _names(opened, hdu)), None)


def _cut_off(hdus: HDUList) -> bool:
    """Nothing but the primary header of a `spec` file: the rest is missing, which `_read` reports."""
    header = hdus[0].header
    return len(hdus) == 1 and not hdus[0].shape and str(header.get("TELESCOP", "")).startswith("SDSS") and "COEFF0" in header


def _read(opened: OpenSource) -> Spectra:
    hdus = opened.hdus
    number = _coadd(opened)
    if number is None:
        if _cut_off(hdus):
            raise ReadError("truncated", "the file ends after its primary header; the table COADD is missing")
        raise ReadError("unknown_format", f"not an SDSS spec file but {describe_hdus(hdus)}")
    table = table_columns(opened, hdus[number])
    if "IVAR" not in table:
        raise ReadError("missing_column", f"the table COADD has {sorted(table)}; it lacks IVAR")
    header = {key: value for key, value in header_values(opened, hdus[0]).items() if value is not None}
    if header.get("VACUUM") is False:
        raise ReadError("bad_wavelength", "the header says VACUUM = F: wavelengths in air; convert them to vacuum first")
    if not len(table["FLUX"]):
        raise ReadError("corrupt", "the spectrum has no pixels")
    wavelength, grid = _wavelength(table["LOGLAM"])
    flux, ivar = (table[name].astype(np.float32)[None] for name in ("FLUX", "IVAR"))
    sigma = table["WDISP"] * wavelength * (np.log(10) * _STEP) if "WDISP" in table else None
    described = hdus[number + 1 : number + 2]
    facts = first_row(opened, described[0]) if described and "FLUX" not in _names(opened, described[0]) else {}
    and_mask, or_mask = (table[name].astype(np.int32)[None] if name in table else None for name in ("AND_MASK", "OR_MASK"))
    return Spectra(
        wavelength,
        flux,
        ivar,
        and_mask,
        or_mask,
        metadata=_metadata(facts, header, flux, wavelength, opened.name),
        log10_grid=grid,
        lsf_sigma=None if sigma is None else sigma.astype(np.float32)[None],
    )


def _wavelength(loglam: np.ndarray) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Wavelength in float64; from whole multiples of 1e-4 where the stored logarithms are such up to their rounding."""
    loglam = loglam.astype(np.float64)
    if not (np.isfinite(loglam).all() and _LOGLAM[0] < loglam.min() and loglam.max() < _LOGLAM[1]):
        raise ReadError(
            "bad_wavelength",
            f"loglam runs from {loglam.min():g} to {loglam.max():g}; expected log10 of Angstrom, about 3.55 to 4.02",
        )
    first = round(loglam[0] / _STEP)
    even = (first + np.arange(len(loglam))) * _STEP
    if (np.abs(loglam - even) < _ROUNDING).all():
        return 10**even, (first * _STEP, _STEP)
    return 10**loglam, None


def _metadata(
    facts: dict[str, Any], header: dict[str, Any], flux: np.ndarray, wavelength: np.ndarray, name: str
) -> pa.Table:
    row: dict[str, Any] = {"survey": "SDSS", "source_file": name, "epoch": 2000.0}
    for column, kind, keys in _FACTS:
        found = [source[key] for key in keys for source in (facts, header) if key in source]
        values = (fact_text(v) if kind == _TEXT else fact_fitting(fact_number(v), kind) for v in found)
        row[column] = next((value for value in values if value is not None), None)
    row["ra"], row["dec"] = _position(facts, header)
    if (epoch := fact_number(facts.get("COORD_EPOCH"))) and 1900 < epoch < 2100:
        row["epoch"] = epoch
    snr = facts.get("SN_MEDIAN")
    if isinstance(snr, np.ndarray) and len(snr) == 5:
        row |= {f"snr_{band}": fact_number(value) for band, value in zip("ugriz", snr.tolist(), strict=True)}
    release = fact_text(facts.get("FIRSTRELEASE"))
    row["release"] = f"SDSS {release.upper()}" if release else None
    kinds = [fact_text(facts.get(key)) for key in ("OBJTYPE", "TARGETTYPE", "SOURCETYPE")]
    row["fiber_type"] = SKY if SKY in [str(kind).upper() for kind in kinds] else next(filter(None, kinds), None)
    if row["catalogid"]:  # SDSS-V; before, FIELD is a part of the imaging run
        row["field"] = fact_fitting(fact_number(facts.get("FIELD", header.get("FIELDID"))), _INT)
        row["object_name"] = f"spec-{row['field'] or 0:06d}-{int(row['mjd'] or 0)}-{row['catalogid']}"
    elif row["plate"] and row["fiber"]:
        row["object_name"] = f"spec-{row['plate']:04d}-{int(row['mjd'] or 0)}-{row['fiber']:04d}"
    number = _archive_id(facts, row)
    row["specobjid"] = str(number) if number else None
    row["spectrum_id"] = number if number and number < 2**63 else int(content_ids(flux, wavelength)[0])
    return pa.Table.from_batches([pa.RecordBatch.from_struct_array(pa.array([row], _ROW))])


def _position(facts: dict[str, Any], header: dict[str, Any]) -> tuple[float | None, float | None]:
    """Right ascension and declination of the star; the header's RA and DEC are those of the telescope."""
    for keys in _POSITIONS:
        for source in (facts, header) if keys[0] != "RA" else (facts,):
            ra, dec = (fact_number(source.get(key)) for key in keys)
            if ra is not None and dec is not None and (ra or dec):
                return float(ra) % 360, float(dec)
    return None, None


def _archive_id(facts: dict[str, Any], row: dict[str, Any]) -> int | None:
    """The specObjID that the file states, else the one that its plate, MJD, fibre and reduction make."""
    stated = facts.get("SPECOBJID")
    if isinstance(stated, str) and stated.strip().isdigit():
        stated = int(stated)
    if isinstance(stated, int) and stated:
        return stated % 2**64
    if row["catalogid"] or not (row["plate"] and row["fiber"] and row["mjd"]):
        return None
    return specobjid(row["plate"], int(row["mjd"]), row["fiber"], row["run2d"] or "")
