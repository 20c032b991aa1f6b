"""The kinds of index, behind one registry: how each is built, what it costs, and which knobs trade recall for speed.

A kind is a small class. Where its scores are not of full precision they are computed afresh from the vectors afterwards, so
a kind may be as approximate as it likes inside. `auto` is not a kind but a choice among them, which says why.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np

from specdb.errors import InputError
from specdb.search.checks import blocks

__all__ = ["FlatKind", "IndexKind", "IvfKind", "SearchParameters", "choose_kind", "get_kind", "kind_names", "register"]

_faiss: Any = faiss  # its type stubs know only part of it

#: Up to here an exact scan takes a few milliseconds (50,000 x 256: about 2 ms on one core) and needs no training.
FLAT_LIMIT = 50_000

_POINTS_PER_LIST = 64  # training vectors per inverted list; k-means gains nothing from more
_KMEANS_ROUNDS = 10


@dataclass(frozen=True)
class SearchParameters:
    """The knobs of one search; a kind ignores those it does not have.

    Attributes
    ----------
    nprobe : int
        Inverted lists visited per query.
    k_factor : int
        Candidates fetched per wanted neighbour, to be re-ranked with full-precision vectors.
    """

    nprobe: int = 1
    k_factor: int = 1


class IndexKind(Protocol):
    """One way to organise vectors for search."""

    name: str
    #: The kind to try where this one does not reach the asked recall; None where it is exact.
    step_up: str | None
    #: True where the structure was fitted to the vectors, so that it ages as others are appended.
    trained: bool
    #: True where the scores of `search` are those of `specdb.search.exact.inner_products`, whatever the batch.
    precise: bool

    def validate(self, n: int, dim: int) -> None:
        """Raise `InputError` if n vectors of this dimension cannot be indexed this way."""
        ...

    def estimate_bytes(self, n: int, dim: int) -> int:
        """Return the size of the index in memory and on disk, without the vector cache."""
        ...

    def build(self, vectors: np.ndarray, seed: int) -> Any:
        """Return an index of all rows; the same vectors and seed give the same index."""
        ...

    def settings(self, index: Any) -> list[SearchParameters]:
        """Return the parameters worth trying, cheapest first."""
        ...

    def search(
        self,
        index: Any,
        queries: np.ndarray,
        k: int,
        parameters: SearchParameters,
        selector: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of candidates (m, >= k), float32 and int64, in no binding order.

        Where the lists visited held too few, rows are -1 and their scores lower than any similarity.
        """
        ...


def add(index: Any, vectors: np.ndarray) -> None:
    """Append rows to an index block by block, so that a memory map is never copied whole."""
    for part in blocks(*vectors.shape):
        index.add(np.ascontiguousarray(vectors[part]))


