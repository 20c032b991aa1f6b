"""LAMOST LRS as an instrument: model spectra of stars become flux, inverse variance and masks as the survey delivers them.

Everything that real files show on average and in its scatter (errors over the two arms, sky, telluric bands, calibration)
comes from `data/lrs_instrument.npz`, which `indexer.derive.lrs_instrument` measures on real DR10 spectra. Single events
(bad columns, cosmic rays, lost stretches) are drawn here at the rates found in 74 complete DR10 files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from indexer.simulate.emulator import DLOG10, Emulator
from indexer.simulate.statistics import read_statistics

__all__ = [
    "ARMS_MEET",
    "BANDS",
    "LRS_COEFF0",
    "LRS_PIX",
    "LRS_WAVELENGTH",
    "REFERENCE",
    "SPEED_OF_LIGHT_KMS",
    "LrsSpectra",
    "LrsStatistics",
    "band",
    "band_snr",
    "continuum_design",
    "cubic_taps",
    "line_design",
    "observe_lrs",
    "residual_features",
    "shift_pixels",
    "shift_to_observer",
]

LRS_COEFF0, LRS_PIX = 3.5682, 3909
LRS_WAVELENGTH = 10 ** (LRS_COEFF0 + DLOG10 * np.arange(LRS_PIX))
SPEED_OF_LIGHT_KMS = 299792.458

#: Angstrom. The median S/N per pixel in these ranges is within 2 % of the real files' keywords SNRG ... SNRZ (SNRU: 13 %).
BANDS = {"u": (3700, 3900), "g": (3900, 5500), "r": (5600, 6900), "i": (6900, 8200), "z": (8200, 9100)}

#: Share of each white-noise sample that resampling spreads to its neighbours: makes the pixel-to-pixel scatter 0.78 of the
#: stated error, as in the real files, while the variance per pixel stays what `ivar` says.
_NOISE_LEAK = 0.13

REFERENCE = (5800.0, 4.2, -0.2)  #: labels of the star that the mean calibration belongs to: Teff in K, logg, [Fe/H]
ARMS_MEET = 5850.0  #: Angstrom

_CONTINUUM_ORDER = 5
_LONG_GAP_RATE = 0.015  # spectra that lost a stretch of one arm
_SHORT_END_RATE, _SHORT_END_PIX = 0.45, 8  # spectra whose last pixels are 0 with an ordinary ivar, and how many on average


def continuum_design() -> np.ndarray:
    """Return Legendre polynomials over the LRS pixels (n_pix, order + 1): the shapes of a flux-calibration error."""
    return np.polynomial.legendre.legvander(np.linspace(-1, 1, LRS_PIX), _CONTINUUM_ORDER)


def residual_features(labels: np.ndarray) -> np.ndarray:
    """Return 1, t, t**2, g, m, t*m (n, 6) of labels (n, 3), clipped to where DR10 has stars; 1, 0, ... at `REFERENCE`."""
    teff, logg, feh = np.clip(labels, (4300.0, 1.5, -2.0), (9500.0, 4.8, 0.6)).T
    t, g, m = np.log(teff / REFERENCE[0]) / 0.2, (logg - REFERENCE[1]) / 1.5, (feh - REFERENCE[2]) / 0.5
    return np.stack([np.ones_like(t), t, t * t, g, m, t * m], axis=1)


def line_design(flux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return second and first differences of spectra (n, n_pix) by pixel: what a change of resolution and a shift add."""
    padded = np.pad(flux, ((0, 0), (1, 1)), mode="edge")
    before, after = padded[:, :-2], padded[:, 2:]
    return before + after - 2 * flux, (after - before) / 2


