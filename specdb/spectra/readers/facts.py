"""What a FITS file says about itself: values of keywords and columns as facts or nulls, and what the whole seems to be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["describe_hdus", "fact_fitting", "fact_number", "fact_text"]

#: What the pipelines write for "unknown".
_UNKNOWN = (-9999.0, -999.0)
_UNKNOWN_TEXT = ("", "-", ".", "NULL", "null")


def fact_text(value: object) -> str | None:
    """Return the text of a value without blanks around it; None for what stands for unknown."""
    text = str(value).strip() if isinstance(value, str | int | float | np.integer) else ""
    return None if text in _UNKNOWN_TEXT else text


def fact_number(value: object) -> float | int | None:
    """Return a finite number that is not a sentinel, else None; also from text, as some releases quote numbers."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, np.generic):
        value = value.item()
    known = isinstance(value, int | float) and np.isfinite(value) and value not in _UNKNOWN
    return value if known else None  # type: ignore[return-value]


def fact_fitting(value: float | None, kind: pa.DataType) -> float | int | None:
    """Return whole numbers for integer columns, None where they do not fit."""
    if value is None or not pa.types.is_integer(kind):
        return value
    return int(value) if abs(value) < 2 ** (kind.bit_width - 1) else None


def describe_hdus(hdus: HDUList) -> str:
    """Say what a FITS file seems to be."""
    names = {hdu.name for hdu in hdus}
    columns = [name.lower() for hdu in hdus[1:2] for name in getattr(getattr(hdu, "columns", None), "names", ())]
    telescope = str(hdus[0].header.get("TELESCOP", "")).strip()
    if names & {"COADD_B", "COADD_R"}:
        return "a LAMOST medium-resolution file (COADD_B, COADD_R)"
    if names & {"B_WAVELENGTH", "R_WAVELENGTH", "Z_WAVELENGTH", "BRZ_WAVELENGTH"}:
        return "a DESI file of spectra (B_, R_, Z_WAVELENGTH)"
    if "loglam" in columns or telescope.startswith("SDSS"):
        return "an SDSS spectrum (COADD with loglam)" if "loglam" in columns else f"a file of {telescope}"
    if any(name.startswith("bp_coeff") for name in columns) or {"source_id", "flux"} <= set(columns):
        return "a table of Gaia XP spectra"
    of = f" of {telescope}" if telescope else ""
    if columns:
        return f"a table{of} with columns {', '.join(columns[:5])}{', ...' if len(columns) > 5 else ''}"
    shape = next((hdu.shape for hdu in hdus if getattr(hdu, "shape", ())), ())
    return f"an image{of} of shape {shape}" if shape else f"a FITS file{of} without data"
