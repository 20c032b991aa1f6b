"""Narrow and broad features in a residual: matched filters at every pixel, of widths that double from one to the next.

The significance of a Gaussian feature at a pixel is that of its best amplitude,

    z = sum(g r W) / sqrt(sum(g^2 W))

for residual r and inverse variance W (e.g. Zackay & Ofek 2017, ApJ 836, 187), divided by the spread that z has among
ordinary spectra at the same place and width: errors of neighbouring pixels are correlated (strongly so in XP, whose samples
are made from 55 coefficients), and the division takes care of that. Wide features are sought in sums over 2, 4, 8, ...
pixels, so that each width costs half of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import correlate1d

from specdb.anomaly.expected import Residual

__all__ = ["FeatureDetector", "Peak"]

#: Filter in bins: a Gaussian of 1.5, which for both instruments' grids is about an unresolved line, cut off at 3 sigma.
_SIGMA, _REACH = 1.5, 5
_KERNEL = np.exp(-0.5 * (np.arange(-_REACH, _REACH + 1) / _SIGMA) ** 2).astype(np.float32)
_LEVELS = 5  # sigmas of 1.5, 3, 6, 12 and 24 pixels
_LEAST_SPREAD = 1.0  # ordinary spectra that scatter less than their errors say do not make others more significant


@dataclass(frozen=True)
class Peak:
    """One feature of one spectrum.

    Attributes
    ----------
    significance : float
        In sigmas; positive where there is more light than expected.
    pixel : float
        Its centre.
    width : float
        Standard deviation of the filter in pixels.
    """

    significance: float
    pixel: float
    width: float


@dataclass(frozen=True)
class FeatureDetector:
    """Matched filters with the spread of their answers among ordinary spectra.

    Attributes
    ----------
    spread : tuple of ndarray (bins,), float32
        One for each width.
    """

    spread: tuple[np.ndarray, ...]

    @classmethod
    def fit(cls, residual: Residual) -> FeatureDetector:
        """Measure the spread on ordinary spectra."""
        spread = (1.4826 * np.median(np.abs(z), axis=0) for z in _filtered(residual))
        return cls(tuple(np.maximum(s, _LEAST_SPREAD).astype(np.float32) for s in spread))

    def significance(self, residual: Residual) -> list[np.ndarray]:
        """Return the significance (n, bins), float32, of the features of each width."""
        return [z / spread for z, spread in zip(_filtered(residual), self.spread, strict=True)]

    def strongest(self, residual: Residual) -> np.ndarray:
        """Return the largest absolute significance (n,), float64, over widths and places."""
        return np.max([np.abs(z).max(axis=1) for z in self.significance(residual)], axis=0).astype(np.float64)

    def peaks(self, residual: Residual, count: int = 3, least: float = 4.0) -> list[list[Peak]]:
        """Return for each spectrum its strongest features that do not overlap, strongest first.

        Parameters
        ----------
        residual : Residual
        count : int
            At most so many.
        least : float
            Least significance.
        """
        n_pix = residual.flux.shape[1]
        found: list[list[Peak]] = []
        for row in zip(*self.significance(residual), strict=True):
            free = np.ones(n_pix, bool)
            peaks: list[Peak] = []
            # Each width's own maxima, strongest first: a handful of candidates instead of every pixel.
            candidates = sorted(
                (-abs(float(z[b])), level, int(b))
                for level, z in enumerate(row)
                for b in np.flatnonzero(_is_peak(np.abs(z)) & (np.abs(z) >= least))
            )
            for _, level, b in candidates:
                size = 1 << level
                centre, width = (b + 0.5) * size - 0.5, _SIGMA * size
                covered = slice(max(int(centre - 2 * width), 0), int(centre + 2 * width) + 1)
                if len(peaks) < count and free[covered].all():
                    peaks.append(Peak(float(row[level][b]), centre, width))
                    free[covered] = False
            found.append(peaks)
        return found


def _is_peak(size: np.ndarray) -> np.ndarray:
    padded = np.pad(size, 1, constant_values=-1)
    return (size >= padded[:-2]) & (size > padded[2:])


def _filtered(residual: Residual) -> Iterator[np.ndarray]:
    """Yield z before it is divided by its spread, from the narrowest width to the widest."""
    product, weight = residual.flux * residual.weight, residual.weight
    for level in range(_LEVELS):
        if level:
            product, weight = _halved(product), _halved(weight)
        above = correlate1d(product, _KERNEL, axis=1, mode="constant")
        below = correlate1d(weight, _KERNEL**2, axis=1, mode="constant")
        yield above / np.sqrt(np.maximum(below, 1e-20))


def _halved(values: np.ndarray) -> np.ndarray:
    """Add neighbouring columns; an odd last one stays alone."""
    if values.shape[1] % 2:
        values = np.pad(values, ((0, 0), (0, 1)))
    return values[:, ::2] + values[:, 1::2]
