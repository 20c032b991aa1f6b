"""Gaia XP preparation: 336, 338, .. 1020 nm, divided by the flux at 550 nm.

Linear interpolation in wavelength, in float64, as SpecCLIP's encoders expect it. Where the public SpecCLIP code stops with
an error, namely on spectra that do not reach both ends of the grid, this one repairs, flags and counts, or rejects with a
reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from specdb.errors import PreparationError
from specdb.spectra.checks import masked_median, wavelength_fault
from specdb.spectra.repair import bad_pixels, interpolate_bad
from specdb.spectra.schema import Quality
from specdb.spectra.spectrum import Prepared, Rejection, Spectra

__all__ = ["XP_GRID", "XpPreparation"]

#: Vacuum wavelength (343,) in Angstrom.
XP_GRID = np.arange(3360.0, 10201.0, 20.0)
XP_GRID.flags.writeable = False

PIVOT = 107  #: pixel of the grid at 550 nm, whose flux becomes 1
BLOCK_ROWS = 1024  #: spectra prepared at a time, so that a block's arrays stay near the processor's cache

#: A grid pixel this close to the end of the data takes the value of the last pixel and counts as covered: half a grid step.
EDGE_TOLERANCE_NM = 1.0

#: Grid pixels between input pixels farther apart than this count as repaired: the resolution of XP is 4 to 30 nm.
MAX_STEP_NM = 10.0

#: Wavelengths within which only one photometer contributes (GaiaXPy: RP starts at 635 nm, BP ends at 643 nm).
RP_START_NM, BP_END_NM = 635.0, 643.0

MANY = 0.1  #: share of repaired or filled pixels above which a spectrum is flagged MANY_REPAIRED
SAME_PIXEL = 1e-6  #: grid pixels closer to an input pixel than this fraction of a step coincide with it
MIN_VARIATION = 1e-6  #: spectra that vary by less are flat in float32, and encoders divide by the standard deviation
MAX_NORMALISED = 1e15  #: the encoders' sum of squares over the grid then fits a float32


@dataclass(frozen=True)
class _Plan:
    """Where the grid pixels lie among the input pixels; depends on the wavelengths alone.

    Grid pixel j is ``(1 - fraction[j]) * flux[left[j]] + fraction[j] * flux[left[j] + 1]``.
    """

    wavelength_nm: np.ndarray  # (n_pix,)
    left: np.ndarray  # (343,) int64
    fraction: np.ndarray  # (343,) in [0, 1]
    before: np.ndarray  # (343,) bool: bluer than the data
    behind: np.ndarray  # (343,) bool: redder than the data
    gap: np.ndarray  # (343,) bool: input pixels are missing there

    @classmethod
    def of(cls, wavelength_nm: np.ndarray) -> _Plan:
        grid = XP_GRID / 10
        left = np.clip(np.searchsorted(wavelength_nm, grid, side="right") - 1, 0, len(wavelength_nm) - 2)
        step = np.diff(wavelength_nm)[left]
        fraction = np.clip((grid - wavelength_nm[left]) / step, 0.0, 1.0)
        fraction[fraction < SAME_PIXEL] = 0.0
        fraction[fraction > 1 - SAME_PIXEL] = 1.0
        return cls(
            wavelength_nm,
            left,
            fraction,
            before=grid < wavelength_nm[0] - EDGE_TOLERANCE_NM,
            behind=grid > wavelength_nm[-1] + EDGE_TOLERANCE_NM,
            gap=(fraction > 0) & (fraction < 1) & (step > MAX_STEP_NM),
        )

    @cached_property
    def exact(self) -> bool:
        """Whether every grid pixel coincides with an input pixel."""
        return bool(np.isin(self.fraction, (0, 1)).all())

    @cached_property
    def nearest(self) -> np.ndarray | slice:
        """The input pixels (343,) that grid pixels coincide with; a slice where the grids are equal, to save copying."""
        pixel = self.left + self.fraction.astype(np.int64)
        return slice(None) if np.array_equal(pixel, np.arange(len(self.wavelength_nm))) else pixel

    def interpolate(self, flux: np.ndarray) -> np.ndarray:
        """Return flux (n, n_pix) on the grid (n, 343)."""
        if self.exact:
            return flux[:, self.nearest]
        low, high = flux[:, self.left], flux[:, self.left + 1]
        return low + (high - low) * self.fraction

    def inverse_variance(self, ivar: np.ndarray) -> np.ndarray:
        """Return the inverse variance on the grid, input pixels taken as independent and all positive."""
        if self.exact:
            return ivar[:, self.nearest]
        variance = (1 - self.fraction) ** 2 / ivar[:, self.left] + self.fraction**2 / ivar[:, self.left + 1]
        return 1 / variance

    def touched(self, bad: np.ndarray) -> np.ndarray:
        """Return for bad pixels (n, n_pix) which grid pixels (n, 343) depend on one."""
        if self.exact:
            return bad[:, self.nearest]
        return (bad[:, self.left] & (self.fraction < 1)) | (bad[:, self.left + 1] & (self.fraction > 0))


@dataclass(frozen=True)
class _Block:
    """Prepared rows, and what decides whether they are kept."""

    flux: np.ndarray  # (n, 343) float32
    ivar: np.ndarray  # (n, 343) float32
    quality: np.ndarray  # (n,) int32
    n_repaired: np.ndarray  # (n,) int32
    snr: np.ndarray  # (n,) float32
    rejections: dict[int, tuple[str, str]]  # row of the block: reason and detail


@dataclass(frozen=True)
class XpPreparation:
    """Gaia XP preparation as SpecCLIP's encoders expect it.

    Bad pixels (`specdb.spectra.repair`) inside the spectrum are bridged by straight lines in wavelength; ends of the grid
    without good pixels take the value of the last good one. Repaired and filled pixels have inverse variance 0 and are
    counted. The inverse variance takes the flux at 550 nm as exact and samples as independent. Sources without BP or without
    RP are rejected: the flux at 550 nm comes from BP, and RP is more than half of the grid.

    Attributes
    ----------
    min_coverage : float
        Least share of grid pixels that must be good.
    min_snr : float
        Least median S/N per pixel over the good grid pixels; not applied where the input has no errors.
    """

    min_coverage: float = 0.9
    min_snr: float = 1.0
    name: str = field(default="specclip-xp", init=False)
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.min_coverage <= 1:
            raise PreparationError(f"min_coverage is {self.min_coverage}; give a share between 0 and 1")
        if not self.min_snr >= 0:
            raise PreparationError(f"min_snr is {self.min_snr}; give 0 (no limit) or a positive number")

    def settings(self) -> dict[str, float | int | str | bool]:
        """Return the settings that change numbers, for provenance."""
        return {"min_coverage": self.min_coverage, "min_snr": self.min_snr}

    def __call__(self, batches: Sequence[Spectra]) -> Prepared:
        """Prepare several batches at once; rows are numbered through all of them in order."""
        n, n_grid = sum(len(batch) for batch in batches), len(XP_GRID)
        flux, ivar = np.empty((n, n_grid), np.float32), np.empty((n, n_grid), np.float32)
        quality, n_repaired, snr = np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.float32)
        rejected: dict[int, tuple[str, str]] = {}
        first = 0
        for batch in batches:
            wavelength_nm = np.asarray(batch.wavelength, np.float64) / 10
            fault = wavelength_fault(wavelength_nm, "nm")
            if fault:
                rejected |= dict.fromkeys(range(first, first + len(batch)), ("bad_wavelength", fault))
            else:
                plan = _Plan.of(wavelength_nm)
                for start in range(0, len(batch), BLOCK_ROWS):
                    block_rows = slice(start, min(start + BLOCK_ROWS, len(batch)))
                    at = slice(first + block_rows.start, first + block_rows.stop)
                    raw_ivar = None if batch.ivar is None else batch.ivar[block_rows]
                    block = self._prepare(plan, batch.flux[block_rows], raw_ivar)
                    flux[at], ivar[at], snr[at] = block.flux, block.ivar, block.snr
                    quality[at], n_repaired[at] = block.quality, block.n_repaired
                    rejected |= {at.start + row: why for row, why in block.rejections.items()}
            first += len(batch)

        rejections = [Rejection(*rejected[row], row) for row in sorted(rejected)]
        kept = np.ones(n, bool)
        kept[list(rejected)] = False
        rows = np.flatnonzero(kept)
        if rejections:
            return Prepared(flux[rows], ivar[rows], quality[rows], n_repaired[rows], snr[rows], rows, rejections)
        return Prepared(flux, ivar, quality, n_repaired, snr, rows)

    def _prepare(self, plan: _Plan, raw: np.ndarray, raw_ivar: np.ndarray | None) -> _Block:
        """Prepare one block of spectra (n, n_pix) of one grid."""
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            flux = raw.astype(np.float64)
            bad = bad_pixels(flux, raw_ivar)
            any_bad = bool(bad.any())
            if any_bad:
                repaired = interpolate_bad(plan.wavelength_nm, flux, bad)
            on_grid = plan.interpolate(flux)
            pivot = on_grid[:, PIVOT, None]
            normalised = on_grid / pivot

            lost = np.broadcast_to(plan.before | plan.behind | plan.gap, normalised.shape)
            before, behind = np.full(len(flux), plan.before.any()), np.full(len(flux), plan.behind.any())
            inner = np.full(len(flux), plan.gap.any())
            if any_bad:
                at_end = np.zeros(flux.shape, bool)
                at_end[repaired.row[repaired.at_end], repaired.pixel[repaired.at_end]] = True
                filled = plan.touched(at_end)
                lost = lost | plan.touched(bad)
                before, behind = before | filled[:, 0], behind | filled[:, -1]
                inner |= (lost & ~filled & ~plan.before & ~plan.behind).any(axis=1)
            n_lost = lost.sum(axis=1, dtype=np.int32)

            if raw_ivar is None:
                ivar = np.zeros(normalised.shape, np.float32)
                snr = np.full(len(flux), np.nan, np.float32)
            else:
                weight = np.where(bad, 1.0, raw_ivar) if any_bad else raw_ivar.astype(np.float64)
                scaled = np.minimum(plan.inverse_variance(weight) * pivot**2, np.finfo(np.float32).max)
                ivar = np.where(lost, 0.0, scaled).astype(np.float32)
                snr = masked_median(normalised * np.sqrt(scaled), lost)

        quality = np.zeros(len(flux), np.int32)
        for bit, where in (
            (Quality.REPAIRED, inner),
            (Quality.LATE_START, before),
            (Quality.EARLY_END, behind),
            (Quality.MANY_REPAIRED, n_lost > MANY * len(XP_GRID)),
            (Quality.NO_ERRORS, raw_ivar is None),
        ):
            quality |= np.where(where, np.int32(bit), np.int32(0))
        rejections = self._reject(plan, raw, bad, pivot[:, 0], np.ptp(normalised, axis=1), n_lost, snr)
        with np.errstate(over="ignore"):  # what overflows has been rejected above
            single = normalised.astype(np.float32)
        return _Block(single, ivar, quality, n_lost, snr, rejections)

    def _reject(
        self,
        plan: _Plan,
        raw: np.ndarray,
        bad: np.ndarray,
        pivot: np.ndarray,
        variation: np.ndarray,
        n_lost: np.ndarray,
        snr: np.ndarray,
    ) -> dict[int, tuple[str, str]]:
        """Return reason and detail for each row of a block that must not get in; the first reason that applies counts."""
        n_grid = len(XP_GRID)
        coverage = 1 - n_lost / n_grid
        no_bp = bad[:, plan.wavelength_nm < RP_START_NM].all(axis=1)
        no_rp = bad[:, plan.wavelength_nm > BP_END_NM].all(axis=1)
        finite = np.isfinite(raw).any(axis=1)
        what = "samples of both BP and RP are needed"
        checks = (
            (~finite, "bad_flux", lambda row: "no flux is finite"),
            (bad.all(axis=1), "no_valid_pixels", lambda row: "no pixel has a finite flux and a positive inverse variance"),
            (no_bp, "missing_flux", lambda row: f"BP is missing: no good pixel below {RP_START_NM:g} nm; {what}"),
            (no_rp, "missing_flux", lambda row: f"RP is missing: no good pixel above {BP_END_NM:g} nm; {what}"),
            (
                (coverage < self.min_coverage) | (n_lost == n_grid),
                "low_coverage",
                lambda row: (
                    f"{coverage[row]:.1%} of the grid 336-1020 nm has good pixels; the limit is {self.min_coverage:.1%}"
                ),
            ),
            (~(pivot > 0), "bad_flux", lambda row: f"the flux at 550 nm is {pivot[row]:.3g}; it must be positive"),
            (~(variation >= MIN_VARIATION), "bad_flux", lambda row: "flat: the flux is the same at all wavelengths"),
            (
                variation > MAX_NORMALISED,
                "bad_flux",
                lambda row: f"the flux at 550 nm, {pivot[row]:.3g}, is next to nothing",
            ),
            (
                snr < self.min_snr,
                "low_snr",
                lambda row: f"the median S/N per pixel is {snr[row]:.2f}; the limit is {self.min_snr:g}",
            ),
        )
        found: dict[int, tuple[str, str]] = {}
        for where, reason, detail in reversed(checks):
            found |= {row: (reason, detail(row)) for row in np.flatnonzero(where).tolist()}
        return found
