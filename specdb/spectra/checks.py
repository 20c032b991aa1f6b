"""What preparations share: what is wrong with a wavelength array, and medians that pass over some values."""

from __future__ import annotations

import numpy as np

__all__ = ["masked_median", "wavelength_fault"]


def wavelength_fault(wavelength: np.ndarray, unit: str) -> str:
    """Return what is wrong with a wavelength array (n_pix,), or an empty string; `unit` is for the message."""
    if len(wavelength) < 2:
        return f"the wavelength array has {len(wavelength)} pixels; at least 2 are needed"
    if n_wrong := int((~np.isfinite(wavelength)).sum()):
        return f"{n_wrong} of {len(wavelength)} wavelengths are not finite"
    if wavelength[0] <= 0:
        return f"the wavelengths start at {wavelength[0]:g} {unit}; they must be positive"
    backwards = np.flatnonzero(np.diff(wavelength) <= 0)
    if len(backwards):
        where = f"the first behind pixel {backwards[0]} ({wavelength[backwards[0]]:g} {unit})"
        return f"wavelengths must increase strictly; {len(backwards)} steps do not, {where}"
    return ""


def masked_median(values: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Return the median (n,), float32, of each row of (n, n_pix) without the values ignored; NaN where all are."""
    ordered = values.copy()
    np.copyto(ordered, np.inf, where=ignored)
    ordered.sort(axis=1)
    n = values.shape[1] - ignored.sum(axis=1)
    rows = np.arange(len(values))
    middle = (ordered[rows, np.maximum(n - 1, 0) // 2] + ordered[rows, np.minimum(n // 2, values.shape[1] - 1)]) / 2
    return np.where(n > 0, np.minimum(middle, np.finfo(np.float32).max), np.nan).astype(np.float32)
