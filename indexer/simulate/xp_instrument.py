"""Gaia XP as an instrument: the light of stars becomes 55 + 55 coefficients with errors, as the archive delivers them.

Real XP spectra are sums of the archive's basis functions, so the simulated ones are too: the model spectrum is smoothed to
the resolution of the prisms, receives the systematic deviations that real spectra show, and is fitted by coefficients whose
means and covariances are those of real stars. Noise is drawn for the coefficients, with the correlations of the archive.
All statistics are in `data/xp_instrument.npz`, which `indexer.derive.xp_instrument` measures on real spectra.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from indexer.simulate.emulator import Emulator
from indexer.simulate.statistics import read_statistics
from specdb.spectra.xp_sampling import N_BASES, XpArm, load_xp_sampling

__all__ = [
    "UNIT",
    "XpObservation",
    "XpStatistics",
    "binned",
    "colour",
    "g_magnitude",
    "merged_basis",
    "noise_roots",
    "observe_xp",
    "smoothing",
]

_LOWER = np.tril_indices(N_BASES, k=-1)
_BIN = 8
_FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))
UNIT = 1e17  #: coefficients are kept in this many times the archive's numbers per W m-2 nm-1
_AB_MINUS_VEGA = 0.114  # of G in Gaia DR3 (Riello et al. 2021, A&A 649, A3: zero points 25.8010 and 25.6874)


def merged_basis() -> np.ndarray:
    """Return the samples of the 110 basis functions, W m-2 nm-1: ndarray (110, 343), BP first, with their merge weights."""
    sampling = load_xp_sampling()
    return np.concatenate([sampling.bp * sampling.bp_weight, sampling.rp * (1 - sampling.bp_weight)])


def smoothing(emulator: Emulator, fwhm_nm: np.ndarray) -> np.ndarray:
    """Return the matrix (n_pix / 8, 343), float32, that takes binned flux (`binned`) to XP samples of the given FWHM."""
    nm = binned(emulator.wavelength[None])[0] / 10
    sigma = fwhm_nm * _FWHM_TO_SIGMA
    kernel = np.exp(-0.5 * ((nm[:, None] - load_xp_sampling().wavelength_nm) / sigma) ** 2) * nm[:, None]  # pixel width
    return (kernel / kernel.sum(axis=0)).astype(np.float32)


def binned(flux: np.ndarray) -> np.ndarray:
    """Average flux (n, n_pix) over 8 pixels, 0.7 nm at 400 nm: far below the resolution of XP and 8 times quicker to use."""
    return flux.reshape(len(flux), -1, _BIN).mean(axis=2)


def colour(flux: np.ndarray) -> np.ndarray:
    """Return ln of the ratio of the mean flux at 400-500 nm to that at 700-800 nm of XP samples (n, 343)."""
    nm = load_xp_sampling().wavelength_nm
    blue, red = ((nm >= low) & (nm <= low + 100) for low in (400, 700))
    return np.log(np.clip(flux[:, blue].mean(axis=1) / flux[:, red].mean(axis=1), 1e-3, 1e3))


def noise_roots(correlations: np.ndarray) -> np.ndarray:
    """Return matrices (2, 55, 55) that give white noise the correlations (2, 1485) of BP and RP: ``root @ white``."""
    roots = []
    for lower in correlations:
        matrix = np.eye(N_BASES)
        matrix[_LOWER] = lower
        values, vectors = np.linalg.eigh(matrix + np.tril(matrix, -1).T)
        roots.append(vectors * np.sqrt(np.clip(values, 0, None)))
    return np.stack(roots)


@dataclass(frozen=True)
class XpStatistics:
    """What real XP spectra show, as means, principal components and covariances.

    Attributes
    ----------
    fwhm_nm : ndarray (343,)
        Width of the Gaussian that takes a spectrum to the resolution of the externally calibrated samples.
    colour_range : ndarray (2,)
        Colours (`colour`) for which the systematic deviations are known; beyond them the nearest end counts.
    systematic : ndarray (4, 343)
        Mean ln ratio of real to model spectra, as cubic polynomial of the colour scaled to -1 .. 1.
    systematic_basis : ndarray (k, 343)
        Principal components of what varies from star to star, each scaled to one standard deviation.
    mean : ndarray (110,)
        Mean coefficients of stars whose samples have mean 1 (in units of 1 / `UNIT`).
    gain : ndarray (343, 110)
        Coefficients to add to `mean` per unit deviation of the samples from those of `mean`.
    offset : ndarray (4, 110)
        What coefficients found so still lack on average: cubic polynomial of the scaled colour, in units of `mean`.
    error_trend : ndarray (4, 110)
        ln of the coefficients' errors as polynomial 1, g, g**2, colour with g = (G - 15) / 3.
    error_basis : ndarray (k, 110)
        Principal components of the scatter about it, each scaled to one standard deviation.
    correlations : ndarray (2, 1485)
        Mean correlations of the BP and of the RP coefficients, in the archive's order.
    band : ndarray (343,)
        Response in G, photons, sum 1.
    noise_factor : ndarray (110,)
        True scatter over stated error of the coefficients.
    card : dict
        Provenance.
    """

    fwhm_nm: np.ndarray
    colour_range: np.ndarray
    systematic: np.ndarray
    systematic_basis: np.ndarray
    mean: np.ndarray
    gain: np.ndarray
    offset: np.ndarray
    error_trend: np.ndarray
    error_basis: np.ndarray
    correlations: np.ndarray
    band: np.ndarray
    noise_factor: np.ndarray
    card: dict

    @classmethod
    def load(cls, path: Path | None = None) -> XpStatistics:
        """Read the statistics from `path`, or those that ship with specdb.

        Raises
        ------
        InputError
            When the file is not one that `indexer.derive.xp_instrument` wrote.
        """
        return cls(**read_statistics(cls, path, "xp_instrument.npz", "XP", "indexer.derive.xp_instrument"))

    def save(self, path: Path) -> None:
        """Write the statistics in float32."""
        arrays = {f.name: getattr(self, f.name).astype(np.float32) for f in fields(self) if f.name != "card"}
        np.savez_compressed(path, **arrays, card=json.dumps(self.card, sort_keys=True))

    @cached_property
    def noise_roots(self) -> np.ndarray:
        """See `noise_roots`."""
        return noise_roots(self.correlations)

    def colour_powers(self, flux: np.ndarray) -> np.ndarray:
        """Return 1, x, x**2, x**3 (n, 4) of the colour x of samples (n, 343), scaled to -1 .. 1 and clipped."""
        low, high = self.colour_range
        x = np.clip(2 * (colour(flux) - low) / (high - low) - 1, -1, 1)
        return np.vander(x, 4, increasing=True)

    def coefficients(self, flux: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Return coefficients (n, 110), in units of `mean`, of model spectra (n, 343); `draws` (n, k) of unit variance."""
        powers = self.colour_powers(flux)
        real = flux * np.exp(powers @ self.systematic + draws @ self.systematic_basis)
        real = real / real.mean(axis=1, keepdims=True)
        return self.mean + (real - self.mean @ (merged_basis() * UNIT)) @ self.gain + powers @ self.offset


