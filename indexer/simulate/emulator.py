"""A compact model of stellar spectra: labels in, flux out, one matrix product for any number of stars.

The weights are made by `indexer.derive.emulator`; `docs/simulation.md` says from what and how well they do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.interpolate import BSpline

from specdb.errors import InputError
from specdb.shipped import shipped_file

__all__ = ["DLOG10", "Emulator", "features", "mean_alpha"]

DLOG10 = 1e-4

#: Knots in temperature: close where spectra change fast (molecular bands, Balmer maximum), wide elsewhere.
_KNOTS_K = (3000.0, 3400.0, 3800.0, 4300.0, 5000.0, 5800.0, 6800.0, 8200.0, 10000.0, 12500.0, 15500.0)
_DEGREE = 3
#: Metallicity enters as (10 ** (0.25 [Fe/H]) - const) / (0.25 ln 10): lines fade towards the continuum as metals vanish.
_FADING = 0.25
_LARGEST_RESPONSE = 2.5  # to [alpha/Fe], in units of that of the star it was computed for; keeps cool giants sane


def _spline(teff: np.ndarray) -> np.ndarray:
    """Return the cubic B-splines in ln Teff (n, S); temperatures beyond the outer knots count as the knot."""
    knots = np.log(_KNOTS_K)
    if not len(teff):  # scipy refuses to evaluate nothing
        return np.zeros((0, len(knots) + _DEGREE - 1))
    padded = np.concatenate([np.full(_DEGREE, knots[0]), knots, np.full(_DEGREE, knots[-1])])
    clipped = np.clip(np.log(teff), knots[0], knots[-1] - 1e-9)
    return BSpline.design_matrix(clipped, padded, _DEGREE).toarray()


def features(labels: np.ndarray, slope: bool = False) -> np.ndarray:
    """Return the smooth functions of the labels in which ln flux is linear.

    A cubic B-spline in ln Teff times a quadratic polynomial in logg and a fading power of the metal abundance: local in
    temperature, where a spectrum changes its character, and stiff in the other two. A polynomial in [Fe/H] itself would turn
    around below -2, where few stars hold it; this one tends to the spectrum without metals.

    Parameters
    ----------
    labels : ndarray (n, 3), float
        Teff in K, logg (cgs), [Fe/H] in dex. Temperatures beyond the outer knots (3000 and 15500 K) count as the knot.
    slope : bool
        Return the derivatives by [Fe/H] instead.

    Returns
    -------
    ndarray (n, K), float64
    """
    teff, logg, feh = np.asarray(labels, float).T
    g, power = (logg - 3.5) / 1.5, 10 ** (_FADING * feh)
    m = (power - 10 ** (-0.3 * _FADING)) / (_FADING * np.log(10))
    one, zero = np.ones_like(g), np.zeros_like(g)
    terms = [zero, zero, power, zero, g * power, 2 * m * power] if slope else [one, g, m, g * g, g * m, m * m]
    spline, polynomial = _spline(teff), np.stack(terms, axis=1)  # n S, n P
    return (spline[:, :, None] * polynomial[:, None, :]).reshape(len(g), spline.shape[1] * polynomial.shape[1])


def mean_alpha(feh: np.ndarray) -> np.ndarray:
    """Return the mean [alpha/Fe] of the library's stars at [Fe/H]: 0 above 0, 0.35 below -1 (Milone et al. 2011)."""
    return np.clip(-0.35 * np.asarray(feh), 0.0, 0.35)


