"""Files as LAMOST DR10 delivers them (layout C), holding simulated spectra and saying so in every header."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from astropy.io import fits

from indexer.simulate.emulator import DLOG10
from indexer.simulate.instrument import LRS_COEFF0, LRS_PIX, LRS_WAVELENGTH
from specdb.errors import InputError

__all__ = ["BROKEN", "COLUMNS", "KEYWORDS", "encode_lamost", "write_lamost"]

COLUMNS = ("FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK", "NORMALIZATION")

#: Keywords whose value differs from file to file, with the comments of the real files.
KEYWORDS = {
    "FILENAME": "",
    "OBSID": "Unique number ID of this spectrum",
    "DATE-OBS": "The observation median UTC",
    "LMJD": "Local Modified Julian Day",
    "MJD": "Modified Julian Date",
    "PLANID": "Plan ID in use",
    "RA": "[deg] Right ascension of object",
    "DEC": "[deg] Declination of object",
    "DESIG": "Designation of the simulated target",
    "FIBERID": "Fiber ID of Object",
    "OBJNAME": "Name of object",
    "SPID": "Spectrograph ID",
    "CLASS": "Class of object",
    "SUBCLASS": "Subclass of object",
    "Z": "Redshift of object",
    "Z_ERR": "Redshift error of object",
    "SNRU": "SNR of u filter",
    "SNRG": "SNR of g filter",
    "SNRR": "SNR of r filter",
    "SNRI": "SNR of i filter",
    "SNRZ": "SNR of z filter",
}

#: Ways in which `write_lamost` damages files on request.
BROKEN = ("truncated", "empty", "nan_flux", "zero_ivar")

_BLOCK = 2880
_COMPRESSION = 1  # float32 noise hardly compresses: level 9 saves 2 % of the size and takes several times as long


@cache
def _headers() -> tuple[bytes, bytes]:
    """Return the cards that all files share (no END) and the complete header of the table."""
    shared = fits.Header()
    for key, value, comment in (
        ("SIMPLE", True, "SIMULATED SPECTRUM, NOT AN OBSERVATION"),
        ("BITPIX", 16, ""),
        ("NAXIS", 0, ""),
        ("EXTEND", True, ""),
        ("AUTHOR", "specdb simulate", "Who compiled the information"),
        ("DATA_V", "SIMULATED", "Data release version"),
        ("N_EXTEN", 2, "The amount of extension"),
        ("ORIGIN", "specdb simulate", "Organization responsible for creating this file"),
        ("DATE", "2000-01-01T00:00:00", "Fixed, so that files depend on the seed alone"),
        ("TELESCOP", "SIMULATED", "No telescope was involved"),
        ("OBJTYPE", "Star", "Object type from input catalog"),
        ("RADECSYS", "FK5", "Equatorial coordinate system"),
        ("EQUINOX", 2000.0, "Equinox in years"),
        ("HELIO", True, "Heliocentric correction"),
        ("HELIO_RV", 0.0, "[km/s] Heliocentric correction"),
        ("VACUUM", True, "Wavelengths are in vacuum"),
        ("NWORDER", 2, "Number of linear-log10 coefficients"),
        ("WFITTYPE", "LOG-LINEAR", "Linear-log10 dispersion"),
        ("COEFF0", LRS_COEFF0, "Central wavelength (log10) of first pixel"),
        ("COEFF1", DLOG10, "Log10 dispersion per pixel"),
        ("CRVAL1", LRS_COEFF0, "Central wavelength (log10) of first pixel"),
        ("CD1_1", DLOG10, "Log10 dispersion per pixel"),
        ("CRPIX1", 1, "Starting pixel (1-indexed)"),
        ("CTYPE1", "LINEAR", ""),
        ("DC-FLAG", 1, "Log-linear flag"),
        ("VERSPIPE", "simulate", "Version of Pipeline"),
    ):
        shared[key] = (value, comment)
    row = np.zeros(1, dtype=[(name, ">f4", (LRS_PIX,)) for name in COLUMNS])
    table = fits.BinTableHDU(row, name="COADD").header
    return shared.tostring(endcard=False, padding=False).encode("ascii"), table.tostring().encode("ascii")


def _padded(data: bytes, filler: bytes) -> bytes:
    return data + filler * (-len(data) % _BLOCK)


def encode_lamost(keywords: Mapping[str, object], columns: Mapping[str, np.ndarray]) -> bytes:
    """Return one FITS file of layout C: an empty primary HDU with all keywords and a table of one row named COADD.

    Parameters
    ----------
    keywords : mapping
        A value for each of `KEYWORDS`.
    columns : mapping
        FLUX, IVAR, ANDMASK, ORMASK, NORMALIZATION, each (3909,); the wavelength is `LRS_WAVELENGTH`.

    Raises
    ------
    InputError
        When a keyword or column is missing or a column has another length.
    """
    wanted = set(KEYWORDS) | set(COLUMNS) - {"WAVELENGTH"}
    missing = sorted(wanted - set(keywords) - set(columns))
    if missing:
        raise InputError(
            f"a LAMOST file needs {', '.join(missing)} too; see indexer.simulate.lrs_files.KEYWORDS and COLUMNS"
        )
    shapes = {name: np.shape(a) for name, a in columns.items() if np.shape(a) != (LRS_PIX,)}
    if shapes:
        raise InputError(f"columns of a LAMOST file have {LRS_PIX} pixels; found {shapes}")
    shared, table = _headers()
    cards = "".join(fits.Card(key, keywords[key], comment).image for key, comment in KEYWORDS.items())
    primary = _padded(shared + cards.encode("ascii") + b"END".ljust(80), b" ")
    pixels = np.stack([LRS_WAVELENGTH if name == "WAVELENGTH" else columns[name] for name in COLUMNS]).astype(">f4")
    return primary + table + _padded(pixels.tobytes(), b"\0")


def write_lamost(
    path: Path, keywords: Mapping[str, object], columns: Mapping[str, np.ndarray], damage: str | None = None
) -> None:
    """Write one `.fits.gz` file (see `encode_lamost`); it is either wholly there or not there at all.

    Parameters
    ----------
    path : Path
        In an existing folder; an older file of that name is replaced.
    keywords, columns
        See `encode_lamost`.
    damage : str, optional
        Break the file in one of the ways `BROKEN`, to see how it is rejected.

    Raises
    ------
    InputError
        As `encode_lamost`, and for an unknown kind of damage.
    """
    if damage is not None and damage not in BROKEN:
        raise InputError(f"damage {damage!r} is unknown; a file can be broken by: {', '.join(BROKEN)}")
    replaced = {"nan_flux": {"FLUX": np.full(LRS_PIX, np.nan)}, "zero_ivar": {"IVAR": np.zeros(LRS_PIX)}}
    fits_file = encode_lamost(keywords, {**columns, **replaced.get(damage or "", {})})
    data = gzip.compress(fits_file, _COMPRESSION, mtime=0)
    data = {"empty": b"", "truncated": data[: len(data) // 3]}.get(damage or "", data)
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_bytes(data)
    temporary.replace(path)