def g_magnitude(flux: np.ndarray, band: np.ndarray) -> np.ndarray:
    """Return the G magnitude (n,) of samples (n, 343) in W m-2 nm-1; `band` is `XpStatistics.band`."""
    nm = load_xp_sampling().wavelength_nm
    pivot2 = (band * nm).sum() / (band / nm).sum()
    jansky = (flux * (band * nm)).sum(axis=1) / (band * nm).sum() * pivot2 / 2.99792458e17 * 1e26
    return -2.5 * np.log10(jansky / 3631) - _AB_MINUS_VEGA


@dataclass(frozen=True)
class XpObservation:
    """Simulated XP spectra, one row per source: the coefficients of both photometers with errors and correlations."""

    bp: XpArm
    rp: XpArm

    def take(self, rows: slice | np.ndarray) -> XpObservation:
        """Return the given rows."""

        def part(arm: XpArm) -> XpArm:
            errors, correlations = (None if a is None else a[rows] for a in (arm.errors, arm.correlations))
            return XpArm(arm.coefficients[rows], errors, correlations)

        return XpObservation(part(self.bp), part(self.rp))

    def sampled(self) -> tuple[np.ndarray, np.ndarray]:
        """Return flux and its error on 336, 338, .. 1020 nm: two ndarrays (n, 343), float64, W m-2 nm-1."""
        sampling = load_xp_sampling()
        ivar = sampling.ivar(self.bp, self.rp)
        assert ivar is not None  # both arms have errors
        return sampling.flux(self.bp, self.rp), 1 / np.sqrt(ivar)


def observe_xp(flux: np.ndarray, magnitude: np.ndarray, rng: np.random.Generator, statistics: XpStatistics) -> XpObservation:
    """Observe stars with Gaia XP.

    Parameters
    ----------
    flux : ndarray (n, 343)
        Model spectra at the resolution of XP (`smoothing`), per unit wavelength, on any scale.
    magnitude : ndarray (n,)
        G of the stars.
    rng : numpy.random.Generator
    statistics : XpStatistics
    """
    n = len(flux)
    draws = np.clip(rng.standard_normal((n, len(statistics.systematic_basis))), -2.5, 2.5)
    coefficients = statistics.coefficients(flux, draws)
    samples = coefficients @ merged_basis()
    coefficients *= 10 ** (0.4 * (g_magnitude(samples, statistics.band) - magnitude))[:, None]

    g = (magnitude - 15) / 3
    trend = np.stack([np.ones(n), g, g**2, colour(samples)], axis=1) @ statistics.error_trend
    scatter = rng.standard_normal((n, len(statistics.error_basis))) @ statistics.error_basis
    errors = np.exp(trend + scatter)
    white = rng.standard_normal((n, 2, N_BASES))
    noise = np.einsum("nab,acb->nac", white, statistics.noise_roots).reshape(n, 2 * N_BASES)
    coefficients = coefficients + errors * statistics.noise_factor * noise
    arms = [
        XpArm(coefficients[:, part], errors[:, part], np.broadcast_to(correlations, (n, correlations.size)))
        for part, correlations in zip((slice(0, N_BASES), slice(N_BASES, None)), statistics.correlations, strict=True)
    ]
    return XpObservation(*arms)
