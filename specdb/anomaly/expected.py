"""What a spectrum should look like, given all the others; and by how much it does not.

The expectation of spectrum x is a mean over ordinary spectra: of its nearest neighbours in embedding space, or of all. What
remains is taken as normal with covariance

    U diag(l) U' + diag(v_x + s)

where the columns of U are the few directions in which ordinary spectra still differ from their expectation (temperature and
chemistry that neighbours do not share, tilts of the flux calibration), v_x is the variance of the survey's own errors, and s
the scatter of ordinary spectra that neither explains. The part along U is fitted to each spectrum (a Wiener filter: Rybicki
& Press 1992, ApJ 398, 169) and taken away, so that a narrow line on a slightly wrong continuum still stands out.

Ordinary means: among a random sample of the database, without the tenth that fits worst; found by iteration, so that neither
the expectation nor the scatter are made from what is to be found.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import faiss
import numpy as np

__all__ = ["Expectation", "Nearest", "Overall", "Residual", "Rule", "Sample"]

_TRIM = 0.1
_ROUNDS = 3
_MIN_ORDINARY = 30
_SPIKE, _FLANK = 8.0, 0.25  # sigmas of a spike, and how high, compared with it, its neighbours may be
_WINSOR = 5.0  # residuals beyond this many sigmas do not pull the directions
_TINY = 1e-12
_VISITS = 8
_ROWS = 2048  # worked on at once


@dataclass(frozen=True)
class Sample:
    """Rows of a modality, held in memory.

    Attributes
    ----------
    vectors : ndarray (n, d), float32
        Unit embeddings.
    flux, ivar : ndarray (n, p), float32
        Prepared; ivar 0 where a pixel says nothing, or, in all pixels, where the survey gives no errors.
    snr : ndarray (n,), float32
        NaN without errors.
    star : ndarray (n,), int64
        Rows with the same number are visits of one star.
    """

    vectors: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray
    snr: np.ndarray
    star: np.ndarray

    def __len__(self) -> int:
        return len(self.flux)

    def take(self, rows: np.ndarray | slice) -> Sample:
        """Return the given rows."""
        return Sample(self.vectors[rows], self.flux[rows], self.ivar[rows], self.snr[rows], self.star[rows])


@dataclass(frozen=True)
class Residual:
    """What an expectation leaves of some spectra.

    Attributes
    ----------
    flux : ndarray (n, p), float32
        Observed minus expected, in units of the prepared flux.
    weight : ndarray (n, p), float32
        Inverse variance, of errors and of the scatter of ordinary spectra; 0 for pixels that say nothing.
    chi2 : ndarray (n,), float64
        Mahalanobis distance squared per pixel: about 1 for ordinary spectra.
    spike : ndarray (n, p), bool
        Pixels that stick out more sharply than the instrument can: cosmic rays and defects. Their weight is 0.
    """

    flux: np.ndarray
    weight: np.ndarray
    chi2: np.ndarray
    spike: np.ndarray


class Rule(Protocol):
    """Where the expectation comes from."""

    def __call__(self, spectra: Sample, ordinary: Sample) -> np.ndarray:
        """Return the expected flux (n, p) of spectra, given ordinary ones; may be a read-only broadcast."""
        ...


@dataclass(frozen=True)
class Overall:
    """The mean of all ordinary spectra."""

    def __call__(self, spectra: Sample, ordinary: Sample) -> np.ndarray:
        """Return the same expectation for all."""
        return np.broadcast_to(ordinary.flux.mean(axis=0), spectra.flux.shape)


@dataclass(frozen=True)
class Nearest:
    """The mean of the nearest ordinary spectra of other stars, by embedding.

    Attributes
    ----------
    count : int
    """

    count: int

    def __call__(self, spectra: Sample, ordinary: Sample) -> np.ndarray:
        """Return the mean (n, p), float32; more are looked at than counted, as visits of the same star are passed over."""
        k = min(self.count + _VISITS, len(ordinary))
        queries, bank = (np.ascontiguousarray(s.vectors) for s in (spectra, ordinary))
        _, rows = faiss.knn(queries, bank, k, metric=faiss.METRIC_INNER_PRODUCT)
        foreign = (ordinary.star[rows] != spectra.star[:, None]).astype(np.float32)
        weight = foreign * (np.cumsum(foreign, axis=1) <= self.count)
        weight /= np.maximum(weight.sum(axis=1, keepdims=True), 1)
        expected = np.zeros(spectra.flux.shape, np.float32)
        for j in range(k):
            expected += weight[:, j, None] * ordinary.flux[rows[:, j]]
        return expected


@dataclass(frozen=True)
class Expectation:
    """A fitted model of ordinary spectra.

    Attributes
    ----------
    ordinary : Sample
        What it was made from.
    rule : Rule
    basis : ndarray (r, p), float32
    strength : ndarray (r,), float64
        Variance along each direction.
    scatter : ndarray (p,), float32
        Variance beyond the errors, where spectra have errors.
    scatter_without_errors : ndarray (p,), float32
        The same for spectra that come without errors.
    """

    ordinary: Sample
    rule: Rule
    basis: np.ndarray
    strength: np.ndarray
    scatter: np.ndarray
    scatter_without_errors: np.ndarray

    @classmethod
    def fit(cls, sample: Sample, rule: Rule, rank: int) -> Expectation:
        """Fit to a sample in which most spectra are ordinary.

        Parameters
        ----------
        sample : Sample
        rule : Rule
        rank : int
            Number of directions.
        """
        p = sample.flux.shape[1]
        kept = np.arange(len(sample))
        blank = np.zeros(p, np.float32)
        model = cls(sample, rule, np.zeros((0, p), np.float32), np.zeros(0), blank, blank)
        for _ in range(_ROUNDS):
            model = replace(model, ordinary=sample.take(kept))
            model = model._refitted(rank)
            pieces = (sample.take(slice(i, i + _ROWS)) for i in range(0, len(sample), _ROWS))
            chi2 = np.concatenate([model(piece).chi2 for piece in pieces])
            # Errors decide what chi2 means, so spectra with and without them are trimmed apart.
            kept = np.sort(np.concatenate([_best(chi2, rows, _TRIM) for rows in _by_errors(sample)]))
        return replace(model, ordinary=sample.take(kept))

    def _refitted(self, rank: int) -> Expectation:
        ordinary = self.ordinary
        raw = ordinary.flux - self.rule(ordinary, ordinary)
        variance = _variance(ordinary.ivar)
        scatters = {}
        for name, rows in zip(("scatter", "scatter_without_errors"), _by_errors(ordinary), strict=True):
            scatters[name] = _scatter(raw[rows], variance[rows]) if len(rows) else None
        known = [s for s in scatters.values() if s is not None]
        filled: dict[str, Any] = {name: known[0] if s is None else s for name, s in scatters.items()}
        model = replace(self, **filled)
        if rank == 0:
            return model
        sigma = np.sqrt(1 / np.maximum(model._weight(ordinary.ivar), _TINY))
        clipped = np.where(ordinary.ivar > 0, raw, np.where(_without_errors(ordinary.ivar)[:, None], raw, 0))
        clipped = np.clip(clipped, -_WINSOR * sigma, _WINSOR * sigma)
        values, vectors = np.linalg.eigh(clipped.T.astype(np.float64) @ clipped / len(clipped))
        leading = slice(-1, -1 - min(rank, len(ordinary) // 2), -1)
        basis = vectors[:, leading].T.astype(np.float32)
        # What is left after the directions are taken away is the scatter that counts per pixel.
        left = raw - (clipped @ basis.T) @ basis
        for name, rows in zip(("scatter", "scatter_without_errors"), _by_errors(ordinary), strict=True):
            if len(rows):
                filled[name] = _scatter(left[rows], variance[rows])
        return replace(model, basis=basis, strength=np.maximum(values[leading], _TINY), **filled)

    def __call__(self, spectra: Sample) -> Residual:
        """Return what is left of spectra after expectation and directions are taken away.

        Memory grows with the number of rows: hand over a few thousand at a time.
        """
        raw = spectra.flux - self.rule(spectra, self.ordinary)
        weight = self._weight(spectra.ivar)
        spike = _spikes(raw * np.sqrt(weight))
        weight[spike] = 0
        weighted = raw * weight
        n, r = len(raw), len(self.basis)
        chi2 = np.einsum("np,np->n", weighted, raw, dtype=np.float64)
        if r:
            products = (self.basis[:, None] * self.basis[None]).reshape(r * r, -1)
            precision = (weight @ products.T).reshape(n, r, r).astype(np.float64)
            precision[:, np.arange(r), np.arange(r)] += 1 / self.strength
            along = (weighted @ self.basis.T).astype(np.float64)  # n r
            fitted = np.linalg.solve(precision, along[..., None])[..., 0]
            chi2 -= (along * fitted).sum(axis=1)
            raw = raw - fitted.astype(np.float32) @ self.basis
        pixels = np.maximum((weight > 0).sum(axis=1), 1)
        return Residual(raw, weight, np.maximum(chi2, 0) / pixels, spike)

    def left_of_ordinary(self, most: int = 4096) -> Residual:
        """Return the residual of (some of) the ordinary spectra themselves."""
        step = max(len(self.ordinary) // most, 1)
        return self(self.ordinary.take(slice(None, None, step)))

    def weight(self, spectra: Sample) -> np.ndarray:
        """Return the inverse variance (n, p), float32, of pixels by errors and scatter; 0 where they say nothing."""
        return self._weight(spectra.ivar)

    def _weight(self, ivar: np.ndarray) -> np.ndarray:
        without = _without_errors(ivar)[:, None]
        with np.errstate(divide="ignore"):
            of_errors = np.where(ivar > 0, 1 / (1 / ivar + self.scatter), 0)
        return np.where(without, 1 / np.maximum(self.scatter_without_errors, _TINY), of_errors).astype(np.float32)


def _spikes(z: np.ndarray) -> np.ndarray:
    """Return where one pixel, or two side by side, of residuals (n, p) in sigmas stands alone.

    A line of an instrument whose pixels sample its resolution puts at least a third of its height into the next pixels.
    """
    size = np.pad(np.abs(z), ((0, 0), (2, 2)))
    before, here, behind = size[:, 1:-3], size[:, 2:-2], size[:, 3:-1]
    single = (here > _SPIKE) & (np.maximum(before, behind) < _FLANK * here)
    # Pairs are told by their left pixel: resampling has split a spike between both.
    left = (np.maximum(here, behind) > _SPIKE) & (np.maximum(before, size[:, 4:]) < _FLANK * np.maximum(here, behind))
    pair = left & (np.minimum(here, behind) >= _FLANK * np.maximum(here, behind))
    pair[:, -1] = False
    found = single | pair
    found[:, 1:] |= pair[:, :-1]
    return np.asarray(found)


def _without_errors(ivar: np.ndarray) -> np.ndarray:
    return np.asarray(~(ivar > 0).any(axis=1))


def _by_errors(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with errors and those without."""
    without = _without_errors(sample.ivar)
    return np.flatnonzero(~without), np.flatnonzero(without)


def _variance(ivar: np.ndarray) -> np.ndarray:
    return np.where(ivar > 0, 1 / np.where(ivar > 0, ivar, 1), 0)


def _scatter(residual: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the variance (p,) beyond the errors, from the median of the squared residuals."""
    # The median of chi-squared with one degree of freedom is 0.4549.
    total = np.median(residual**2, axis=0) / 0.4549
    excess = total - np.median(variance, axis=0)
    return np.maximum(excess, 0.05 * np.maximum(total, _TINY)).astype(np.float32)


def _best(value: np.ndarray, rows: np.ndarray, trim: float) -> np.ndarray:
    """Return those of the rows with the smaller values."""
    count = max(round((1 - trim) * len(rows)), min(_MIN_ORDINARY, len(rows)))
    return rows[np.argsort(value[rows], kind="stable")[:count]]