@dataclass(frozen=True)
class LrsStatistics:
    """What real LRS spectra show, as means, principal components and covariances.

    Attributes
    ----------
    error_mean : ndarray (n_pix,)
        Mean of ln(variance / smoothed flux), 0 in the g band.
    error_basis : ndarray (k, n_pix)
        Principal components of the same.
    error_trend : ndarray (3, k)
        Their coefficients as quadratic in ln(S/N_g / 50).
    error_scatter : ndarray (k, k)
        Covariance of the coefficients about that trend.
    sky : ndarray (n_pix,)
        Sky lines: excess of the relative error over its surroundings.
    tilt_mean, tilt_scatter : ndarray (6,), (6, 6)
        Coefficients of `continuum_design` in ln flux: flux calibration and reddening.
    residual_trend : ndarray (6, n_pix)
        ln ratio of observed to model flux without its smooth part, as function of the labels (`residual_features`): telluric
        and interstellar absorption, flat field, and where lines differ from the emulator's.
    residual_basis : ndarray (k, n_pix)
        Principal components of its scatter, each scaled to one standard deviation.
    line_mean, line_scatter : ndarray (4,), (4, 4)
        Of blue and red arm: what to add per unit of the second derivative of the flux by pixel (positive where the
        resolution is below the emulator's), then per unit of the first (offsets of the wavelength scale).
    brightness : ndarray (3,)
        Slope, offset and scatter of ln(median counts) against ln(S/N_g / 50).
    card : dict
        Provenance.
    """

    error_mean: np.ndarray
    error_basis: np.ndarray
    error_trend: np.ndarray
    error_scatter: np.ndarray
    sky: np.ndarray
    tilt_mean: np.ndarray
    tilt_scatter: np.ndarray
    residual_trend: np.ndarray
    residual_basis: np.ndarray
    line_mean: np.ndarray
    line_scatter: np.ndarray
    brightness: np.ndarray
    card: dict

    @classmethod
    def load(cls, path: Path | None = None) -> LrsStatistics:
        """Read the statistics from `path`, or those that ship with specdb.

        Raises
        ------
        InputError
            When the file is not one that `indexer.derive.lrs_instrument` wrote.
        """
        return cls(**read_statistics(cls, path, "lrs_instrument.npz", "LRS", "indexer.derive.lrs_instrument"))

    def save(self, path: Path) -> None:
        """Write the statistics; what has one value per pixel as float16."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "card"}
        packed = {k: a.astype(np.float16) if a.shape[-1] == LRS_PIX else a for k, a in arrays.items()}
        np.savez_compressed(path, **packed, card=json.dumps(self.card, sort_keys=True))


@dataclass(frozen=True)
class LrsSpectra:
    """Simulated observations on `LRS_WAVELENGTH`, one row per visit.

    Attributes
    ----------
    flux, ivar : ndarray (n, n_pix), float32
        Counts-like flux on an arbitrary scale and its inverse variance, 0 where the pixel is bad.
    and_mask, or_mask : ndarray (n, n_pix), bool
        Bad in all / in any of the exposures.
    snr : ndarray (n, 5), float32
        Median S/N per pixel in u, g, r, i, z.
    """

    flux: np.ndarray
    ivar: np.ndarray
    and_mask: np.ndarray
    or_mask: np.ndarray
    snr: np.ndarray

    def take(self, rows: slice) -> LrsSpectra:
        """Return the given rows."""
        return LrsSpectra(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def cubic_taps(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the weights of cubic Lagrange interpolation of pixels -1, 0, 1, 2 at `t`, 0 to 1 (any shape)."""
    return (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )


def shift_pixels(log_flux: np.ndarray, rv_kms: np.ndarray) -> np.ndarray:
    """Shift ln flux (n, n_pix) on pixels of `DLOG10` by the velocities `rv_kms` (n,); the ends repeat their last value.

    On a logarithmic grid a velocity is a shift by the same number of pixels everywhere, ``log10(1 + v/c) / 1e-4``; the
    fraction of a pixel is done by cubic Lagrange interpolation of ln flux.
    """
    shift = -np.log10(1 + np.asarray(rv_kms) / SPEED_OF_LIGHT_KMS) / DLOG10
    whole = np.floor(shift).astype(int)
    t = (shift - whole)[:, None].astype(np.float32)
    taps = cubic_taps(t)
    columns = whole[:, None] + np.arange(log_flux.shape[1])
    last = log_flux.shape[1] - 1
    return sum(tap * np.take_along_axis(log_flux, np.clip(columns + k - 1, 0, last), axis=1) for k, tap in enumerate(taps))


def shift_to_observer(emulator: Emulator, labels: np.ndarray, rv_kms: np.ndarray) -> np.ndarray:
    """Return ln flux (n, LRS_PIX), float32, of stars moving at `rv_kms` (n,), on the LRS pixels."""
    margin = int(np.ceil(np.log10(1 + np.abs(rv_kms).max(initial=0) / SPEED_OF_LIGHT_KMS) / DLOG10)) + 3
    first = round((LRS_COEFF0 - emulator.log10_start) / DLOG10) - margin
    rest = emulator.log_flux(labels, slice(first, first + LRS_PIX + 2 * margin))  # n LRS_PIX+2*margin
    return shift_pixels(rest, rv_kms)[:, margin:-margin]


def band(name: str) -> slice:
    """Return the LRS pixels of one of `BANDS`."""
    return slice(*np.searchsorted(LRS_WAVELENGTH, BANDS[name]).tolist())


