"""Gaia XP coefficients to sampled spectra: one matrix product for thousands of sources.

Gaia DR3 describes a BP/RP spectrum by 55 + 55 coefficients of a basis. The externally calibrated spectrum is linear in them
(De Angeli et al. 2023, A&A 674, A2; Montegriffo et al. 2023, A&A 674, A3), so the calibration is a matrix. Its numbers ship
in `data/gaia_xp_sampling.npz` and are derived from GaiaXPy by `indexer.derive.xp_sampling`, which says for which sampling.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache, cached_property

import numpy as np

from specdb.errors import InputError
from specdb.shipped import shipped_file

__all__ = ["N_BASES", "XpArm", "XpSampling", "load_xp_sampling"]

N_BASES = 55
N_CORRELATIONS = N_BASES * (N_BASES - 1) // 2
#: Rows and columns of the archive's correlation vector: the lower triangle without its diagonal, row by row.
_ROW, _COLUMN = np.tril_indices(N_BASES, k=-1)
_BLOCK_ROWS = 256  # sources whose covariances are formed at a time, so that they stay in the processor's cache


@dataclass(frozen=True)
class XpArm:
    """The coefficients of one photometer, BP or RP, of many sources.

    Attributes
    ----------
    coefficients : ndarray (n, 55)
        A row with any value that is not finite counts as missing: the source has no spectrum in this photometer.
    errors : ndarray (n, 55), or None
        Standard errors of the coefficients.
    correlations : ndarray (n, 1485), or None
        Lower triangle of the correlation matrix without its diagonal, row by row, as in the archive. A row of NaN counts as
        uncorrelated, and so does None.
    """

    coefficients: np.ndarray
    errors: np.ndarray | None = None
    correlations: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.coefficients)
        for name, width in (("coefficients", N_BASES), ("errors", N_BASES), ("correlations", N_CORRELATIONS)):
            array = getattr(self, name)
            if array is not None and array.shape != (n, width):
                raise InputError(f"{name} of an XP arm has shape {array.shape}; expected {(n, width)}")

    @property
    def present(self) -> np.ndarray:
        """Whether each source has this arm: ndarray (n,), bool."""
        return np.isfinite(self.coefficients).all(axis=1)


@dataclass(frozen=True)
class XpSampling:
    """The calibration of Gaia DR3 on one wavelength grid.

    Attributes
    ----------
    wavelength_nm : ndarray (n_grid,), float64
        Vacuum wavelength in nm; the shipped grid is 336, 338, .. 1020 (343 points).
    bp, rp : ndarray (55, n_grid), float64
        Spectrum in W m-2 nm-1 of each basis function, zero outside the arm's range (BP up to 643 nm, RP from 635 nm).
    bp_weight : ndarray (n_grid,), float64
        Weight of BP where both arms are present, RP having the rest.
    provenance : dict
        GaiaXPy version, calibration model and release that the numbers come from.
    """

    wavelength_nm: np.ndarray
    bp: np.ndarray
    rp: np.ndarray
    bp_weight: np.ndarray
    provenance: dict[str, str] = field(default_factory=dict)

    def flux(self, bp: XpArm, rp: XpArm) -> np.ndarray:
        """Sample the spectra.

        Returns
        -------
        ndarray (n, n_grid), float64
            W m-2 nm-1. As in GaiaXPy, a source with one arm has NaN where only the other would contribute, and the value of
            its one arm, unmerged, in the overlap.
        """
        arms = ((bp, bp.present), (rp, rp.present))
        coefficients = np.concatenate([np.where(present[:, None], arm.coefficients, 0.0) for arm, present in arms], axis=1)
        return coefficients @ self._merged * self._unmerge(arms[0][1], arms[1][1])

    def ivar(self, bp: XpArm, rp: XpArm) -> np.ndarray | None:
        """Return the inverse variance of `flux`, or None where an arm carries no errors.

        BP and RP are independent; within an arm the variance of a sample is d^T S d with S the covariance of the
        coefficients and d its column of the calibration. That is linear in S, so this, too, is a matrix product, over the
        1540 distinct elements of S. Samples of one spectrum are correlated; that is not represented.

        Returns
        -------
        ndarray (n, n_grid), float64, or None
            In (W m-2 nm-1)**-2, which overflows float32 for faint sources. 0 where `flux` is NaN or the errors are unusable.
        """
        if bp.errors is None or rp.errors is None:
            return None
        variance = np.zeros((len(bp.coefficients), len(self.wavelength_nm)))
        arms = ((bp, bp.errors), (rp, rp.errors))
        for (arm, given), (covered, squares, products) in zip(arms, self._quadratic, strict=True):
            errors = np.where(arm.present[:, None], given, 0.0)
            variance[:, covered] += errors**2 @ squares
            if arm.correlations is None:
                continue
            for start in range(0, len(errors), _BLOCK_ROWS):
                rows = slice(start, start + _BLOCK_ROWS)
                covariances = np.nan_to_num(arm.correlations[rows])
                covariances *= np.take(errors[rows], _ROW, axis=1)
                covariances *= np.take(errors[rows], _COLUMN, axis=1)
                variance[rows, covered] += covariances @ products
        variance *= self._unmerge(bp.present, rp.present) ** 2
        return np.divide(1.0, variance, out=np.zeros_like(variance), where=np.isfinite(variance) & (variance > 0))

    @cached_property
    def _merged(self) -> np.ndarray:
        """Both arms with their merge weights: ndarray (110, n_grid)."""
        return np.concatenate([self.bp * self.bp_weight, self.rp * (1 - self.bp_weight)])

    @cached_property
    def _quadratic(self) -> list[tuple[slice, np.ndarray, np.ndarray]]:
        """Per arm the samples it covers, and the squares (55, m) and doubled products (1485, m) of its merged basis."""
        terms = []
        for merged in np.split(self._merged, 2):
            samples = np.flatnonzero(merged.any(axis=0))
            covered = slice(samples[0], samples[-1] + 1)
            basis = merged[:, covered]
            terms.append((covered, basis**2, 2.0 * basis[_ROW] * basis[_COLUMN]))
        return terms

    def _unmerge(self, has_bp: np.ndarray, has_rp: np.ndarray) -> np.ndarray:
        """Factors that undo the merging for sources with one arm, NaN where that arm does not reach: ndarray (n, n_grid)."""
        with np.errstate(divide="ignore"):
            weights = np.stack([self.bp_weight, 1 - self.bp_weight])
            alone = np.where(weights > 0, 1 / weights, np.nan)
        grid = len(self.wavelength_nm)
        table = np.stack([np.full(grid, np.nan), alone[0], alone[1], np.ones(grid)])  # none, BP only, RP only, both
        return table[has_bp + 2 * has_rp]


@cache
def load_xp_sampling() -> XpSampling:
    """Return the shipped calibration: 336, 338, .. 1020 nm."""
    with np.load(shipped_file("gaia_xp_sampling.npz"), allow_pickle=False) as table:
        arrays = {name: table[name] for name in ("wavelength_nm", "bp", "rp", "bp_weight")}
        return XpSampling(**arrays, provenance=json.loads(table["provenance"].item()))
