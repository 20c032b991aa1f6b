"""Cheap honest baselines: ridge regression and nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from specdb.heads.kinds import Fitted, HeadData, Report

__all__ = ["Neighbours", "NeighboursSettings", "Ridge", "RidgeSettings"]

_ROWS = 8192


@dataclass(frozen=True)
class RidgeSettings:
    """Penalties to choose from, by the out-of-fold squared error."""

    penalties: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4)


class Ridge:
    """Linear regression with a quadratic penalty; one sigma for all stars."""

    kind: ClassVar[str] = "ridge"
    Settings: ClassVar[Any] = RidgeSettings

    def __init__(self, weights: np.ndarray, offset: np.ndarray, sigma: np.ndarray) -> None:
        self._weights, self._offset, self._sigma = weights, offset, sigma

    @classmethod
    def fit(cls, data: HeadData, settings: RidgeSettings, seed: int, report: Report | None = None) -> Fitted:
        """Fit each label with the penalty that predicts stars left out best; see `HeadModel.fit`."""
        n, n_labels = data.y.shape
        known = np.isfinite(data.y)
        trials = np.zeros((len(settings.penalties), n, n_labels), np.float32)
        for fold in np.unique(data.fold):
            held = data.fold == fold
            for labels in _together(known):
                train = known[:, labels[0]] & ~held
                fitted = _solve(data.x[train], data.y[np.ix_(train, labels)], settings.penalties)
                for trial, (w, b) in zip(trials, fitted, strict=True):
                    trial[np.ix_(held, labels)] = data.x[held] @ w + b
        errors = np.nanmean((trials - data.y) ** 2, axis=1)  # (penalties, L)
        best = errors.argmin(axis=0)
        mean = np.take_along_axis(trials, best[None, None], axis=0)[0]
        sigma = np.sqrt(errors.min(axis=0)).astype(np.float32)
        weights, offset = np.zeros((data.x.shape[1], n_labels), np.float32), np.zeros(n_labels, np.float32)
        for labels in _together(known):
            train = known[:, labels[0]]
            fitted = _solve(data.x[train], data.y[np.ix_(train, labels)], settings.penalties)
            for i, label in enumerate(labels):
                w, b = fitted[best[label]]
                weights[:, label], offset[label] = w[:, i], b[i]
        model = cls(weights, offset, sigma)
        return Fitted(model, mean, np.broadcast_to(sigma, mean.shape))

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `HeadModel.predict`."""
        mean = x @ self._weights + self._offset
        return mean, np.broadcast_to(self._sigma, mean.shape)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return weights (d, L), offset (L,) and sigma (L,)."""
        return {"weights": self._weights, "offset": self._offset, "sigma": self._sigma}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: RidgeSettings) -> Ridge:
        """Rebuild from `tensors`."""
        return cls(tensors["weights"], tensors["offset"], tensors["sigma"])


def _together(known: np.ndarray) -> list[list[int]]:
    """Group labels that the same stars have (n, L): their equations have one matrix."""
    groups: dict[bytes, list[int]] = {}
    for label in range(known.shape[1]):
        groups.setdefault(known[:, label].tobytes(), []).append(label)
    return list(groups.values())


def _solve(x: np.ndarray, y: np.ndarray, penalties: tuple[float, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return weights (d, l) and offsets (l,) for each penalty, from one decomposition of inputs (n, d)."""
    centre, level = x.mean(axis=0, dtype=np.float64), y.mean(axis=0, dtype=np.float64)
    z = x - centre
    power, axes = np.linalg.eigh(z.T @ z)
    projected = axes.T @ (z.T @ (y - level))  # (d, l)
    weights = [axes @ (projected / (np.maximum(power, 0) + penalty)[:, None]) for penalty in penalties]
    return [(w.astype(np.float32), level - centre @ w) for w in weights]


@dataclass(frozen=True)
class NeighboursSettings:
    """Number of neighbours."""

    k: int = 10


class Neighbours:
    """Mean and scatter of the labels of the nearest training stars by Euclidean distance of the scaled inputs."""

    kind: ClassVar[str] = "knn"
    Settings: ClassVar[Any] = NeighboursSettings

    def __init__(self, x: np.ndarray, y: np.ndarray, k: int) -> None:
        self._x, self._y, self._k = x, y, k

    @classmethod
    def fit(cls, data: HeadData, settings: NeighboursSettings, seed: int, report: Report | None = None) -> Fitted:
        """Keep the training stars; see `HeadModel.fit`."""
        mean, sigma = np.empty_like(data.y), np.empty_like(data.y)
        for fold in np.unique(data.fold):
            held = data.fold == fold
            mean[held], sigma[held] = cls(data.x[~held], data.y[~held], settings.k).predict(data.x[held])
        return Fitted(cls(data.x, data.y, settings.k), mean, sigma)

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `HeadModel.predict`. The scatter of k stars is widened by 1/k for the error of their mean."""
        import faiss

        index = faiss.IndexFlatL2(self._x.shape[1])
        index.add(np.ascontiguousarray(self._x))
        k = min(self._k, len(self._x))
        mean = np.empty((len(x), self._y.shape[1]), np.float32)
        sigma = np.empty_like(mean)
        for start in range(0, len(x), _ROWS):
            rows = slice(start, start + _ROWS)
            near = self._y[index.search(np.ascontiguousarray(x[rows]), k)[1]]  # (b, k, L)
            known = np.isfinite(near)
            count = np.maximum(known.sum(axis=1), 1)
            centre = np.where(known, near, 0).sum(axis=1) / count
            scatter = (np.where(known, near - centre[:, None], 0) ** 2).sum(axis=1) / np.maximum(count - 1, 1)
            mean[rows] = np.where(known.any(axis=1), centre, 0)
            sigma[rows] = np.where(known.sum(axis=1) > 1, np.sqrt(np.maximum(scatter * (1 + 1 / count), 1e-6)), 1)
        return mean, sigma

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the training stars: x (n, d) and y (n, L)."""
        return {"x": self._x, "y": self._y}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: NeighboursSettings) -> Neighbours:
        """Rebuild from `tensors`."""
        return cls(tensors["x"], tensors["y"], settings.k)