@dataclass(frozen=True)
class Emulator:
    """Spectra of single stars at the resolution of LAMOST LRS (R = 1800), at rest, without reddening.

    Attributes
    ----------
    log10_start : float
        log10 of the vacuum wavelength in Angstrom of pixel 0; pixels are `DLOG10` apart.
    weights : ndarray (K, n_pix), float32
        ``ln flux = features(labels) @ weights``; flux density per unit wavelength, mean ln flux 0 in 5450-5550 Angstrom.
    log_surface_flux : ndarray (K,), float64
        The same for ln of the surface flux density at 5500 Angstrom in erg/s/cm2/Angstrom: sets the weights of a binary.
    alpha_shape : ndarray (w, n_pix), float32
        Change of ln flux per dex of [alpha/Fe] in one computed star, cut into windows that add up to the whole.
    alpha_scale : ndarray (K, w), float64
        ``features(labels, slope=True) @ alpha_scale`` is the strength of the metal lines in each window, 1 in that star:
        what [alpha/Fe] does scales with it.
    card : dict
        Provenance: sources, settings, held-out errors, range of validity.
    """

    log10_start: float
    weights: np.ndarray
    log_surface_flux: np.ndarray
    alpha_shape: np.ndarray
    alpha_scale: np.ndarray
    card: dict = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None = None) -> Emulator:
        """Read the weights from `path`, or those that ship with specdb.

        Raises
        ------
        InputError
            When the file is not one that `indexer.derive.emulator` wrote.
        """
        path = path or shipped_file("emulator.npz")
        try:
            with np.load(path, allow_pickle=False) as z:
                weights = z["mean"].astype(np.float32) + z["left"].astype(np.float32) @ z["right"].astype(np.float32)
                alpha = z["alpha_shape"].astype(np.float32)
                start, card = float(z["log10_start"]), json.loads(str(z["card"]))
                return cls(start, weights, z["log_surface_flux"], alpha, z["alpha_scale"], card)
        except (KeyError, OSError, ValueError) as error:
            raise InputError(
                f"{path} is no emulator ({error}); make one with `python -m indexer.derive.emulator`"
            ) from error

    def save(self, path: Path, rank: int = 64) -> None:
        """Write the weights as float16 factors of the given rank."""
        mean = self.weights.mean(axis=0, keepdims=True)  # carries most of the size, so that float16 keeps the details
        left, scale, right = np.linalg.svd(self.weights - mean, full_matrices=False)
        root = np.sqrt(scale[:rank])
        np.savez_compressed(
            path,
            log10_start=self.log10_start,
            mean=mean.astype(np.float32),
            left=(left[:, :rank] * root).astype(np.float32),
            right=(root[:, None] * right[:rank]).astype(np.float16),
            log_surface_flux=self.log_surface_flux,
            alpha_shape=self.alpha_shape.astype(np.float16),
            alpha_scale=self.alpha_scale,
            card=json.dumps(self.card, sort_keys=True),
        )

    @cached_property
    def wavelength(self) -> np.ndarray:
        """Vacuum wavelengths in Angstrom (n_pix,), float64."""
        return 10 ** (self.log10_start + DLOG10 * np.arange(self.weights.shape[1]))

    def log_flux(self, labels: np.ndarray, pixels: slice = slice(None), alpha: np.ndarray | None = None) -> np.ndarray:
        """Return ln flux (n, n_pixels), float32, of stars with the given labels (n, 3): Teff in K, logg, [Fe/H].

        `alpha` (n,) is [alpha/Fe] in dex; without it stars have the mean of their [Fe/H] (`mean_alpha`), as in the library.
        """
        log_flux = features(labels).astype(np.float32) @ self.weights[:, pixels]
        if alpha is not None:
            response = np.clip(features(labels, slope=True) @ self.alpha_scale, 0, _LARGEST_RESPONSE)  # n w
            excess = np.asarray(alpha) - mean_alpha(np.asarray(labels)[:, 2])
            log_flux += (excess[:, None] * response).astype(np.float32) @ self.alpha_shape[:, pixels]
        return log_flux

    def log_flux_5500(self, labels: np.ndarray) -> np.ndarray:
        """Return ln of the surface flux density at 5500 Angstrom, erg/s/cm2/Angstrom (n,)."""
        return features(labels) @ self.log_surface_flux
