"""The continuum that SpecCLIP divides LAMOST low-resolution spectra by, for many spectra at once.

The recipe is that of the public SpecCLIP code (Zhao et al. 2025, arXiv 2507.01939): a running median of 7 pixels; from 3700
to 5700 Angstrom the upper envelope of a degree-5 polynomial, with the Balmer lines bridged first in spectra that peak in the
blue; above 6100 Angstrom a degree-4 polynomial with rejection; elsewhere the median itself.

Spectra are columns here: arrays are (n_pix, n). A least-squares fit is then two matrix products with an orthonormal basis Q
of the polynomials, fit = Q (Q^T y), and the median works on whole contiguous slabs. The functions use only what NumPy and
torch call by the same name, so one code serves arrays on the CPU and tensors on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["BLUE", "BlueContinuum", "continuum", "running_median"]

BLUE = (3700.0, 5700.0)  #: Angstrom, both ends included
RED_FROM = 6100.0  #: Angstrom, excluded
PEAK_LIMIT = 4500.0  #: Angstrom; a fit with its maximum below takes the blue-peaked branch
WINDOWS = ((4030.0, 4160.0), (4270.0, 4410.0), (4800.0, 4940.0))  #: H delta, H gamma, H beta, Angstrom
WINDOW_REACH = 10.0  #: Angstrom around a window's end in which its ordinate is looked up
BLUE_DEGREE, BLUE_ROUNDS = 5, 10
RED_DEGREE, RED_ROUNDS = 4, 9
MIN_PIXELS = 100  #: a part with this many pixels or fewer keeps the median-filtered flux

#: The reference misplaces the Balmer windows by as many pixels as the spectrum has below 3700 Angstrom. That is one pixel
#: for LAMOST files, and the encoders are trained on it. A spectrum of another instrument may have hundreds there; beyond
#: this many (about `WINDOW_REACH`) the windows are placed as for a LAMOST file.
MAX_WINDOW_SHIFT, LAMOST_WINDOW_SHIFT = 10, 1

Array = Any  # numpy.ndarray or torch.Tensor


def running_median(flux: Array, xp: ModuleType = np) -> Array:
    """Return the running median of 7 pixels, zeros beyond both ends.

    Neighbouring windows share six pixels. The third and fourth of those, s and t, are found once for two windows; the median
    of all seven is the remaining pixel clipped to [s, t].

    Parameters
    ----------
    flux : array (n_pix, n), float32 or float64
        Not NaN. The median selects values, so that float32 loses nothing.
    xp : module
        `numpy` or `torch`, whichever `flux` belongs to.
    """
    n_pix, n = flux.shape
    half = ((n_pix + 1) // 2 + 4, n)
    even, odd = xp.zeros(half, **_like(flux)), xp.zeros(half, **_like(flux))
    even[2 : 2 + n_pix // 2] = flux[1::2]  # pixel i is padded pixel i + 3
    odd[1 : 1 + (n_pix + 1) // 2] = flux[0::2]

    # Sorted pairs, then sorted fours (one, two, three, four); results overwrite what is no longer needed, for the cache.
    low, high = xp.minimum(even, odd), xp.maximum(even, odd)
    one, three = xp.minimum(low[:-2], low[1:-1]), xp.maximum(low[:-2], low[1:-1])
    two, four = xp.minimum(high[:-2], high[1:-1]), xp.maximum(high[:-2], high[1:-1])
    two, three = xp.minimum(two, three), xp.maximum(two, three, out=three)
    low, high = low[2:], high[2:]
    # The k-th of two sorted lists together is the least over i + j = k of the larger of their i-th and j-th.
    third = xp.minimum(three, xp.maximum(two, low))
    xp.minimum(third, xp.maximum(one, high, out=one), out=third)
    fourth = xp.minimum(four, xp.maximum(three, low, out=three), out=four)
    xp.minimum(fourth, xp.maximum(two, high, out=two), out=fourth)

    result = xp.empty((n_pix, n), **_like(flux))
    n_even, n_odd = (n_pix + 1) // 2, n_pix // 2
    result[0::2] = xp.maximum(third[:n_even], xp.minimum(even[3 : 3 + n_even], fourth[:n_even]))
    result[1::2] = xp.maximum(third[1 : 1 + n_odd], xp.minimum(odd[:n_odd], fourth[1 : 1 + n_odd]))
    return result


def _like(array: Array) -> dict[str, Any]:
    # Arrays of NumPy below 2 have no device.
    return {"dtype": array.dtype} if isinstance(array, np.ndarray) else {"dtype": array.dtype, "device": array.device}


def orthonormal_polynomials(wavelength: np.ndarray, degree: int) -> np.ndarray:
    """Return an orthonormal basis (n_pix, degree + 1) of the polynomials on these pixels: QR of Chebyshev polynomials."""
    low, high = wavelength[0], wavelength[-1]
    scaled = (2 * wavelength - low - high) / max(high - low, 1e-300)
    return np.linalg.qr(np.polynomial.chebyshev.chebvander(scaled, degree))[0]


@dataclass(frozen=True)
class _Window:
    """Pixels of the blue part (slices) that are bridged, and where the ordinates of the two ends are looked up."""

    pixels: slice
    ends: tuple[slice, slice]
    ramp: np.ndarray  # 0 at the window's start, 1 at its end


def _windows(wavelength: np.ndarray, n_below: int, n_blue: int) -> list[_Window]:
    """Positions on the full array index the blue part, as in the reference; windows that do not fit in are left out."""
    move = 0 if n_below <= MAX_WINDOW_SHIFT else LAMOST_WINDOW_SHIFT - n_below

    def between(low: float, high: float) -> slice:
        return slice(*(np.searchsorted(wavelength, [low, np.nextafter(high, np.inf)]) + move).tolist())

    windows = []
    for start, stop in WINDOWS:
        pixels = between(start, stop)
        ends = between(start - WINDOW_REACH, start + WINDOW_REACH), between(stop - WINDOW_REACH, stop + WINDOW_REACH)
        if all(0 <= part.start < part.stop <= n_blue for part in (pixels, *ends)):
            at = wavelength[pixels.start - move : pixels.stop - move]
            windows.append(_Window(pixels, ends, ((at - start) / (stop - start))[:, None]))
    return windows


@dataclass(frozen=True)
class BlueContinuum:
    """The envelope fit of the blue part on one wavelength grid.

    Attributes
    ----------
    pixels : slice
        The blue part within the grid.
    basis : ndarray (n_blue, 6), float64
        Orthonormal polynomials; empty if the part has too few pixels for a fit.
    products : ndarray (n_blue, 21), float64
        Products of each two polynomials, for the normal matrices of fits with missing pixels.
    n_hot : int
        Number of blue pixels below 4500 Angstrom.
    windows : list
        The Balmer windows.
    """

    pixels: slice
    basis: np.ndarray
    products: np.ndarray
    n_hot: int
    windows: list[_Window]

    @classmethod
    def plan(cls, wavelength: np.ndarray) -> BlueContinuum:
        """Plan the fit for a grid (n_pix,), float64, vacuum Angstrom, strictly increasing."""
        n_below = int(np.searchsorted(wavelength, BLUE[0]))
        pixels = slice(n_below, int(np.searchsorted(wavelength, BLUE[1], side="right")))
        blue = wavelength[pixels]
        fitted = len(blue) > MIN_PIXELS
        basis = orthonormal_polynomials(blue, BLUE_DEGREE) if fitted else np.empty((0, BLUE_DEGREE + 1))
        one, other = np.triu_indices(basis.shape[1])
        products = basis[:, one] * basis[:, other]
        n_hot = int(np.searchsorted(blue, PEAK_LIMIT))
        return cls(pixels, basis, products, n_hot, _windows(wavelength, n_below, len(blue)) if fitted else [])

    @property
    def fitted(self) -> bool:
        """Whether there are enough pixels for a fit."""
        return len(self.basis) > 0

    def normal_inverse(self, column: np.ndarray, pixel: np.ndarray, n: int) -> np.ndarray:
        """Return the inverse normal matrices (n, 6, 6) of fits that leave out some pixels.

        With every pixel the normal matrix of an orthonormal basis is exactly the identity; a missing pixel takes q q^T away.

        Parameters
        ----------
        column, pixel : ndarray (n_out,), int
            Spectrum and blue pixel of each that is left out, ordered by spectrum.
        n : int
            Number of spectra.
        """
        size = self.basis.shape[1]
        inverse = np.broadcast_to(np.eye(size), (n, size, size)).copy()
        if len(column):
            first = np.flatnonzero(np.diff(column, prepend=-1))
            missing = np.add.reduceat(self.products.take(pixel, axis=0), first)
            one, other = np.triu_indices(size)
            normal = np.empty((len(first), size, size))
            normal[:, one, other] = normal[:, other, one] = -missing
            # The addition is far below any normal matrix with pixels over most of the range; it keeps all invertible.
            inverse[column[first]] = np.linalg.inv(np.eye(size) + (normal + 1e-12 * np.eye(size)))
        return inverse

    def fit(
        self,
        smooth: Array,
        basis: Array,
        xp: ModuleType = np,
        weight: Array | None = None,
        normal_inverse: Array | None = None,
        uncovered: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Fit the upper envelope.

        Parameters
        ----------
        smooth : array (n_blue, n), float
            Median-filtered flux of the blue part.
        basis : array (n_blue, 6), float64
            `self.basis` where `smooth` lives.
        weight : array (n_blue, n), float64, optional
            0 for pixels that are left out of the fit, else 1. The flux of the former still counts where the ends of the
            Balmer windows are looked up.
        normal_inverse : array (n, 6, 6), optional
            As `normal_inverse` returns it; with `weight`.
        uncovered : tuple of arrays (pixel, column), optional
            Where the maximum of the fit is not looked for: those beyond the spectrum's good pixels.

        Returns
        -------
        coefficients : array (6, n), float64
            The continuum is ``basis @ coefficients``.
        blue_branch : array (n,), bool
            True for spectra that peak below 4500 Angstrom.
        """
        transposed = basis.T
        if xp is np:
            transposed = np.ascontiguousarray(transposed)
        fit, envelope = (xp.empty(smooth.shape, **_like(basis)) for _ in range(2))
        envelope[:] = smooth

        # A view and a list of places: reading all weights in each round would push the envelope out of the cache.
        flat, left_out = envelope.reshape(-1), None if weight is None else xp.where(weight.reshape(-1) == 0)

        def solve() -> Array:
            if left_out is None:
                return xp.matmul(transposed, envelope)
            flat[left_out] = 0.0
            return xp.einsum("nij,jn->in", normal_inverse, xp.matmul(transposed, envelope))

        coefficients = solve()
        xp.matmul(basis, coefficients, out=fit)
        if uncovered is not None:
            fit[uncovered] = -xp.inf
        if 0 < self.n_hot < len(basis):
            blue_branch = _highest(fit[: self.n_hot], xp) >= _highest(fit[self.n_hot :], xp)
        else:
            blue_branch = (fit[0] == fit[0]) & (self.n_hot > 0)
        if self.windows and bool(blue_branch.any()):
            for window in self.windows:
                start, stop = (xp.amax(smooth[end], 0) for end in window.ends)
                line = start + xp.asarray(window.ramp, **_like(basis)) * (stop - start)
                envelope[window.pixels] = xp.where(blue_branch, line, envelope[window.pixels])
            coefficients = solve()
        for _ in range(BLUE_ROUNDS):
            xp.matmul(basis, coefficients, out=fit)
            xp.maximum(envelope, fit, out=envelope)
            coefficients = solve()
        return coefficients, blue_branch


