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

__all__ = ["DLOG10", "Emulator", "features"]

DLOG10 = 1e-4

#: Knots in temperature: close where spectra change fast (molecular bands, Balmer maximum), wide elsewhere.
_KNOTS_K = (3000.0, 3400.0, 3800.0, 4300.0, 5000.0, 5800.0, 6800.0, 8200.0, 10000.0, 12500.0, 15500.0)
_DEGREE = 3


def features(labels: np.ndarray) -> np.ndarray:
    """Return the smooth functions of the labels in which ln flux is linear.

    A cubic B-spline in ln Teff times a quadratic polynomial in logg and [Fe/H]: local in temperature, where a spectrum
    changes its character, and stiff in the other two.

    Parameters
    ----------
    labels : ndarray (n, 3), float
        Teff in K, logg (cgs), [Fe/H] in dex. Temperatures beyond the outer knots (3000 and 15500 K) count as the knot.

    Returns
    -------
    ndarray (n, K), float64
    """
    teff, logg, feh = np.asarray(labels, float).T
    knots = np.log(_KNOTS_K)
    if not len(teff):  # scipy refuses to evaluate nothing
        return np.zeros((0, (len(knots) + _DEGREE - 1) * 6))
    padded = np.concatenate([np.full(_DEGREE, knots[0]), knots, np.full(_DEGREE, knots[-1])])
    clipped = np.clip(np.log(teff), knots[0], knots[-1] - 1e-9)
    spline = BSpline.design_matrix(clipped, padded, _DEGREE).toarray()  # n S
    g, m = (logg - 3.5) / 1.5, feh + 0.3
    polynomial = np.stack([np.ones_like(g), g, m, g * g, g * m, m * m], axis=1)  # n P
    return (spline[:, :, None] * polynomial[:, None, :]).reshape(len(clipped), -1)  # n S*P


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
    card : dict
        Provenance: sources, settings, held-out errors, range of validity.
    """

    log10_start: float
    weights: np.ndarray
    log_surface_flux: np.ndarray
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
                return cls(float(z["log10_start"]), weights, z["log_surface_flux"], json.loads(str(z["card"])))
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
            card=json.dumps(self.card, sort_keys=True),
        )

    @cached_property
    def wavelength(self) -> np.ndarray:
        """Vacuum wavelengths in Angstrom (n_pix,), float64."""
        return 10 ** (self.log10_start + DLOG10 * np.arange(self.weights.shape[1]))

    def log_flux(self, labels: np.ndarray, pixels: slice = slice(None)) -> np.ndarray:
        """Return ln flux (n, n_pixels), float32, of stars with the given labels (n, 3): Teff in K, logg, [Fe/H]."""
        return features(labels).astype(np.float32) @ self.weights[:, pixels]

    def log_flux_5500(self, labels: np.ndarray) -> np.ndarray:
        """Return ln of the surface flux density at 5500 Angstrom, erg/s/cm2/Angstrom (n,)."""
        return features(labels) @ self.log_surface_flux
