"""Is a spectrum that of ordinary objects, but shifted? Galaxies in a survey of stars are found so without any template.

Ordinary spectra, as their mean and leading principal components describe them, are moved along a logarithmic wavelength grid
and fitted to a spectrum, and so are the unmoved ones, in the same pixels and with the same prior and a polynomial for the
continuum that the survey's preparation may have left (chi-squared over redshifts: Tonry & Davis 1979, AJ 84, 1511; with
components, Bolton et al. 2012, AJ 144, 144). Speeds that a star of this Galaxy can have do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specdb.anomaly.expected import Expectation, Sample
from specdb.errors import InputError

__all__ = ["ShiftedModel"]

_BIN = 6  # pixels of LAMOST, 69 km/s each: galaxies' lines are as broad
_COMPONENTS = 4
_POLYNOMIAL = 4
_CONTINUUM = 0.05  # standard deviation of each of its coefficients
_SLOWEST_KMS, _FARTHEST = 1500.0, 0.25
_SPEED_OF_LIGHT_KMS = 299792.458


@dataclass(frozen=True)
class ShiftedModel:
    """Ordinary spectra at rest and shifted.

    Attributes
    ----------
    model : Expectation
        Of the mean of ordinary spectra and their components.
    mean : ndarray (bins,), float32
    designs : ndarray (4 + 4, bins), float32
        Components, then polynomials.
    prior : ndarray (4 + 4,), float64
        Inverse variance of their coefficients.
    redshifts : ndarray (s,), float64
        One for each shift by whole bins, ascending.
    first : int
        Bins of the first shift.
    """

    model: Expectation
    mean: np.ndarray
    designs: np.ndarray
    prior: np.ndarray
    redshifts: np.ndarray
    first: int

    @classmethod
    def fit(cls, model: Expectation, wavelength: np.ndarray) -> ShiftedModel:
        """Bin the model; raises `InputError` for a grid (p,) that is not logarithmic in wavelength."""
        steps = np.diff(np.log(wavelength))
        if np.ptp(steps) > 1e-3 * steps.mean():
            raise InputError("the wavelength grid is not logarithmic, so that a redshift does not move spectra as they are")
        step = _BIN * steps.mean()
        first, last = (
            int(round_(np.log1p(z) / step))
            for z, round_ in ((_SLOWEST_KMS / _SPEED_OF_LIGHT_KMS, np.ceil), (_FARTHEST, np.floor))
        )
        mean = _binned(model.ordinary.flux.mean(axis=0)[None])[0] / _BIN
        basis = _binned(model.basis[:_COMPONENTS]) / _BIN
        x = np.linspace(-1, 1, len(mean))
        polynomials = np.polynomial.legendre.legvander(x, _POLYNOMIAL - 1).T.astype(np.float32)
        prior = np.concatenate([1 / model.strength[: len(basis)], np.full(_POLYNOMIAL, _CONTINUUM**-2.0)])
        redshifts = np.expm1(step * np.arange(first, last + 1))
        return cls(model, mean, np.vstack([basis, polynomials]), prior, redshifts, first)

    def __call__(self, spectra: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Find the shift that gains most.

        Returns
        -------
        gain : ndarray (n,), float64
            Chi-squared of ordinary spectra at rest minus that of shifted ones; far below 0 for ordinary stars.
        redshift : ndarray (n,), float64
            Where that is largest.
        """
        weight = self.model.weight(spectra)
        total = _binned(weight)
        flux = _binned(weight * spectra.flux) / np.maximum(total, 1e-12)
        gain, redshift = np.full(len(flux), -np.inf), np.zeros(len(flux))
        components = len(self.designs) - _POLYNOMIAL
        bins = len(self.mean)
        for z, shift in zip(self.redshifts, range(self.first, self.first + len(self.redshifts)), strict=True):
            here, seen = slice(shift, bins), total[:, shift:]
            rest = self._chi2(flux[:, here] - self.mean[here], seen, self.designs[:, here])
            moved = np.vstack([self.designs[:components, : bins - shift], self.designs[components:, here]])
            found = rest - self._chi2(flux[:, here] - self.mean[: bins - shift], seen, moved)
            better = found > gain
            gain[better], redshift[better] = found[better], z
        return gain, redshift

    def _chi2(self, residual: np.ndarray, weight: np.ndarray, designs: np.ndarray) -> np.ndarray:
        """Return what designs (q, bins) leave of residuals (n, bins)."""
        q = len(designs)
        precision = (weight @ (designs[:, None] * designs).reshape(q * q, -1).T).reshape(-1, q, q).astype(np.float64)
        precision[:, np.arange(q), np.arange(q)] += self.prior
        weighted = weight * residual
        along = (weighted @ designs.T).astype(np.float64)
        explained = (along * np.linalg.solve(precision, along[..., None])[..., 0]).sum(axis=1)
        return np.asarray(np.einsum("nb,nb->n", weighted, residual, dtype=np.float64) - explained)


def _binned(values: np.ndarray) -> np.ndarray:
    """Add groups of `_BIN` columns (n, p); what is left over at the end does not count."""
    bins = values.shape[1] // _BIN
    return np.asarray(values[:, : bins * _BIN].reshape(len(values), bins, _BIN).sum(axis=2))
