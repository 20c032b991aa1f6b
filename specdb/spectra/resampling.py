"""Linear interpolation onto a fixed grid in log10 wavelength, planned once per input grid and applied to many spectra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Resampler"]

#: Input and output pixels closer than this fraction of an input pixel are the same pixel. For a step of 1e-4 in log10 that
#: is 0.07 km/s, far below the wavelength calibration of LAMOST, and above the rounding of float32 wavelengths.
SAME_PIXEL = 1e-3

#: Neighbouring input pixels farther apart than this many median steps have a gap between them.
GAP_STEPS = 3.0


@dataclass(frozen=True)
class Resampler:
    """Where each output pixel lies among the input pixels.

    Attributes
    ----------
    left : ndarray (n_grid,), int64
        Input pixel at or below each output pixel; 0 outside the data.
    fraction : ndarray (n_grid,), float64
        Distance from `left` in input pixels, [0, 1); exactly 0 where both pixels coincide.
    inside : ndarray (n_grid,), bool
        False where the input does not reach.
    gap : ndarray (n_grid,), bool
        True where the two input pixels are so far apart that pixels are missing between them.
    """

    left: np.ndarray
    fraction: np.ndarray
    inside: np.ndarray
    gap: np.ndarray

    @classmethod
    def plan(cls, wavelength: np.ndarray, grid: np.ndarray) -> Resampler:
        """Plan the way from one grid to another.

        Parameters
        ----------
        wavelength : ndarray (n_pix,), float64
            Input grid in Angstrom, positive and strictly increasing, at least 2 pixels.
        grid : ndarray (n_grid,), float64
            Output grid in Angstrom.
        """
        x, at = np.log10(wavelength), np.log10(grid)
        left = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
        step = np.diff(x)
        fraction = (at - x[left]) / step[left]
        next_one = np.abs(fraction - 1) < SAME_PIXEL
        left, fraction = left + next_one, np.where(next_one, 0.0, fraction)
        fraction[np.abs(fraction) < SAME_PIXEL] = 0.0
        inside = (fraction >= 0) & (fraction < 1)
        left, fraction = np.where(inside, left, 0), np.where(inside, fraction, 0.0)
        gap = (fraction > 0) & (step[np.minimum(left, len(step) - 1)] > GAP_STEPS * np.median(step))
        return cls(left, fraction, inside, gap)

    @property
    def span(self) -> slice:
        """Input pixels that are needed; empty if the grids do not overlap."""
        if not self.inside.any():
            return slice(0, 0)
        used = self.left[self.inside]
        return slice(int(used.min()), int((used + (self.fraction[self.inside] > 0)).max()) + 1)

    def shifted(self, offset: int) -> Resampler:
        """Return the same plan for input arrays that start `offset` pixels later."""
        return Resampler(np.where(self.inside, self.left - offset, 0), self.fraction, self.inside, self.gap)

    def interpolate(self, values: np.ndarray, fill: float) -> np.ndarray:
        """Return values (n, n_pix) on the grid (n, n_grid), with `fill` outside the data."""
        if self._copies_all(values):
            return values
        right = self._right(values)
        result = values[:, self.left] * (1 - self.fraction) + values[:, right] * self.fraction
        result[:, ~self.inside] = fill
        return result

    def inverse_variance(self, ivar: np.ndarray) -> np.ndarray:
        """Return the inverse variance of interpolated values, input pixels taken as independent; 0 outside the data."""
        if self._copies_all(ivar):
            return ivar
        result = ivar[:, self.left].astype(np.float64)
        between = self.fraction > 0
        t = self.fraction[between]
        with np.errstate(divide="ignore"):
            variance = (1 - t) ** 2 / result[:, between] + t**2 / ivar[:, self._right(ivar)[between]]
        result[:, between] = 1 / variance
        result[:, ~self.inside] = 0.0
        return result

    def touched(self, flags: np.ndarray) -> np.ndarray:
        """Return for flags (n, n_pix), bool, whether an output pixel (n, n_grid) depends on a flagged input pixel."""
        if self._copies_all(flags):
            return flags
        return (flags[:, self.left] | (flags[:, self._right(flags)] & (self.fraction > 0))) & self.inside

    def _right(self, values: np.ndarray) -> np.ndarray:
        return np.minimum(self.left + 1, values.shape[1] - 1)

    def _copies_all(self, values: np.ndarray) -> bool:
        """Whether output pixel i is input pixel i, all of them."""
        same = values.shape[1] == len(self.left) and bool(self.inside.all()) and not self.fraction.any()
        return same and bool((self.left == np.arange(len(self.left))).all())
