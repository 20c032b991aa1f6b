"""What embeddings must beat: pixels and principal components, in one modality and, by linear maps, across two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.evaluate.measures import principal_components

__all__ = ["CanonicalSpace", "LinearMap", "in_modal_baselines", "standard_rows"]

COMPONENTS = 50


def standard_rows(flux: np.ndarray) -> np.ndarray:
    """Return spectra (n, n_grid) with mean 0 and standard deviation 1 each."""
    centred = flux - flux.mean(axis=1, keepdims=True)
    return centred / np.maximum(centred.std(axis=1, keepdims=True), 1e-12)


def in_modal_baselines(flux: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    """Return the baselines (n, d) of one modality by name; principal components are those of the rows `train` (n,), bool."""
    rows = np.flatnonzero(train) if train.any() else np.arange(len(flux))
    return {
        f"{flux.shape[1]} normalised pixels": flux,
        f"{COMPONENTS} principal components": principal_components(flux, rows, COMPONENTS),
    }


@dataclass(frozen=True)
class LinearMap:
    """Ridge regression from the pixels of one modality to those of another: the simplest translation there is.

    Attributes
    ----------
    mean_in, mean_out : ndarray
    matrix : ndarray (n_in, n_out)
    """

    mean_in: np.ndarray
    mean_out: np.ndarray
    matrix: np.ndarray

    @classmethod
    def fit(cls, source: np.ndarray, target: np.ndarray, ridge: float = 1e-2) -> LinearMap:
        """Fit to pairs of rows; `ridge` is relative to the mean variance of a pixel, times the number of pairs."""
        mean_in, mean_out = source.mean(axis=0), target.mean(axis=0)
        x, y = source - mean_in, target - mean_out
        gram = x.T @ x
        gram[np.diag_indices_from(gram)] += ridge * gram.trace() / len(gram)
        return cls(mean_in, mean_out, np.linalg.solve(gram, x.T @ y))

    def __call__(self, source: np.ndarray) -> np.ndarray:
        """Predict spectra (m, n_out) of the other modality."""
        return (source - self.mean_in) @ self.matrix + self.mean_out


@dataclass(frozen=True)
class CanonicalSpace:
    """Canonical correlations of principal components: the linear counterpart of contrastive alignment.

    Each modality is reduced to `COMPONENTS` components and rotated to canonical variates u and v (Hotelling 1936, Biometrika
    28, 321). Were they Gaussian, the best test of whether two spectra are of one star would be the ratio of likelihoods

        sum over variates of r / (1 - r^2) u v - r^2 / (2 (1 - r^2)) (u^2 + v^2)

    with r their correlation; it is written here as the inner product of two vectors.
    """

    means: tuple[np.ndarray, np.ndarray]
    matrices: tuple[np.ndarray, np.ndarray]
    correlation: np.ndarray

    @classmethod
    def fit(cls, a: np.ndarray, b: np.ndarray, shrink: float = 1e-4) -> CanonicalSpace:
        """Fit to pairs of rows (n, n_a) and (n, n_b); `shrink` keeps weak components from being blown up."""
        means, whiteners, scores = [], [], []
        for x in (a, b):
            mean = x.mean(axis=0)
            _, strength, axes = np.linalg.svd(x - mean, full_matrices=False)
            n = min(COMPONENTS, len(strength))
            scale = np.sqrt(len(x)) / np.sqrt(strength[:n] ** 2 + shrink * (strength[:n] ** 2).mean())
            means.append(mean)
            whiteners.append(axes[:n].T * scale)
            scores.append((x - mean) @ whiteners[-1])
        left, correlation, right = np.linalg.svd(scores[0].T @ scores[1] / len(a))
        n = len(correlation)
        matrices = whiteners[0] @ left[:, :n], whiteners[1] @ right.T[:, :n]
        return cls((means[0], means[1]), matrices, np.clip(correlation, 0, 0.9999))

    def __call__(self, flux: np.ndarray, side: int) -> np.ndarray:
        """Map spectra of the first (0) or second (1) modality to vectors (m, d) whose inner products are the ratio."""
        variates = (flux - self.means[side]) @ self.matrices[side]
        r = self.correlation
        penalty = -(variates**2) @ (r**2 / (2 * (1 - r**2)))
        ones = np.ones(len(variates))
        if side == 0:
            return np.column_stack([variates * (r / (1 - r**2)), penalty, ones])
        return np.column_stack([variates, ones, penalty])