class FlatKind:
    """Every vector is compared with the query: exact, no training, time linear in the number of vectors."""

    name = "flat"
    step_up: str | None = None
    trained = False
    precise = False  # large batches go through matrix products, which round otherwise

    def validate(self, n: int, dim: int) -> None:
        """Accept any number of vectors."""

    def estimate_bytes(self, n: int, dim: int) -> int:
        """Four bytes per value."""
        return 4 * n * dim

    def build(self, vectors: np.ndarray, seed: int) -> Any:
        """Store the vectors; the seed plays no part."""
        index = faiss.IndexFlatIP(vectors.shape[1])
        add(index, vectors)
        return index

    def settings(self, index: Any) -> list[SearchParameters]:
        """There is nothing to tune."""
        return [SearchParameters()]

    def search(
        self,
        index: Any,
        queries: np.ndarray,
        k: int,
        parameters: SearchParameters,
        selector: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best (m, k)."""
        extra = None if selector is None else _faiss.SearchParameters(sel=selector)
        return index.search(queries, k, params=extra)


class IvfKind:
    """Vectors sorted into lists around k-means centres; a query visits only the nearest lists.

    Parameters
    ----------
    name : str
    codec : str
        How a vector is kept inside its list, in FAISS's words: ``Flat`` (float32) or ``SQ8`` (one byte per value).
    value_bytes : int
        Bytes per value of that codec.
    refine : tuple of int
        The `k_factor` values worth trying; ``(1,)`` for a codec without loss.
    step_up : str
    """

    trained = True
    _least = 256  # below this there is nothing to sort into lists
    _least_candidates = 20  # one-byte codes confuse near ties, which matters most where few candidates are fetched

    def __init__(self, name: str, codec: str, value_bytes: int, refine: tuple[int, ...], step_up: str) -> None:
        self.name = name
        self.step_up: str | None = step_up
        self._codec = codec
        self._value_bytes = value_bytes
        self._refine = refine
        self.precise = refine == (1,)

    def validate(self, n: int, dim: int) -> None:
        """Ask for enough vectors to train on."""
        if n < self._least:
            raise InputError(
                f"an {self.name} index needs at least {self._least} vectors to train on, got {n}: use kind 'flat'"
            )

    def lists(self, n: int) -> int:
        """Return the number of inverted lists: 4 sqrt(n) (the FAISS wiki recommends 4 to 16 times), none nearly empty."""
        return max(1, min(int(4 * math.sqrt(n)), n // 39))

    def estimate_bytes(self, n: int, dim: int) -> int:
        """Return the size of codes, row numbers and centres."""
        return n * (self._value_bytes * dim + 8) + 4 * self.lists(n) * dim

    def build(self, vectors: np.ndarray, seed: int) -> Any:
        """Train the centres on a random sample drawn with `seed`, then add all rows."""
        n, dim = vectors.shape
        lists = self.lists(n)
        index: Any = faiss.index_factory(dim, f"IVF{lists},{self._codec}", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed
        index.cp.niter = _KMEANS_ROUNDS
        index.cp.spherical = True  # centres of unit vectors under the inner product
        index.cp.min_points_per_centroid = 1  # the sample is drawn here; FAISS shall neither warn nor draw again
        index.cp.max_points_per_centroid = n
        size = min(n, _POINTS_PER_LIST * lists)
        sample = np.sort(np.random.default_rng(seed).choice(n, size, replace=False, shuffle=False))
        index.train(np.ascontiguousarray(vectors[sample]))
        add(index, vectors)
        return index

    def settings(self, index: Any) -> list[SearchParameters]:
        """Return 1, 2, 3, 4, 6, 8, 12, ... lists, up to half of all: beyond that the exact scan is as fast."""
        powers = [1 << i for i in range(index.nlist.bit_length())]
        ladder = sorted({*powers, *(p + p // 2 for p in powers)})
        most = max(1, index.nlist // 2)
        return [SearchParameters(nprobe, factor) for nprobe in ladder if nprobe <= most for factor in self._refine]

    def search(
        self,
        index: Any,
        queries: np.ndarray,
        k: int,
        parameters: SearchParameters,
        selector: Any = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return at least k candidates per query, more where they are to be refined."""
        fetch = k if self.precise else min(max(k * parameters.k_factor, self._least_candidates), index.ntotal)
        # Parameters travel with the call: setting them on the index would disturb searches in other threads.
        extra = _faiss.SearchParametersIVF(nprobe=min(parameters.nprobe, index.nlist), sel=selector)
        return index.search(queries, max(k, fetch), params=extra)


_KINDS: dict[str, IndexKind] = {}


def register(kind: IndexKind) -> IndexKind:
    """Add a kind under its name."""
    _KINDS[kind.name] = kind
    return kind


def kind_names() -> list[str]:
    """Return the names of all kinds, sorted."""
    return sorted(_KINDS)


def get_kind(name: str) -> IndexKind:
    """Return the kind of that name, or raise `InputError` listing the known ones."""
    try:
        return _KINDS[name]
    except KeyError:
        raise InputError(f"no kind of index is called {name!r}; known kinds: auto, {', '.join(kind_names())}") from None


register(FlatKind())
register(IvfKind("ivf-flat", "Flat", 4, (1,), step_up="flat"))
register(IvfKind("ivf-sq8", "SQ8", 1, (2, 4, 8), step_up="ivf-flat"))


def choose_kind(n: int, dim: int, memory_bytes: int | None = None) -> tuple[IndexKind, str]:
    """Choose a kind for n vectors.

    Parameters
    ----------
    n, dim : int
    memory_bytes : int, optional
        What the index may occupy; a quarter of the machine's memory by default.

    Returns
    -------
    kind : IndexKind
    why : str
        One sentence for people.
    """
    if memory_bytes is None:
        memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    if n <= FLAT_LIMIT:
        return get_kind("flat"), f"flat, since an exact scan of {n:,} vectors (at most {FLAT_LIMIT:,}) is fast enough"
    # Not ivf-flat: one-byte codes with re-ranking are as accurate, faster (less memory to read) and a quarter of the size.
    kind = get_kind("ivf-sq8")
    need, have = (f"{size / 2**30:.2g} GiB" for size in (kind.estimate_bytes(n, dim), memory_bytes))
    fits = "within" if kind.estimate_bytes(n, dim) <= memory_bytes else "paged from disk as needed, being more than"
    return kind, (
        f"ivf-sq8, since {n:,} vectors are too many to scan; one byte per value makes {need}, {fits} the {have} allowed, "
        "and re-ranking with the full vectors restores precision"
    )
