"""LAMOST LRS preparation one spectrum at a time: the peer that `benchmarks/preparation.py` measures against.

Written from a description of the SpecCLIP preprocessing with the obvious tools (a SciPy median and Savitzky-Golay filter,
`numpy.polyfit` in a loop), the way most spectroscopy scripts are. It is plain on purpose, and the tests use it as an
independent statement of what the batched code must give.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.signal import medfilt, savgol_filter

__all__ = ["GRID_LOG10", "continuum", "normalise", "prepare_one"]

GRID_LOG10 = np.linspace(3.602, 3.602 + 1461e-4, 1462)
WINDOWS = ((4030.0, 4160.0), (4270.0, 4410.0), (4800.0, 4940.0))  # H delta, H gamma, H beta in hot stars, Angstrom


def _polynomial(wavelength: np.ndarray, flux: np.ndarray, degree: int) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", np.exceptions.RankWarning)
        return np.polyval(np.polyfit(wavelength, flux, degree), wavelength)


def _bridge(wavelength: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Replace three line windows by straight lines; positions on the full array index the blue sub-array (the quirk)."""
    ends = []
    for window in WINDOWS:
        near = [np.flatnonzero((wavelength >= end - 10) & (wavelength <= end + 10)) for end in window]
        ends.append([blue[at].max() for at in near])
    bridged = blue.copy()
    for (start, stop), ordinates in zip(WINDOWS, ends, strict=True):
        at = np.flatnonzero((wavelength >= start) & (wavelength <= stop))
        bridged[at] = np.interp(wavelength[at], (start, stop), ordinates)
    return bridged


def _blue(wavelength: np.ndarray, smooth: np.ndarray) -> tuple[np.ndarray, bool]:
    part = (wavelength >= 3700) & (wavelength <= 5700)
    x, y = wavelength[part], smooth[part]
    if len(x) <= 100:
        return y, False
    peak = x[np.argmax(_polynomial(x, savgol_filter(y, 3, 2), 5))]
    if peak < 4500:
        y = _bridge(wavelength, y)
    for _ in range(10):
        y = np.maximum(y, _polynomial(x, y, 5))
    return _polynomial(x, y, 5), bool(peak < 4500)


def _red(wavelength: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    part = wavelength > 6100
    x, y = wavelength[part], smooth[part].copy()
    if len(x) <= 100:
        return y
    for _ in range(9):
        fit = _polynomial(x, y, 4)
        residual = y - fit
        y = np.where((residual < 0) | (residual > 3 * residual.std()), fit, y)
    return fit


def continuum(wavelength: np.ndarray, flux: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the continuum (n_pix,) of one spectrum and whether the blue-peaked branch was taken.

    Parameters
    ----------
    wavelength : ndarray (n_pix,), float64, vacuum Angstrom
    flux : ndarray (n_pix,)
    """
    smooth = medfilt(flux.astype(np.float64), 7)
    result = smooth.copy()
    result[(wavelength >= 3700) & (wavelength <= 5700)], blue_branch = _blue(wavelength, smooth)
    result[wavelength > 6100] = _red(wavelength, smooth)
    result[result <= 0] = 1.0
    return result, blue_branch


def normalise(wavelength: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Return the flux divided by its continuum, on the spectrum's own grid, float64."""
    return flux / continuum(wavelength, flux)[0]


def prepare_one(wavelength: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Return one normalised spectrum on the model grid, float64 (1462,); pixels outside the data are an error."""
    # Header and grid agree to 5e-16 in log10, hence the allowance of a few rounding errors at the two ends.
    log10 = np.log10(wavelength)
    if GRID_LOG10[0] < log10[0] - 1e-9 or GRID_LOG10[-1] > log10[-1] + 1e-9:
        raise ValueError("the spectrum does not cover the model grid 3999.447-5598.865 Angstrom")
    return np.interp(GRID_LOG10, log10, normalise(wavelength, flux))