def _highest(values: Array, xp: ModuleType) -> Array:
    """Return the maximum (n,) over the pixels of values (n_pix, n). Folding makes the long rows that NumPy is fast on."""
    while len(values) > 64:
        half = (len(values) + 1) // 2
        values = xp.maximum(values[:half], values[-half:])  # an odd one out is in both
    return xp.amax(values, 0)


def _red_continuum(wavelength: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """Return the red continuum: values below the fit or more than 3 sigma above it give way to the fit, nine rounds."""
    basis = orthonormal_polynomials(wavelength, RED_DEGREE)
    smooth = smooth.copy()
    for _ in range(RED_ROUNDS):
        fit = basis @ (basis.T @ smooth)
        residual = smooth - fit
        smooth = np.where((residual < 0) | (residual > 3 * residual.std(axis=0)), fit, smooth)
    return fit


def continuum(wavelength: np.ndarray, flux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the whole continuum of spectra without bad pixels, for figures and tests; models see only its blue part.

    Parameters
    ----------
    wavelength : ndarray (n_pix,), float64
        Vacuum Angstrom, strictly increasing.
    flux : ndarray (n, n_pix), float
        Finite.

    Returns
    -------
    continuum : ndarray (n, n_pix), float64
        Units of `flux`; values that would be zero or negative are 1.
    blue_branch : ndarray (n,), bool
        True for spectra that peak below 4500 Angstrom.
    """
    result = running_median(np.ascontiguousarray(flux.T, np.float64))
    blue = BlueContinuum.plan(wavelength)
    blue_branch = np.zeros(len(flux), bool)
    if blue.fitted:
        coefficients, blue_branch = blue.fit(result[blue.pixels], blue.basis)
        result[blue.pixels] = blue.basis @ coefficients
    red = slice(int(np.searchsorted(wavelength, RED_FROM, side="right")), None)
    if len(wavelength[red]) > MIN_PIXELS:
        result[red] = _red_continuum(wavelength[red], result[red])
    result[result <= 0] = 1.0
    return result.T, blue_branch
