"""The light of a star where it reaches the telescope: one spectrum, which every simulated instrument observes."""

from __future__ import annotations

from functools import cache

import numpy as np

from indexer.simulate.emulator import DLOG10, Emulator
from indexer.simulate.instrument import LRS_COEFF0, LRS_PIX, shift_pixels
from indexer.simulate.population import radius

__all__ = ["R_V", "extinction_law", "light_ratio", "lrs_pixels", "redden", "starlight"]

R_V = 3.1  #: A(V) / E(B-V) of diffuse interstellar dust
_MAGNITUDE = 0.4 * np.log(10)


@cache
def _law(log10_start: float, n_pix: int) -> np.ndarray:
    from astropy import units
    from dust_extinction.parameter_averages import F19

    wavelength = 10 ** (log10_start + DLOG10 * np.arange(n_pix)) * units.AA
    law = R_V * np.asarray(F19(Rv=R_V)(wavelength))
    law.flags.writeable = False
    return law


def extinction_law(emulator: Emulator) -> np.ndarray:
    """Return A(lambda) / E(B-V) on the emulator's pixels (n_pix,), R_V = 3.1: Fitzpatrick et al. 2019, ApJ 886, 108."""
    return _law(emulator.log10_start, emulator.weights.shape[1])


def starlight(
    emulator: Emulator, labels: np.ndarray, rv_kms: np.ndarray, ebv: np.ndarray, alpha: np.ndarray | None = None
) -> np.ndarray:
    """Return ln flux density per unit wavelength (n, n_pix), float32, on the emulator's pixels, seen by an observer.

    Parameters
    ----------
    emulator : Emulator
    labels : ndarray (n, 3)
        Teff in K, logg, [Fe/H].
    rv_kms : ndarray (n,)
        Radial velocity; pixels that come from beyond the ends of the emulator repeat its last value.
    ebv : ndarray (n,)
        E(B-V) in mag. The dust lies in front of the star and does not move with it.
    alpha : ndarray (n,), optional
        [alpha/Fe] in dex; without it, the mean of stars of that [Fe/H].
    """
    return redden(emulator, shift_pixels(emulator.log_flux(labels, alpha=alpha), rv_kms), ebv)


def redden(emulator: Emulator, log_flux: np.ndarray, ebv: np.ndarray) -> np.ndarray:
    """Return ln flux (n, n_pix) on the emulator's pixels behind dust of E(B-V) (n,) in mag."""
    return log_flux - np.multiply.outer(np.asarray(ebv), _MAGNITUDE * extinction_law(emulator)).astype(np.float32)


def light_ratio(emulator: Emulator, primary: np.ndarray, companion: np.ndarray) -> np.ndarray:
    """Return the companions' share of the primaries' light at 5500 Angstrom (n,) from surface brightness and area, 0.2 to 1.

    The lower end is for the sake of being seen: a companion of equal age would vanish beside a giant.
    """
    brightness = np.exp(emulator.log_flux_5500(companion) - emulator.log_flux_5500(primary))
    return np.clip(brightness * (radius(companion) / radius(primary)) ** 2, 0.2, 1.0)


def lrs_pixels(emulator: Emulator) -> slice:
    """Return which of the emulator's pixels are those of LAMOST LRS."""
    first = round((LRS_COEFF0 - emulator.log10_start) / DLOG10)
    return slice(first, first + LRS_PIX)