def band_snr(flux: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Return the median S/N per pixel in each of `BANDS` (n, 5), not below 0.01."""
    ratio = flux * np.sqrt(ivar)
    return np.clip(np.stack([np.median(ratio[:, band(name)], axis=1) for name in BANDS], axis=1), 0.01, None)


def observe_lrs(
    log_flux: np.ndarray,
    snr_g: np.ndarray,
    rng: np.random.Generator,
    statistics: LrsStatistics,
    bad_sky: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> LrsSpectra:
    """Observe model spectra with LAMOST LRS.

    Parameters
    ----------
    log_flux : ndarray (n, LRS_PIX)
        ln of the flux that reaches the telescope, on any scale.
    snr_g : ndarray (n,)
        Median S/N per pixel wanted in the g band.
    rng : numpy.random.Generator
    statistics : LrsStatistics
    bad_sky : ndarray (n,), bool, optional
        Spectra whose sky is subtracted badly: the sky lines stay in, or go negative.
    labels : ndarray (n, 3), optional
        Teff in K, logg and [Fe/H], for what depends on them in the statistics; without them, those of `REFERENCE`.
    """
    n = len(log_flux)
    log_snr = np.log(snr_g / 50)
    tilt = rng.multivariate_normal(statistics.tilt_mean, statistics.tilt_scatter, size=n)
    residual = rng.standard_normal((n, len(statistics.residual_basis)))
    trend = residual_features(np.tile(REFERENCE, (n, 1)) if labels is None else labels)
    log_flux = (
        log_flux
        + tilt @ continuum_design().T
        + trend @ statistics.residual_trend
        + np.clip(residual, -2.5, 2.5) @ statistics.residual_basis
    )
    flux = np.exp(log_flux)
    curvature, slope = line_design(flux)
    lines = np.clip(rng.multivariate_normal(statistics.line_mean, statistics.line_scatter, size=n), -0.6, 0.6)
    red = slice(int(np.searchsorted(LRS_WAVELENGTH, ARMS_MEET)), None)
    for arm, columns in enumerate((slice(0, red.start), red)):
        flux[:, columns] += lines[:, arm, None] * curvature[:, columns] + lines[:, 2 + arm, None] * slope[:, columns]
    flux = np.clip(flux, 1e-4, None)
    flux /= np.median(flux, axis=1, keepdims=True)

    trend = np.stack([np.ones(n), log_snr, log_snr**2], axis=1) @ statistics.error_trend
    coefficients = trend + rng.multivariate_normal(np.zeros(trend.shape[1]), statistics.error_scatter, size=n)
    sigma = np.sqrt(np.exp(statistics.error_mean + coefficients @ statistics.error_basis) * np.clip(flux, 0.02, None))
    sigma *= (np.median((flux / sigma)[:, band("g")], axis=1) / snr_g)[:, None]

    white = rng.standard_normal((n, LRS_PIX + 2))
    noise = (white[:, 1:-1] + _NOISE_LEAK * (white[:, :-2] + white[:, 2:])) / np.sqrt(1 + 2 * _NOISE_LEAK**2)
    relative_sky = statistics.sky / np.exp(0.5 * statistics.error_mean).mean()
    amplitude = 0.5 * rng.standard_normal(n) * np.median(sigma, axis=1)
    if bad_sky is not None:
        sign = np.where(rng.random(n) < 0.7, 1.0, -1.0)
        amplitude = np.where(bad_sky, sign * (0.3 + 10 * np.median(sigma, axis=1)), amplitude)
    flux = flux + sigma * noise + amplitude[:, None] * relative_sky

    and_mask, or_mask, no_information = _bad_pixels(flux, rng)
    short = np.where(rng.random(n) < _SHORT_END_RATE, rng.geometric(1 / _SHORT_END_PIX, size=n), 0)
    flux[np.arange(LRS_PIX) >= LRS_PIX - short[:, None]] = 0.0
    slope, offset, scatter = statistics.brightness
    scale = np.exp(offset + slope * log_snr + scatter * rng.standard_normal(n))[:, None]
    ivar = np.where(no_information, 0.0, 1 / (sigma * scale) ** 2).astype(np.float32)
    flux = (flux * scale).astype(np.float32)
    return LrsSpectra(flux, ivar, and_mask, or_mask, band_snr(flux, ivar))


def _bad_pixels(flux: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw bad pixels, change `flux` in them, and return and-mask, or-mask and where the inverse variance is 0 (n, n_pix).

    In the real files every pixel with a mask bit has no inverse variance; half of the pixels without carry a bit. They come
    in runs of 5 to 12 pixels, a few per spectrum, with spikes or zeros inside; rarely a long stretch of one arm is lost.
    """
    n = len(flux)
    runs = np.minimum(rng.exponential(6.0, size=n).astype(int), 45)
    row = np.repeat(np.arange(n), runs)
    length = 5 + rng.poisson(1.5, size=len(row))
    start = rng.integers(0, LRS_PIX - length.max(initial=0), size=len(row))
    kind = rng.random(len(row))
    lost = np.flatnonzero(rng.random(n) < _LONG_GAP_RATE)
    row, length = np.append(row, lost), np.append(length, rng.integers(80, 1200, size=len(lost)))
    start, kind = np.append(start, rng.integers(0, LRS_PIX - 1200, size=len(lost))), np.append(kind, np.zeros(len(lost)))
    depth = np.where(length > 50, 0.0, np.where(rng.random(len(row)) < 0.35, rng.exponential(0.7, size=len(row)) + 1, 1.0))

    event = np.repeat(np.arange(len(row)), length)
    offset = np.arange(len(event)) - np.repeat(np.cumsum(length) - length, length)
    where = (row[event], start[event] + offset)
    and_mask, or_mask, no_information = (np.zeros(flux.shape, bool) for _ in range(3))
    and_mask[where], or_mask[where], no_information[where] = (kind < 0.29)[event], (kind < 0.53)[event], True
    profile = np.exp(-0.5 * ((offset - length[event] / 2) / 1.2) ** 2)  # a cosmic ray after extraction and resampling
    flux[where] *= np.where(depth[event] == 0, 0.0, 1 + (depth[event] - 1) * profile)
    return and_mask, or_mask, no_information
