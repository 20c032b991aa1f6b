"""Vectors sorted into lists around k-means centres; a query visits only the nearest lists."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import faiss
import numpy as np

from specdb.errors import InputError
from specdb.search.kinds.base import SearchParameters, Structure, add_rows, half_view

__all__ = ["Codec", "IvfKind"]

_faiss: Any = faiss  # its type stubs know only part of it

_POINTS_PER_LIST = 64  # training vectors per inverted list; k-means gains nothing from more
_KMEANS_ROUNDS = 10
_TAIL = 1024  # so many rows are compared in a fraction of the time that a query takes


@dataclass(frozen=True)
class Codec:
    """How a vector is kept inside its list.

    Attributes
    ----------
    factory : str
        In the words of FAISS's index factory; ``{half}`` stands for half the dimension.
    bits : float
        Per value.
    extra_bytes : int
        Per vector, beside the 8 of its row number.
    refine : tuple of int
        The `k_factor` values worth trying; ``(1,)`` for a codec without loss.
    half : bool
        Re-rank with vectors in half precision first, because the codes alone say too little.
    block : int
        The codes of so many vectors are packed together, so that lists are longer by half of it on average.
    """

    factory: str
    bits: float
    extra_bytes: int = 0
    refine: tuple[int, ...] = (1,)
    half: bool = False
    block: int = 1


class IvfKind:
    """Inverted lists with one of several codecs.

    Parameters
    ----------
    name : str
    codec : Codec
    step_up : str
    """

    trained = True
    divisible = True
    _least = 256  # below this there is nothing to sort into lists
    _least_candidates = 20  # codes confuse near ties, which matters most where few candidates are fetched

    def __init__(self, name: str, codec: Codec, step_up: str) -> None:
        self.name = name
        self.step_up: str | None = step_up
        self.half = codec.half
        self.precise = codec.refine == (1,)
        self._codec = codec

    def validate(self, n: int, dim: int) -> None:
        """Ask for enough vectors to train on, and for an even dimension where values are coded in pairs."""
        if n < self._least:
            raise InputError(
                f"an {self.name} index needs at least {self._least} vectors to train on, got {n}: use kind 'flat'"
            )
        if "{half}" in self._codec.factory and dim % 2:
            raise InputError(f"an {self.name} index codes values in pairs, the dimension is {dim}: use kind 'ivf-sq8'")

    def lists(self, n: int) -> int:
        """Return the number of inverted lists: 4 sqrt(n) (the FAISS wiki recommends 4 to 16 times), none nearly empty."""
        return max(1, min(int(4 * math.sqrt(n)), n // 39))

    def estimate_bytes(self, n: int, dim: int) -> int:
        """Return the size of codes, row numbers and centres."""
        packed = n + self.lists(n) * (self._codec.block // 2)
        per_vector = self._codec.bits * dim / 8 + self._codec.extra_bytes
        return int(packed * per_vector) + 8 * n + 4 * self.lists(n) * dim

    def tail_limit(self, covered: int) -> int:
        """Return a number that an exact scan passes in some 50 microseconds."""
        return _TAIL

    def train(self, vectors: np.ndarray, seed: int, memory_bytes: int) -> Any:
        """Train centres and codec on a random sample drawn with `seed`, which may take up to half of `memory_bytes`."""
        n, dim = vectors.shape
        lists = self.lists(n)
        factory = self._codec.factory.format(half=dim // 2)
        index: Any = faiss.index_factory(dim, f"IVF{lists},{factory}", faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed
        index.cp.niter = _KMEANS_ROUNDS
        index.cp.spherical = True  # centres of unit vectors under the inner product
        index.cp.min_points_per_centroid = 1  # the sample is drawn here; FAISS shall neither warn nor draw again
        index.cp.max_points_per_centroid = n
        if hasattr(index, "pq"):
            index.pq.cp.seed = seed
            index.pq.cp.min_points_per_centroid = 1
        size = min(n, _POINTS_PER_LIST * lists, max(2 * lists, memory_bytes // (8 * dim)))
        # In the order of the file, so that a memory map is read once from front to back.
        sample = np.sort(np.random.default_rng(seed).choice(n, size, replace=False, shuffle=False))
        index.train(np.ascontiguousarray(vectors[sample]))
        return index

    def fill(self, trained: Any, vectors: np.ndarray, rows: range) -> Any:
        """Sort rows into a copy of the empty lists."""
        index = faiss.deserialize_index(faiss.serialize_index(trained))
        add_rows(index, vectors, rows, label=True)
        return index

    def merge(self, first: Any, second: Any) -> Any:
        """Move the lists of the second segment behind those of the first."""
        first.merge_from(second, 0)
        return first

    def assemble(self, segments: tuple[Any, ...], covered: int, vectors: np.ndarray, half: np.ndarray | None) -> Structure:
        """Join each segment to the half-precision vectors where the codec asks for them."""
        if not self.half:
            return Structure(segments, covered, segments)
        assert half is not None
        searchers = tuple(_refined(segment, half) for segment in segments)
        return Structure(segments, covered, searchers, (half,))

    def settings(self, structure: Structure) -> list[SearchParameters]:
        """Return 1, 2, 3, 4, 6, 8, 12, ... lists, up to half of all: beyond that the exact scan is as fast."""
        lists = structure.segments[0].nlist
        powers = [1 << i for i in range(lists.bit_length())]
        ladder = sorted({*powers, *(p + p // 2 for p in powers)})
        most = max(1, lists // 2)
        return [SearchParameters(nprobe, factor) for nprobe in ladder if nprobe <= most for factor in self._codec.refine]

    def search(
        self, structure: Structure, queries: np.ndarray, k: int, parameters: SearchParameters, selector: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return at least k candidates per query and segment, more where they are to be refined."""
        # Parameters travel with the call: setting them on the index would disturb searches in other threads.
        nprobe = min(parameters.nprobe, structure.segments[0].nlist)
        probe = _probe(nprobe) if selector is None else _faiss.SearchParametersIVF(nprobe=nprobe, sel=selector)
        fetch, extra = k, probe
        if self.half:
            fetch = k + max(2, k // 8)  # half precision may swap what lies within 1e-4
            candidates = min(max(k * parameters.k_factor, self._least_candidates, fetch), max(structure.covered, fetch))
            factor = (candidates + 0.5) / fetch  # FAISS rounds the product down
            extra = _refine(nprobe, factor) if selector is None else _refining(probe, factor)
        elif not self.precise:
            fetch = max(k, min(max(k * parameters.k_factor, self._least_candidates), structure.covered))
        found = [searcher.search(queries, fetch, params=extra) for searcher in structure.searchers]
        if len(found) == 1:
            return found[0]
        return np.hstack([scores for scores, _ in found]), np.hstack([rows for _, rows in found])


# Making parameters takes as long as visiting some lists. FAISS does not change them, so that threads may share them.


@lru_cache(maxsize=256)
def _probe(nprobe: int) -> Any:
    return _faiss.SearchParametersIVF(nprobe=nprobe)


@lru_cache(maxsize=256)
def _refine(nprobe: int, factor: float) -> Any:
    return _refining(_probe(nprobe), factor)


def _refining(probe: Any, factor: float) -> Any:
    return _faiss.IndexRefineSearchParameters(k_factor=factor, base_index_params=probe)


def _refined(segment: Any, half: np.ndarray) -> Any:
    """Return an index that ranks the candidates of a segment by the half-precision vectors of all rows."""
    view = half_view(half)
    view.ntotal = segment.ntotal  # both must be of one size when they are joined; labels go up to the number of all rows
    index = _faiss.IndexRefine(segment, view)
    view.ntotal = index.ntotal = len(half)
    return index
