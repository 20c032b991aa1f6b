"""Synthetic embeddings: clusters of low intrinsic dimension on the unit sphere, as encoders of spectra make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from specdb.search.index import VectorIndex
from specdb.search.kinds import kind_names

MakeVectors = Callable[..., np.ndarray]
KINDS = [name for name in kind_names() if name != "cagra"]
PROVENANCE = {"encoder": "mini", "encoder_sha256": "ab12"}

#: Gaia ids need all 63 bits: neighbours of these are lost in a float64.
FIRST_ID = 2**62 + 1


def clustered(n: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    """Return unit vectors (n, dim), float32; the clusters are the same for every seed."""
    shape = np.random.default_rng(99)
    centres, basis = shape.standard_normal((20, 8)), shape.standard_normal((8, dim))
    rng = np.random.default_rng(seed)
    latent = centres[rng.integers(0, len(centres), n)] + 0.5 * rng.standard_normal((n, 8))
    x = latent @ basis + 0.5 * rng.standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="session")
def make_vectors() -> MakeVectors:
    return clustered


@pytest.fixture(scope="session")
def vectors(make_vectors: MakeVectors) -> np.ndarray:
    return make_vectors(2000)


@pytest.fixture(scope="session")
def queries(make_vectors: MakeVectors) -> np.ndarray:
    return make_vectors(40, seed=2)


def build(vectors: np.ndarray, directory: Path, **options: object) -> VectorIndex:
    ids = FIRST_ID + np.random.default_rng(1).permutation(len(vectors))
    return VectorIndex.build(vectors, ids, directory, provenance=PROVENANCE, **{"queries": 200, **options})


def same(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
