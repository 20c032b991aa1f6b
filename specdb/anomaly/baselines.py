"""What the scores must beat: an isolation forest on principal components, and distances between pixels."""

from __future__ import annotations

import faiss
import numpy as np

__all__ = ["forest_on_components", "pixel_distance"]


def forest_on_components(flux: np.ndarray, components: int = 20, seed: int = 0) -> np.ndarray:
    """Return how easily spectra (n, p) are isolated by their leading principal components, (n,)."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import IsolationForest

    x = PCA(min(components, *flux.shape), random_state=seed).fit_transform(flux)
    return -IsolationForest(n_estimators=200, random_state=seed).fit(x).score_samples(x)


def pixel_distance(flux: np.ndarray, k: int = 10) -> np.ndarray:
    """Return the squared Euclidean distance (n,) of spectra (n, p) to their k-th nearest neighbour."""
    rows = np.ascontiguousarray(flux, np.float32)
    return faiss.knn(rows, rows, min(k + 1, len(rows)))[0][:, -1].astype(np.float64)
