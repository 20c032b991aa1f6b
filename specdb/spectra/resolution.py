"""Spectra of other instruments at the resolution and on the pixels of LAMOST LRS.

A spectrum that is sharper than LRS is convolved with the Gaussian whose variance is what it lacks,
``sigma_LRS ** 2 - sigma ** 2`` at each pixel, and read off at the LRS pixels. On pixels the Gaussian is the discrete one,
``exp(-t) I_j(t)`` with the modified Bessel functions I_j (Lindeberg 1990, IEEE PAMI 12, 234): its variance is t to the last
bit, also where it is narrower than a pixel, where a sampled Gaussian is not. Between pixels, cubic Lagrange interpolation
keeps the second moment too, so the width of a line comes out as asked. Where the instrument is less sharp than LRS
nothing is done: noise would be sharpened more than lines.

Variances are carried through with the squared weights. They are those of single pixels: neighbours share light and are
correlated, by 0.2 to 0.4 for SDSS (which lacks a sigma of 0.45 to 0.65 pixels) and by 0.6 to 0.7 for DESI (0.8 to 1.4
pixels of 0.8 Angstrom).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from specdb.errors import PreparationError
from specdb.spectra.repair import bad_pixels, interpolate_bad
from specdb.spectra.resampling import SAME_PIXEL, Resampler
from specdb.spectra.spectrum import Spectra

__all__ = ["FWHM_PER_SIGMA", "LRS_GRID", "LRS_RESOLUTION", "LogGrid", "match_resolution"]

FWHM_PER_SIGMA = float(np.sqrt(8 * np.log(2)))
LRS_RESOLUTION = 1800.0  #: wavelength over full width at half maximum (Cui et al. 2012, RAA 12, 1197)

#: Share of an output pixel's weight that may lie on pixels without information.
MAX_BAD_SHARE = 0.1

_LEVELS = 64  # steps per pixel in which the width of the kernel is rounded
_REACH = 5.0  # standard deviations at which the kernel ends
_ROWS = 32  # spectra at a time: their weights stay in the cache


@dataclass(frozen=True)
class LogGrid:
    """Pixels at vacuum wavelengths ``10 ** (coeff0 + coeff1 * i)`` in Angstrom, i below n."""

    coeff0: float
    coeff1: float
    n: int

    @cached_property
    def wavelength(self) -> np.ndarray:
        """Vacuum wavelength (n,), float64, Angstrom."""
        return 10 ** (self.coeff0 + self.coeff1 * np.arange(self.n))

    def place(self, log10_grid: tuple[float, float] | None) -> int | None:
        """Return which pixel of this grid the first pixel of another one is, None where their pixels do not coincide."""
        if log10_grid is None or log10_grid[1] != self.coeff1:
            return None
        offset = (log10_grid[0] - self.coeff0) / self.coeff1
        return round(offset) if abs(offset - round(offset)) < SAME_PIXEL else None


LRS_GRID = LogGrid(3.5682, 1e-4, 3909)  #: the pixels of most LAMOST LRS files


def match_resolution(
    batches: Sequence[Spectra],
    grid: LogGrid = LRS_GRID,
    *,
    resolution: float = LRS_RESOLUTION,
    assumed: float = LRS_RESOLUTION,
    mask_bits: int = 0,
) -> list[Spectra]:
    """Bring spectra to one resolution and one grid; vectorised over all that share pixels, in whichever batch they came.

    Parameters
    ----------
    batches : sequence of Spectra
        Wavelengths strictly increasing. `lsf_sigma` says how sharp they are.
    grid : LogGrid
        Pixels wanted.
    resolution : float
        Wavelength over full width at half maximum wanted, constant.
    assumed : float
        Resolution of spectra without `lsf_sigma`; where it is unknown in part, the row's median resolution is taken.
    mask_bits : int
        Bits of the and-mask that make a pixel bad, besides those of `specdb.spectra.repair.bad_pixels`.

    Returns
    -------
    list of Spectra
        One for each batch, with its metadata: flux and ivar (n, grid.n), float32. The inverse variance is 0 in pixels of
        which more than a tenth of the weight is on bad input pixels or beyond the ends of the spectrum; where the input
        has no errors their flux is NaN. Other bad pixels are bridged by straight lines before the convolution and leave
        their share of the variance to the good ones.

    Raises
    ------
    PreparationError
        For a resolution that is not positive.
    """
    if not (resolution > 0 and assumed > 0):
        raise PreparationError(f"resolution is {resolution}, assumed {assumed}; give positive wavelength over FWHM")
    starts = np.cumsum([0, *map(len, batches)]).tolist()
    flux, ivar = (np.empty((starts[-1], grid.n), np.float32) for _ in range(2))
    groups: dict[bytes, list[tuple[Spectra, int]]] = {}
    for batch, start in zip(batches, starts, strict=False):
        aligned = grid.place(batch.log10_grid) is not None
        groups.setdefault(b"" if aligned else np.asarray(batch.wavelength, np.float64).tobytes(), []).append((batch, start))
    for pixels, members in groups.items():
        plan = _plan(pixels, grid, resolution)
        for pieces in _blocks(members):
            rows = np.concatenate([start + np.arange(len(piece)) for piece, start in pieces])
            frames = [_frame(piece, plan, assumed, mask_bits) for piece, _ in pieces]
            flux[rows], ivar[rows] = _convolve(plan, *map(np.concatenate, zip(*frames, strict=True)))
    return [
        _matched(batch, grid, flux[start : start + len(batch)], ivar[start : start + len(batch)])
        for batch, start in zip(batches, starts, strict=False)
    ]


def _matched(batch: Spectra, grid: LogGrid, flux: np.ndarray, ivar: np.ndarray) -> Spectra:
    if batch.ivar is None:
        flux = np.where(ivar > 0, flux, np.float32(np.nan))
    errors = None if batch.ivar is None else ivar
    return Spectra(grid.wavelength, flux, errors, metadata=batch.metadata, log10_grid=(grid.coeff0, grid.coeff1))


def _blocks(members: list[tuple[Spectra, int]]) -> Iterator[list[tuple[Spectra, int]]]:
    """Cut batches into pieces and put pieces together, at most `_ROWS` spectra at a time."""
    block: list[tuple[Spectra, int]] = []
    room = _ROWS
    for batch, start in members:
        for at in range(0, len(batch), _ROWS):
            piece = batch if len(batch) <= _ROWS else batch.take(slice(at, at + _ROWS))
            if len(piece) > room:
                yield block
                block, room = [], _ROWS
            block.append((piece, start + at))
            room -= len(piece)
    if block:
        yield block


@dataclass(frozen=True)
class _Plan:
    """What depends only on the pixels of input and output.

    A *frame* is the input laid out so that the kernel of each output pixel falls on neighbouring pixels of it; where the
    input has no pixel, the frame has a bad one.

    Attributes
    ----------
    grid : LogGrid
    aligned : bool
        Pixels of input and output coincide; inputs may then begin anywhere.
    first : ndarray (n_grid,), int64
        Pixel of the frame where the kernel of each output pixel begins.
    pixel : ndarray (n_frame,), int64
        Input pixel of each pixel of the frame, counted from the first pixel of `grid` where they are aligned.
    wavelength : ndarray (n_frame,), float64
    nearest : ndarray (n_grid,), int64
        Input pixel at or next below each output pixel, counted as `pixel`.
    lost : ndarray (n_grid,), bool
        Output pixels outside the input, or in a gap of it.
    between : ndarray (n_grid, 1 or 4), float32
        Weights of the interpolation between input pixels.
    step, wanted : ndarray (n_grid,), float64
        Width of an input pixel, and standard deviation of the line spread wanted, in Angstrom.
    reach : int
        Pixels on either side of a kernel.
    """

    grid: LogGrid
    aligned: bool
    first: np.ndarray
    pixel: np.ndarray
    wavelength: np.ndarray
    nearest: np.ndarray
    lost: np.ndarray
    between: np.ndarray
    step: np.ndarray
    wanted: np.ndarray
    reach: int

    @property
    def most(self) -> int:
        """The widest kernel, in steps of 1 / `_LEVELS` pixel."""
        return int(np.rint(_LEVELS * (self.wanted / self.step).max()))


@lru_cache(maxsize=16)
def _plan(pixels: bytes, grid: LogGrid, resolution: float) -> _Plan:
    """Plan for the wavelengths of an input as bytes; without any, for inputs whose pixels are those of `grid`."""
    out = grid.wavelength
    wanted = out / (resolution * FWHM_PER_SIGMA)
    if not pixels:
        step = out * (np.log(10) * grid.coeff1)
        reach = int(np.ceil(_REACH * (wanted / step).max()))
        pixel = np.arange(-reach, grid.n + reach)
        wavelength = 10 ** (grid.coeff0 + grid.coeff1 * pixel)
        place = np.arange(grid.n)
        one = np.ones((grid.n, 1), np.float32)
        return _Plan(grid, True, place, pixel, wavelength, place, np.zeros(grid.n, bool), one, step, wanted, reach)
    have = np.frombuffer(pixels)
    way = Resampler.plan(have, out)
    step = np.gradient(have)[way.left]
    reach = int(np.ceil(_REACH * (wanted / step).max()))
    pixel = np.arange(way.left.min() - 1 - reach, way.left.max() + 3 + reach)
    wavelength = have[np.clip(pixel, 0, len(have) - 1)]
    first = way.left - 1 - reach - pixel[0]
    between = np.stack(_cubic(way.fraction), axis=1).astype(np.float32)
    return _Plan(grid, False, first, pixel, wavelength, way.left, ~way.inside | way.gap, between, step, wanted, reach)


def _cubic(t: np.ndarray) -> tuple[np.ndarray, ...]:
    """Weights of pixels -1, 0, 1, 2 in cubic Lagrange interpolation at `t`, 0 to 1."""
    return (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )


@lru_cache(maxsize=16)
def _gaussians(most: int, reach: int) -> np.ndarray:
    """Discrete Gaussians (2 reach + 1, most + 1), float32, of 0 to `most` steps of 1 / `_LEVELS` pixel, each of sum 1."""
    from scipy.special import ive

    variance = (np.arange(most + 1) / _LEVELS) ** 2
    kernels = ive(np.abs(np.arange(-reach, reach + 1))[:, None], variance)
    return (kernels / kernels.sum(axis=0)).astype(np.float32)


def _frame(batch: Spectra, plan: _Plan, assumed: float, mask_bits: int) -> tuple[np.ndarray, ...]:
    """Lay a batch out in the plan's frame.

    Returns
    -------
    flux, variance : ndarray (n, n_frame), float32
        In units of `scale`; bad pixels are bridged and have no variance.
    bad : ndarray (n, n_frame), bool
    sigma : ndarray (n, n_grid), float64
        Line spread of the input at the output pixels, Angstrom.
    scale : ndarray (n,), float32
        A power of two, so that neither small nor large units of flux leave the range of float32.
    """
    shift = (plan.grid.place(batch.log10_grid) or 0) if plan.aligned else 0
    n_pix = batch.flux.shape[1]
    pixel, nearest = np.clip(plan.pixel - shift, 0, n_pix - 1), np.clip(plan.nearest - shift, 0, n_pix - 1)

    def laid(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[:, pixel]

    flux, ivar = batch.flux[:, pixel].astype(np.float64), laid(batch.ivar)
    bad = bad_pixels(flux, ivar, laid(batch.and_mask), mask_bits)
    bad |= pixel != plan.pixel - shift
    interpolate_bad(plan.wavelength, flux, bad)
    mean = np.abs(flux).mean(axis=1)
    scale = np.exp2(np.rint(np.log2(np.where(mean > 0, mean, 1.0))))
    ivar = np.ones(flux.shape) if ivar is None else ivar.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        variance = np.where(bad, 0.0, 1 / (ivar * scale[:, None] ** 2)).astype(np.float32)
    sigma = _line_spread(None if batch.lsf_sigma is None else batch.lsf_sigma[:, nearest], len(batch), plan, assumed)
    return (flux / scale[:, None]).astype(np.float32), variance, bad, sigma, scale


def _line_spread(stated: np.ndarray | None, n: int, plan: _Plan, assumed: float) -> np.ndarray:
    """Return the line spread (n, n_grid) in Angstrom: as stated, else from the row's median resolution, else as assumed."""
    wavelength = plan.grid.wavelength
    if stated is None:
        return np.broadcast_to(wavelength / (assumed * FWHM_PER_SIGMA), (n, plan.grid.n))
    sigma = stated.astype(np.float64)
    known = (sigma > 0) & (sigma < np.inf)
    for row in np.flatnonzero(~known.all(axis=1)):
        good = known[row]
        ratio = np.median(wavelength[good] / sigma[row, good]) if good.any() else assumed * FWHM_PER_SIGMA
        sigma[row, ~good] = wavelength[~good] / ratio
    return sigma


