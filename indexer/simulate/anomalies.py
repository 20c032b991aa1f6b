"""Laws of unusual objects: what each adds to the light of a star, or shines with in its place."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

__all__ = ["NEBULAR", "carbon_bands", "emission_lines", "galaxy_lines", "quasar", "white_dwarf"]

_SPEED_OF_LIGHT_KMS = 299792.458

#: Vacuum wavelengths in Angstrom and relative strengths of nebular emission: H alpha, H beta, [O III], [N II], [S II].
NEBULAR = np.array(
    [
        (6564.6, 1.0),
        (4862.7, 0.35),
        (5008.2, 0.6),
        (4960.3, 0.2),
        (6585.3, 0.4),
        (6549.9, 0.13),
        (6718.3, 0.2),
        (6732.7, 0.15),
    ]
)

#: The same of star-forming galaxies, which have [O II] besides: the blend of 3727.1 and 3729.9.
_GALACTIC = np.concatenate([NEBULAR, [(3728.8, 0.7)]])

_BALMER = np.array([6564.6, 4862.7, 4341.7, 4102.9, 3971.2, 3890.2])
_SWAN = np.array([(4737.0, 0.7), (5165.0, 1.0), (5635.0, 0.8), (6191.0, 0.4)])  # heads of the C2 bands and their depths
#: Broad lines of quasars: vacuum wavelength in Angstrom at rest, height over the continuum (Vanden Berk et al. 2001).
_QUASAR = np.array(
    [(1215.7, 3.0), (1549.1, 1.5), (1908.7, 0.8), (2798.7, 0.8), (4341.7, 0.2), (4862.7, 0.8), (5008.2, 0.5), (6564.6, 3.0)]
)


def emission_lines(
    wavelength: np.ndarray, strength: np.ndarray, rv_kms: np.ndarray, lines: np.ndarray = NEBULAR, sigma_pixels: float = 2.0
) -> np.ndarray:
    """Return narrow emission lines in units of the continuum (n, n_pix).

    Parameters
    ----------
    wavelength : ndarray (n_pix,)
        Vacuum, Angstrom.
    strength : ndarray (n,)
        Height of H alpha over the continuum.
    rv_kms : ndarray (n,)
    lines : ndarray (l, 2)
        Vacuum wavelengths in Angstrom and relative strengths.
    sigma_pixels : float
        Width in pixels of LAMOST, 69 km/s each.
    """
    centre = np.log(lines[:, 0]) + np.log1p(rv_kms / _SPEED_OF_LIGHT_KMS)[:, None]  # n lines
    offset = (np.log(wavelength) - centre[:, :, None]) / (sigma_pixels * np.log(10) * 1e-4)  # n l pix
    return strength[:, None] * np.einsum("l,nlp->np", lines[:, 1], np.exp(-0.5 * offset**2))


def galaxy_lines(wavelength: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return emission lines of star-forming galaxies at rest, in units of the continuum (n, n_pix); see `emission_lines`."""
    return emission_lines(wavelength, strength, np.zeros(len(strength)), _GALACTIC, sigma_pixels=2.5)


def carbon_bands(wavelength: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return ln of the absorption (n, n_pix) by C2: sharp heads on the red side, fading over 250 Angstrom to the blue.

    `depth` (n,) is the optical depth at the strongest head. CN is left out.
    """
    blueward = _SWAN[:, :1] - wavelength  # bands pix
    profile = np.exp(-np.clip(blueward, 0, None) / 120) * expit(blueward / 3)
    return -np.multiply.outer(depth, _SWAN[:, 1] @ profile)


def white_dwarf(wavelength: np.ndarray, teff: np.ndarray) -> np.ndarray:
    """Return ln flux (n, n_pix) of hydrogen white dwarfs: a black body with Balmer lines of Lorentzian wings.

    The lines are deepest, and widest, at 12000 K, as in real ones of type DA.
    """
    body = -5 * np.log(wavelength) - np.log(np.expm1(1.43878e8 / np.multiply.outer(teff, wavelength)))
    strength = np.exp(-(np.log(teff / 12000) ** 2) / 0.4)[:, None]
    width = 45 * strength[..., None] + 10  # n 1 1
    offset = (wavelength - _BALMER[:, None]) / width  # n lines pix
    body -= np.median(body, axis=1, keepdims=True)
    return body + np.log1p(-0.6 * strength * (1 / (1 + offset**2)).max(axis=1))


def quasar(wavelength: np.ndarray, redshift: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Return ln flux (n, n_pix) of quasars: a power law ``wavelength ** slope`` with broad lines, 4000 km/s (sigma 1700)."""
    rest = wavelength / (1 + redshift)[:, None]  # n pix
    lines = sum(h * np.exp(-0.5 * (np.log(rest / w) / (1700 / _SPEED_OF_LIGHT_KMS)) ** 2) for w, h in _QUASAR)
    forest = np.where(rest < _QUASAR[0, 0], -0.4, 0.0)  # hydrogen in front absorbs a third
    return slope[:, None] * np.log(wavelength / 5500) + np.log1p(lines) + forest
