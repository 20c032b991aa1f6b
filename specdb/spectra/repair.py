"""Which pixels are bad, and what stands in their place.

A pixel is bad where its inverse variance is zero, negative or not finite, where its flux is not finite in float32, or where
a chosen and-mask bit is set. Bad pixels between good ones get the straight line (in wavelength) between the nearest good
pixels; bad pixels before the first or behind the last good one get that pixel's value. Nothing here loops over spectra.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LAMOST_MASK_BITS", "BadPixels", "bad_pixels", "interpolate_bad"]

#: The lowest six bits of the LAMOST and-mask (bad CCD pixel, bad profile, no sky, bright sky, bad centre, no data).
#: In the 489 files the rules were tried on, a pixel of the model grid with any and-mask bit always has inverse variance 0
#: too, so the choice costs no pixel there. The or-mask (one bad exposure among several good ones) is not used: it would.
LAMOST_MASK_BITS = 0b111111


def bad_pixels(
    flux: np.ndarray, ivar: np.ndarray | None = None, and_mask: np.ndarray | None = None, mask_bits: int = LAMOST_MASK_BITS
) -> np.ndarray:
    """Return a boolean array, True where a pixel carries no information.

    Parameters
    ----------
    flux : ndarray (n, n_pix), float
    ivar : ndarray (n, n_pix), float, or None
        Inverse variance; None means that nothing is known, so that only the flux decides.
    and_mask : ndarray (n, n_pix), int, or None
    mask_bits : int
        Bits of `and_mask` that make a pixel bad.
    """
    # One comparison catches NaN, infinity and what a float32 cannot hold.
    good = np.abs(flux) <= np.finfo(np.float32).max
    if ivar is not None:
        good &= ivar > 0
        good &= ivar < np.inf
    if and_mask is not None and mask_bits:
        good &= (and_mask & mask_bits) == 0
    return np.logical_not(good, out=good)


@dataclass(frozen=True)
class BadPixels:
    """The bad pixels of some spectra as a list, row by row; short where most pixels are good.

    Attributes
    ----------
    row, pixel : ndarray (n_bad,), int64
        Position of each bad pixel, ordered by row, then by pixel.
    at_end : ndarray (n_bad,), bool
        True where no good pixel lies before it or none behind it.
    """

    row: np.ndarray
    pixel: np.ndarray
    at_end: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def of_rows(self, start: int, stop: int) -> BadPixels:
        """Return those of the rows from `start` to `stop`, rows counted from `start`."""
        part = slice(*np.searchsorted(self.row, [start, stop]).tolist())
        return BadPixels(self.row[part] - start, self.pixel[part], self.at_end[part])

    def in_order(self, order: np.ndarray) -> BadPixels:
        """Return those of the same rows in another order, `order` (n,), that keeps the rows with bad pixels in theirs."""
        return BadPixels(np.argsort(order)[self.row], self.pixel, self.at_end)

    def within(self, start: int, stop: int) -> BadPixels:
        """Return those with ``start <= pixel < stop``, counted from `start`."""
        keep = (self.pixel >= start) & (self.pixel < stop)
        return BadPixels(self.row[keep], self.pixel[keep] - start, self.at_end[keep])


def interpolate_bad(wavelength: np.ndarray, flux: np.ndarray, bad: np.ndarray) -> BadPixels:
    """Replace bad pixels in place and return where they were.

    Parameters
    ----------
    wavelength : ndarray (n_pix,), float64
        Strictly increasing.
    flux : ndarray (n, n_pix), float
        Changed in place. Rows without any good pixel become zero.
    bad : ndarray (n, n_pix), bool
    """
    n_pix = flux.shape[1]
    # A good pixel on both sides of each row, so that runs of bad pixels end with their row.
    framed = np.zeros((len(flux), n_pix + 2), bool)
    framed[:, 1:-1] = bad
    edges = np.flatnonzero(framed.ravel()[1:] != framed.ravel()[:-1]) + 1
    start, stop = edges[0::2], edges[1::2]
    run_row, first = np.divmod(start, n_pix + 2)
    length = stop - start
    left, right = first - 2, first - 1 + length  # the good neighbours, in pixels of the row
    run = np.repeat(np.arange(len(start)), length)
    row = run_row[run]
    pixel = (first - 1)[run] + np.arange(len(run)) - np.repeat(np.cumsum(length) - length, length)

    no_left, no_right = left < 0, right >= n_pix
    lower, upper = np.where(no_left, right, left), np.where(no_right, left, right)
    empty = no_left & no_right
    lower[empty] = upper[empty] = 0
    span = np.where(no_left | no_right, np.inf, wavelength[upper] - wavelength[lower])
    low = np.where(empty, 0.0, flux[run_row, lower]).astype(np.float64)
    high = np.where(empty, 0.0, flux[run_row, upper]).astype(np.float64)
    weight = (wavelength[pixel] - wavelength[lower][run]) / span[run]
    flux[row, pixel] = low[run] + weight * (high - low)[run]
    return BadPixels(row, pixel, (no_left | no_right)[run])
