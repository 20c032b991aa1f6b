"""LAMOST LRS preparation: divide by the SpecCLIP continuum and put 1462 pixels from 3999.4 to 5598.9 Angstrom on one grid.

Thousands of spectra are prepared at once, in blocks that stay in the processor's cache. The continua of a block are fitted
in stacks of a constant number of spectra, the last one filled up with zeros: every matrix product then has the same shape
whatever the number of spectra, so that a spectrum alone and among thousands gives the same bits. Spectra whose grids agree
up to 5700 Angstrom share the blocks.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

from specdb.errors import PreparationError
from specdb.spectra.checks import masked_median, wavelength_fault
from specdb.spectra.continuum import BLUE, BlueContinuum, running_median
from specdb.spectra.repair import LAMOST_MASK_BITS, BadPixels, bad_pixels, interpolate_bad
from specdb.spectra.resampling import Resampler
from specdb.spectra.schema import Quality
from specdb.spectra.spectrum import Prepared, Rejection, Spectra

__all__ = ["LAMOST_GRID", "LrsPreparation"]

#: Vacuum wavelength (1462,) in Angstrom: log10 from 3.602 in steps of 1e-4.
LAMOST_GRID = 10 ** np.linspace(3.602, 3.602 + 1461e-4, 1462)
LAMOST_GRID.flags.writeable = False

GRID_TEXT = "the grid 3999.4-5598.9 Angstrom"
#: Spectra in a stack, and stacks in a block. On the CPU a stack of 16 stays in a second-level cache, and each product below
#: the size (2^18 multiplications) at which OpenBLAS starts threads, which would take longer than the product.
STACKS = {"cpu": (16, 8), "cuda": (2048, 1)}
MANY = 0.1  #: share of repaired or filled pixels above which a spectrum is flagged MANY_REPAIRED

#: Normalised flux is kept, however absurd, up to this size: the encoders' sum of squares over the grid then fits a float32.
MAX_NORMALISED = 1e15

#: A spectrum that varies by less than this has a standard deviation that is zero in float32, and encoders divide by it.
MIN_VARIATION = 1e-15


@dataclass(frozen=True)
class _Plan:
    """All that depends only on the wavelength grid, for arrays cut down to the pixels that matter."""

    wavelength: np.ndarray
    blue: BlueContinuum
    resampler: Resampler  # counts pixels from `span.start`
    span: slice  # pixels that the model grid needs

    @classmethod
    def of(cls, wavelength: np.ndarray) -> _Plan:
        """Plan for a grid (n_pix,), float64."""
        resampler = Resampler.plan(wavelength, LAMOST_GRID)
        span = resampler.span
        return cls(wavelength, BlueContinuum.plan(wavelength), resampler.shifted(span.start), span)

    @staticmethod
    def reach(wavelength: np.ndarray) -> int:
        """Number of leading pixels that matter: those of the fit and the grid, and three more for the running median."""
        fit, grid = np.searchsorted(wavelength, [np.nextafter(BLUE[1], np.inf), LAMOST_GRID[-1]]).tolist()
        return max(fit, grid + 2) + 3


@lru_cache(maxsize=16)
def _plan(wavelength: bytes) -> _Plan:
    # A survey comes in thousands of calls on a handful of grids.
    return _Plan.of(np.frombuffer(wavelength))


@dataclass
class _Group:
    """Spectra that share a plan: the batches they come from and their rows in the input."""

    batches: list[Spectra] = field(default_factory=list)
    first_rows: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # spectra up to and with each batch

    def add(self, batch: Spectra, first_row: int) -> None:
        self.batches.append(batch)
        self.first_rows.append(first_row)
        self.ends.append(len(self) + len(batch))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def stack(self, start: int, stop: int, n_pix: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Return flux, ivar and and-mask of the spectra from `start` to `stop` in the group, cut to `n_pix` pixels."""
        first, last = bisect_right(self.ends, start), bisect_left(self.ends, stop)
        batches = self.batches[first : last + 1]
        before, behind = start - (self.ends[first] - len(batches[0])), self.ends[last] - stop

        def joined(name: str) -> Any:
            if getattr(batches[0], name) is None:
                return None
            parts = [getattr(batch, name)[:, :n_pix] for batch in batches]
            parts[-1] = parts[-1][: len(parts[-1]) - behind]
            parts[0] = parts[0][before:]
            return np.concatenate(parts)

        return joined("flux"), joined("ivar"), joined("and_mask")

    def rows(self) -> np.ndarray:
        """Return the row in the input of each spectrum."""
        ends = np.array(self.ends)
        sizes = np.diff(ends, prepend=0)
        return np.arange(ends[-1]) + np.repeat(self.first_rows - (ends - sizes), sizes)