def _convolve(
    plan: _Plan, flux: np.ndarray, variance: np.ndarray, bad: np.ndarray, sigma: np.ndarray, scale: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return flux and ivar (n, n_grid), float32, of frames."""
    lacking = np.sqrt(np.clip(plan.wanted**2 - sigma**2, 0, None)) / plan.step  # in input pixels
    level = np.rint(_LEVELS * lacking).astype(np.int64)
    lowest = level.min(axis=0)
    width, most = int((level - lowest).max()) + 1, plan.most
    gaussians = _gaussians(most, plan.reach)[:, np.minimum(lowest[:, None] + np.arange(width), most)]  # taps n_grid width
    n_between = plan.between.shape[1]
    kernels = np.zeros((len(gaussians) + n_between - 1, *gaussians.shape[1:]), np.float32)
    for k in range(n_between):
        kernels[k : k + len(gaussians)] += plan.between[:, k, None] * gaussians
    weights = kernels[:, np.arange(plan.grid.n), level - lowest]  # taps n n_grid

    def under(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        # Tap by tap: the order of the sums, and so their last bits, do not depend on the number of spectra.
        total = np.zeros(level.shape, np.float32)
        for tap, weight in enumerate(weights):
            moved = slice(tap, tap + plan.grid.n)
            total += weight * (values[:, moved] if plan.aligned else values.take(plan.first + tap, axis=1, mode="clip"))
        return total

    share = under(bad.astype(np.float32), np.abs(weights)) if bad.any() else np.zeros(level.shape, np.float32)
    spread = under(variance, weights * weights)
    good = (share <= MAX_BAD_SHARE) & (spread > 0) & ~plan.lost
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ivar = np.where(good, (1 - share) ** 2 / (spread.astype(np.float64) * scale[:, None] ** 2), 0.0)
        return (under(flux, weights) * scale[:, None]).astype(np.float32), ivar.astype(np.float32)
