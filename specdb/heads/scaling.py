"""Scaling of inputs and labels, kept with the head, and the distance of an input from what the head was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LOGARITHMIC", "Domain", "InputScale", "LabelScale"]

#: Positive labels over a wide range: their logarithm is what a head learns.
LOGARITHMIC = ("teff",)


@dataclass(frozen=True)
class InputScale:
    """Subtracts the mean and divides by the scatter, softened where a dimension hardly varies.

    Attributes
    ----------
    mean, scatter : ndarray (d,), float32
    """

    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray) -> InputScale:
        """Measure on training inputs (n, d). Scatters are added in quadrature to their median: quiet pixels stay quiet."""
        scatter = x.std(axis=0, dtype=np.float64)
        soft = np.sqrt(scatter**2 + np.median(scatter) ** 2) + 1e-12
        return cls(x.mean(axis=0, dtype=np.float64).astype(np.float32), soft.astype(np.float32))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Scale (n, d)."""
        z = x - self.mean
        return np.divide(z, self.scatter, out=z)


@dataclass(frozen=True)
class LabelScale:
    """To labels of zero mean and unit scatter and back; Teff by way of its logarithm.

    Attributes
    ----------
    labels : tuple of str
    mean, scatter : ndarray (L,)
        Of the label or its decimal logarithm.
    low, high : ndarray (L,)
        Range of the training labels: 0.1 and 99.9 per cent quantiles.
    """

    labels: tuple[str, ...]
    mean: np.ndarray
    scatter: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, labels: tuple[str, ...], y: np.ndarray) -> LabelScale:
        """Measure on training labels (n, L) with NaN where there is none."""
        z = cls._forward(labels, y)
        mean, scatter = np.nanmean(z, axis=0), np.nanstd(z, axis=0)
        low, high = np.nanquantile(y, [0.001, 0.999], axis=0)
        return cls(labels, mean, scatter, low, high)

    def widened(self, y: np.ndarray) -> LabelScale:
        """Return the same scale whose range holds that of labels (n, L), too."""
        low, high = np.nanquantile(y, [0.001, 0.999], axis=0)
        return LabelScale(self.labels, self.mean, self.scatter, np.minimum(self.low, low), np.maximum(self.high, high))

    @staticmethod
    def _forward(labels: tuple[str, ...], y: np.ndarray) -> np.ndarray:
        z = np.array(y, np.float64)
        for i, name in enumerate(labels):
            if name in LOGARITHMIC:
                z[:, i] = np.log10(z[:, i])
        return z

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Scale labels (n, L)."""
        return ((self._forward(self.labels, y) - self.mean) / self.scatter).astype(np.float32)

    def errors(self, y: np.ndarray, y_err: np.ndarray) -> np.ndarray:
        """Scale errors (n, L) of labels y."""
        return (y_err / self._slope(y)).astype(np.float32)

    def values(self, z: np.ndarray) -> np.ndarray:
        """Return labels (..., L), float32, of scaled ones (..., L)."""
        y = z.astype(np.float64) * self.scatter + self.mean
        for i, name in enumerate(self.labels):
            if name in LOGARITHMIC:
                y[..., i] = 10 ** y[..., i]
        return y.astype(np.float32)

    def inverse(self, mean: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return labels and their sigmas (n, L), float64."""
        y = mean.astype(np.float64) * self.scatter + self.mean
        for i, name in enumerate(self.labels):
            if name in LOGARITHMIC:
                y[:, i] = 10 ** y[:, i]
        return y, sigma * self._slope(y)

    def _slope(self, y: np.ndarray) -> np.ndarray:
        """Return the derivative (n, L) of the label by the scaled label."""
        log = np.array([name in LOGARITHMIC for name in self.labels])
        return np.where(log, y * np.log(10), 1.0) * self.scatter


@dataclass(frozen=True)
class Domain:
    """How far an input lies from the training cloud.

    The distance is that of Mahalanobis in the leading principal components, together with the length of what the components
    leave over, both relative to the 99.9 per cent quantile of the training inputs: 1 is the edge of the cloud.

    Attributes
    ----------
    axes : ndarray (d, q), float32
        Directions divided by their scatter.
    edge : ndarray (2,), float32
        Quantiles of distance and remainder.
    """

    axes: np.ndarray
    edge: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, most: int = 50) -> Domain:
        """Measure on scaled training inputs (n, d)."""
        _, singular, axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
        q = min(most, int((singular > 1e-4 * singular[0]).sum()))
        scaled = (axes[:q].T / (singular[:q] / np.sqrt(len(x)))).astype(np.float32)
        domain = cls(scaled, np.ones(2, np.float32))
        return cls(scaled, np.maximum(np.quantile(domain._parts(x), 0.999, axis=0), 1e-6).astype(np.float32))

    def widened(self, x: np.ndarray) -> Domain:
        """Return the same cloud, grown where needed so that it holds 99.9 per cent of scaled inputs (n, d), too."""
        return Domain(self.axes, np.maximum(self.edge, np.quantile(self._parts(x), 0.999, axis=0)).astype(np.float32))

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Return the distance (n,), float32, of scaled inputs (n, d); above 1 is outside."""
        return (self._parts(x) / self.edge).max(axis=1).astype(np.float32)

    def _parts(self, x: np.ndarray) -> np.ndarray:
        score = x @ self.axes  # (n, q)
        length = 1 / np.linalg.norm(self.axes, axis=0)  # scatter along each axis
        inside = np.einsum("ij,ij->i", score * length, score * length)
        rest = np.maximum(np.einsum("ij,ij->i", x, x) - inside, 0)
        return np.sqrt(np.column_stack([np.einsum("ij,ij->i", score, score), rest]))