@dataclass(frozen=True)
class _Block:
    """Prepared rows, and what decides whether they are kept."""

    flux: np.ndarray  # (n, n_grid) float32
    ivar: np.ndarray  # (n, n_grid) float32
    quality: np.ndarray  # (n,) int32
    n_repaired: np.ndarray  # (n,) int32
    snr: np.ndarray  # (n,) float32
    rejections: dict[int, tuple[str, str]]  # row of the block: reason and detail


@dataclass(frozen=True)
class LrsPreparation:
    """LAMOST LRS preparation as SpecCLIP's encoders expect it.

    For spectra without bad pixels the result is that of the public SpecCLIP code, normalised once. Bad pixels
    (`specdb.spectra.repair`) are bridged by straight lines, have no weight in the continuum fit, and come out with inverse
    variance 0; ends of the grid without good pixels are filled with 1, the continuum. Spectra on other grids get their
    continuum on their own pixels and are then interpolated linearly in log10 wavelength.

    Attributes
    ----------
    min_coverage : float
        Least share of grid pixels that must be good. Real A stars of S/N 120 have up to a quarter of theirs masked.
    min_snr : float
        Least median S/N per pixel over the good grid pixels; not applied where the input has no errors.
    mask_bits : int
        Bits of the and-mask that make a pixel bad.
    device : str
        ``cpu``, or a torch device such as ``cuda`` for the median filter and the fits.
    threads : int
        Blocks prepared at the same time on the CPU; changes no number.
    """

    min_coverage: float = 0.7
    min_snr: float = 1.0
    mask_bits: int = LAMOST_MASK_BITS
    device: str = "cpu"
    threads: int = 1
    name: str = field(default="specclip-lrs", init=False)
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.min_coverage <= 1:
            raise PreparationError(f"min_coverage is {self.min_coverage}; give a share between 0 and 1")
        if not self.min_snr >= 0:
            raise PreparationError(f"min_snr is {self.min_snr}; give 0 (no limit) or a positive number")
        if self.threads < 1:
            raise PreparationError(f"threads is {self.threads}; give 1 or more")
        if self.device.partition(":")[0] not in STACKS:
            raise PreparationError(f"device is {self.device!r}; give 'cpu', 'cuda' or 'cuda:N'")

    def settings(self) -> dict[str, float | int | str | bool]:
        """Return the settings that change numbers, for provenance."""
        return {"min_coverage": self.min_coverage, "min_snr": self.min_snr, "mask_bits": self.mask_bits}

    def __call__(self, batches: Sequence[Spectra]) -> Prepared:
        """Prepare several batches at once; rows are numbered through all of them in order."""
        n, n_grid = sum(len(batch) for batch in batches), len(LAMOST_GRID)
        flux, ivar = np.empty((n, n_grid), np.float32), np.empty((n, n_grid), np.float32)
        quality, n_repaired, snr = np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.float32)
        rejected: dict[int, tuple[str, str]] = {}

        tasks = []
        size = math.prod(STACKS[self.device.partition(":")[0]])
        for (wavelength, *_), group in self._groups(batches, rejected).items():
            rows, plan = group.rows(), _plan(wavelength)
            if plan.resampler.inside.any():
                tasks += [(plan, group, start, rows[start : start + size]) for start in range(0, len(group), size)]
            else:
                first, last = plan.wavelength[[0, -1]]
                why = f"the spectrum covers {first:.1f}-{last:.1f} Angstrom, nothing of {GRID_TEXT}"
                rejected |= {int(row): ("low_coverage", why) for row in rows}

        def prepare(task: tuple[_Plan, _Group, int, np.ndarray]) -> dict[int, tuple[str, str]]:
            plan, group, start, at = task
            block = self._prepare(plan, *group.stack(start, start + len(at), len(plan.wavelength)))
            flux[at], ivar[at], snr[at] = block.flux, block.ivar, block.snr
            quality[at], n_repaired[at] = block.quality, block.n_repaired
            return {int(at[row]): why for row, why in block.rejections.items()}

        if self.threads > 1 and len(tasks) > 1:
            with ThreadPoolExecutor(self.threads) as pool:
                found = list(pool.map(prepare, tasks))
        else:
            found = [prepare(task) for task in tasks]
        for part in found:
            rejected |= part

        rejections = [Rejection(*rejected[row], row) for row in sorted(rejected)]
        rows = np.setdiff1d(np.arange(n), np.fromiter(rejected, np.int64, len(rejected)))
        if rejections:
            flux, ivar, quality, n_repaired, snr = (a[rows] for a in (flux, ivar, quality, n_repaired, snr))
        return Prepared(flux, ivar, quality, n_repaired, snr, rows, rejections)

    def _groups(self, batches: Sequence[Spectra], rejected: dict[int, tuple[str, str]]) -> dict[tuple, _Group]:
        """Sort batches by what they share; those with unusable wavelengths go into `rejected`."""
        known: dict[Any, bytes | str] = {}  # what is cheap to compare -> wavelengths that matter, or what is wrong with them
        groups: dict[tuple, _Group] = {}
        first_row = 0
        for batch in batches:
            # The size decides together with the formula of the grid.
            grid: Any = (batch.log10_grid, batch.flux.shape[1]) if batch.log10_grid else batch.wavelength.tobytes()
            if grid not in known:
                wavelength = np.asarray(batch.wavelength, np.float64)
                known[grid] = wavelength_fault(wavelength, "A") or wavelength[: _Plan.reach(wavelength)].tobytes()
            used = known[grid]
            if isinstance(used, str):
                rejected |= {first_row + row: ("bad_wavelength", used) for row in range(len(batch))}
            elif len(batch):
                double = batch.flux.dtype.itemsize > 4 or batch.flux.dtype.kind != "f"
                kind = used, double, batch.ivar is None, batch.and_mask is None
                if kind not in groups:
                    groups[kind] = _Group()
                groups[kind].add(batch, first_row)
            first_row += len(batch)
        return groups

    def _prepare(self, plan: _Plan, raw: np.ndarray, ivar: np.ndarray | None, mask: np.ndarray | None) -> _Block:
        """Prepare one block of spectra (n, n_pix) of one grid."""
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            # float32 keeps every bit of a float32 flux; other types go through float64.
            flux = raw.astype(np.float32 if raw.dtype.kind == "f" and raw.dtype.itemsize <= 4 else np.float64)
            bad = bad_pixels(flux, ivar, mask, self.mask_bits)
            repaired = interpolate_bad(plan.wavelength, flux, bad)
            continuum = self._continuum(plan, flux, repaired)

            span, grid = plan.span, plan.resampler
            ends = np.zeros(continuum.shape, bool)
            needed = repaired.within(span.start, span.stop)
            ends[needed.row[needed.at_end], needed.pixel[needed.at_end]] = True
            lost = grid.touched(bad[:, span]) | ~grid.inside | grid.gap  # without information of its own
            filled = grid.touched(ends) | ~grid.inside
            n_lost = lost.sum(axis=1, dtype=np.int32)

            low = continuum <= 0
            low_continuum = (low & ~ends).any(axis=1)
            np.copyto(continuum, 1.0, where=low)
            normalised = grid.interpolate(flux[:, span] / continuum, fill=1.0).astype(np.float32)
            np.clip(normalised, -MAX_NORMALISED, MAX_NORMALISED, out=normalised)
            np.copyto(normalised, 1.0, where=filled)

            if ivar is None:
                inverse = np.zeros(normalised.shape, np.float32)
                snr = np.full(len(flux), np.nan, np.float32)
            else:
                scale = continuum.astype(np.float32)
                # In this order neither very small nor very large flux units leave the range of float32.
                inverse = grid.inverse_variance(ivar[:, span] * scale * scale).astype(np.float32)
                np.minimum(inverse, np.finfo(np.float32).max, out=inverse)
                np.copyto(inverse, 0.0, where=lost)
                snr = masked_median(normalised * np.sqrt(inverse), lost)

        quality = np.zeros(len(flux), np.int32)
        for bit, where in (
            (Quality.REPAIRED, (lost & ~filled).any(axis=1)),
            (Quality.LATE_START, filled[:, 0]),
            (Quality.EARLY_END, filled[:, -1]),
            (Quality.MANY_REPAIRED, n_lost > MANY * len(LAMOST_GRID)),
            (Quality.LOW_CONTINUUM, low_continuum),
            (Quality.NO_ERRORS, ivar is None),
        ):
            quality |= np.where(where, np.int32(bit), np.int32(0))
        variation = _variation(normalised, lost, filled)
        rejections = self._reject(plan, raw, ivar, n_lost, variation, snr)
        return _Block(normalised, inverse, quality, n_lost, snr, rejections)

    def _continuum(self, plan: _Plan, flux: np.ndarray, repaired: BadPixels) -> np.ndarray:
        """Return the continuum (n, n_span) of the pixels that the model grid needs, not yet guarded against zero."""
        lanes, blue = STACKS[self.device.partition(":")[0]][0], plan.blue.pixels
        left_out = repaired.within(blue.start, blue.stop)
        # Spectra that leave out nothing come first: their stacks then need no weights.
        order = np.argsort(np.bincount(left_out.row, minlength=len(flux)) > 0, kind="stable")
        left_out = left_out.in_order(order)
        result = np.empty((len(flux), plan.span.stop - plan.span.start))
        for start in range(0, len(flux), lanes):
            rows = order[start : start + lanes]
            result[rows] = self._fit(plan, flux[rows], left_out.of_rows(start, start + lanes), lanes)
        return result

    def _fit(self, plan: _Plan, flux: np.ndarray, left_out: BadPixels, lanes: int) -> np.ndarray:
        """Return the continuum (n, n_span) of one stack (n, n_pix), n up to `lanes`; `left_out` counts blue pixels."""
        columns = np.zeros((flux.shape[1], lanes), flux.dtype)
        columns[:, : len(flux)] = flux.T
        xp, send = (np, np.asarray) if self.device == "cpu" else self._torch()
        smooth = running_median(send(columns), xp)

        blue, span = plan.blue, plan.span
        if not blue.fitted:
            return _host(smooth[span]).T[: len(flux)]
        options: dict[str, Any] = {}
        if len(left_out):
            weight = np.ones((len(blue.basis), lanes))
            weight[left_out.pixel, left_out.row] = 0.0
            end = left_out.at_end
            options = {
                "weight": send(weight),
                "normal_inverse": send(blue.normal_inverse(left_out.row, left_out.pixel, lanes)),
                "uncovered": (send(left_out.pixel[end]), send(left_out.row[end])),
            }
        coefficients, _ = blue.fit(smooth[blue.pixels], send(blue.basis), xp, **options)
        first, last = max(span.start, blue.pixels.start), min(span.stop, blue.pixels.stop)
        basis = blue.basis[first - blue.pixels.start : last - blue.pixels.start]
        result = np.matmul(_host(coefficients).T, basis.T)
        if (first, last) != (span.start, span.stop):
            # A gap in the grid can make the pixel next to the last one of the model grid lie outside the blue part.
            inside, result = result, _host(smooth[span]).T.astype(np.float64)
            result[:, first - span.start : last - span.start] = inside
        return result[: len(flux)]

    def _torch(self) -> tuple[ModuleType, Callable[[np.ndarray], Any]]:
        import torch

        if not torch.cuda.is_available():
            raise PreparationError(f"device is {self.device!r} but torch finds no CUDA device; use device='cpu'")
        return torch, lambda array: torch.as_tensor(array, device=self.device)

    def _reject(
        self,
        plan: _Plan,
        raw: np.ndarray,
        ivar: np.ndarray | None,
        n_lost: np.ndarray,
        variation: np.ndarray,
        snr: np.ndarray,
    ) -> dict[int, tuple[str, str]]:
        """Return reason and detail for each row of a block that must not get in."""
        coverage = 1 - n_lost / len(LAMOST_GRID)
        uncovered = (coverage < self.min_coverage) | (coverage == 0)
        faint = snr < self.min_snr
        found: dict[int, tuple[str, str]] = {}
        for row in np.flatnonzero(uncovered | faint | (variation < MIN_VARIATION)).tolist():
            if uncovered[row]:
                flux = raw[row, plan.span]
                if len(flux) and not np.isfinite(flux).any():
                    found[row] = "bad_flux", f"no pixel of {GRID_TEXT} has a finite flux"
                elif len(flux) and ivar is not None and not (ivar[row, plan.span] > 0).any():
                    found[row] = "no_valid_pixels", f"the inverse variance is 0 everywhere on {GRID_TEXT}"
                else:
                    found[row] = (
                        "low_coverage",
                        f"good pixels cover {coverage[row]:.1%} of {GRID_TEXT}; the limit is {self.min_coverage:.1%}",
                    )
            elif variation[row] < MIN_VARIATION:
                found[row] = (
                    "bad_flux",
                    f"flat: the normalised flux varies by {variation[row]:.1e}; the limit is {MIN_VARIATION:g}",
                )
            else:
                found[row] = "low_snr", f"the median S/N on {GRID_TEXT} is {snr[row]:.2f}; the limit is {self.min_snr:g}"
        return found


def _variation(normalised: np.ndarray, lost: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """Return the range (n,) of each row's values, without those that were filled in."""
    result = normalised.max(axis=1) - normalised.min(axis=1)
    rows = np.flatnonzero(filled[:, 0] | filled[:, -1])
    own, without = normalised[rows], lost[rows]
    result[rows] = np.where(without, -np.inf, own).max(axis=1) - np.where(without, np.inf, own).min(axis=1)
    return result


def _host(array: Any) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()
