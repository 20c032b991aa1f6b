"""Synthetic embeddings: clusters of low intrinsic dimension on the unit sphere, as encoders of spectra make them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


def clustered(n: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    """Return unit vectors (n, dim), float32; the clusters are the same for every seed."""
    shape = np.random.default_rng(99)
    centres, basis = shape.standard_normal((20, 8)), shape.standard_normal((8, dim))
    rng = np.random.default_rng(seed)
    latent = centres[rng.integers(0, len(centres), n)] + 0.5 * rng.standard_normal((n, 8))
    x = latent @ basis + 0.5 * rng.standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def make_vectors() -> Callable[..., np.ndarray]:
    return clustered
