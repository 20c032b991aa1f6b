"""Vectors to measure searches with: embeddings of simulated and real spectra, and clusters that are quickly made.

Embedding a million simulated spectra would take most of an hour, so that `grown` extends some ten thousand: a new star lies
between a star and one of its nearest neighbours, and is seen with the noise of a repeat visit, which is measured from stars
that were visited more than once. Density, intrinsic dimension and noise are then those of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

__all__ = ["Embedded", "clustered", "embedded", "grown", "labelled", "shifted"]

CLUSTERS = 500
_BATCH = 1 << 16
_NEIGHBOURS = 10


def unit(x: np.ndarray) -> np.ndarray:
    """Divide each row (n, d) by its length, as float32."""
    x = np.asarray(x, np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def labelled(n: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a mixture on the sphere (n, dim) and the cluster of each (n,).

    500 clusters in 24 latent dimensions, mapped up, with noise in all dimensions; the clusters are the same for every seed.
    """
    shape = np.random.default_rng(0)
    centres, basis = shape.standard_normal((CLUSTERS, 24)), shape.standard_normal((24, dim)).astype(np.float32)
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, CLUSTERS, n)
    x = np.empty((n, dim), np.float32)
    for start in range(0, n, _BATCH):
        here = cluster[start : start + _BATCH]
        latent = (centres[here] + 0.5 * rng.standard_normal((len(here), 24))).astype(np.float32)
        x[start : start + _BATCH] = unit(latent @ basis + rng.standard_normal((len(here), dim), dtype=np.float32))
    return x, cluster


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """Return the vectors of `labelled` alone."""
    return labelled(n, dim, seed)[0]


def shifted(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Return vectors as another instrument's encoder might place them: off in one direction and noisier."""
    rng = np.random.default_rng(seed)
    n, dim = vectors.shape
    offset = np.random.default_rng(7).standard_normal(dim)
    return unit(vectors + 0.3 * offset / np.linalg.norm(offset) + 0.3 * rng.standard_normal((n, dim)) / np.sqrt(dim))


@dataclass(frozen=True)
class Embedded:
    """Embeddings of spectra.

    Attributes
    ----------
    vectors : ndarray (n, d), float32
        Unit vectors.
    star : ndarray (n,), int64
        Equal for visits of one star; -1 for real spectra.
    """

    vectors: np.ndarray
    star: np.ndarray

    @property
    def real(self) -> int:
        """Number of real spectra."""
        return int((self.star < 0).sum())

    @property
    def noise(self) -> np.ndarray:
        """What a repeat visit adds to a vector (v, d), float32: differences between two visits over the root of two."""
        again = np.flatnonzero((self.star[1:] == self.star[:-1]) & (self.star[1:] >= 0))
        return (self.vectors[again + 1] - self.vectors[again]) / np.float32(np.sqrt(2))


def embedded(n: int, cache: Path, *, encoder: str = "specclip-mini", real: Path | None = None, seed: int = 11) -> Embedded:
    """Simulate and embed `n` LAMOST spectra, a third of the stars visited again, with the real ones below a folder.

    The result is kept in `cache`, a `.npz` file, and taken from there the next time.
    """
    if cache.exists():
        with np.load(cache, allow_pickle=False) as kept:
            return Embedded(kept["vectors"], kept["star"])
    from indexer.simulate.pairs import PairSimulator
    from indexer.train.data import load_lamost
    from specdb.encoders import load_encoder
    from specdb.spectra import get_modality

    model, prepare = load_encoder(encoder), get_modality("lamost_lrs").preparation
    vectors, stars = [], []
    for pairs in PairSimulator(seed, repeat_fraction=0.3).stream(n):
        prepared = prepare([pairs.lrs])
        vectors.append(model.encode(prepared.flux, "lamost_lrs")["shared"])
        stars.append(pairs.truth.star[prepared.rows])
    if real is not None:
        observed = load_lamost(real)
        vectors.append(model.encode(observed.flux, "lamost_lrs")["shared"])
        stars.append(np.full(len(observed.flux), -1))
    made = Embedded(unit(np.concatenate(vectors)), np.concatenate(stars))
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.savez(cache, vectors=made.vectors, star=made.star)
    return made


def grown(base: Embedded, n: int, seed: int = 0) -> np.ndarray:
    """Extend embeddings to `n` unit vectors (n, d), float32: those there are first, then stars between them."""
    rng = np.random.default_rng(seed)
    vectors, noise = base.vectors, base.noise
    if n <= len(vectors):
        return vectors[rng.permutation(len(vectors))[:n]]
    flat = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    flat.add(vectors)
    near = flat.search(vectors, _NEIGHBOURS + 1)[1]
    x = np.empty((n, vectors.shape[1]), np.float32)
    x[: len(vectors)] = vectors
    for start in range(len(vectors), n, _BATCH):
        count = min(_BATCH, n - start)
        star = rng.integers(0, len(vectors), count)
        other = near[star, rng.integers(1, _NEIGHBOURS + 1, count)]
        share = rng.random((count, 1), dtype=np.float32)
        between = (1 - share) * vectors[star] + share * vectors[np.where(other < 0, star, other)]
        x[start : start + count] = unit(between + noise[rng.integers(0, len(noise), count)])
    return x
