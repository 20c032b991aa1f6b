"""Vectors linked to their neighbours; a query walks the graph towards its own: HNSW, and CAGRA made on a GPU."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from specdb.errors import DependencyError, InputError
from specdb.search.kinds.base import SearchParameters, Structure, add_rows, flat_view, one_thread

__all__ = ["CagraKind", "HnswKind"]

_faiss: Any = faiss  # its type stubs know only part of it

_QUEUES = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024)


class HnswKind:
    """A navigable small-world graph over the stored vectors, which it does not copy (Malkov & Yashunin 2018).

    It cannot be merged, and appending rewrites it, so rows that came later are compared one by one until they are a
    sixteenth of all. Building is ten to thirty times slower than inverted lists and one thread's work, since several
    threads would make another graph at every build.
    """

    name = "hnsw"
    step_up: str | None = "ivf-flat"
    trained = False
    precise = False
    divisible = False
    half = False
    _links = 32
    _queue_at_build = 80

    def validate(self, n: int, dim: int) -> None:
        """Accept any number of vectors."""

    def estimate_bytes(self, n: int, dim: int) -> int:
        """Return the size of the links: twice `_links` at the lowest level, one level more for each 1 in `_links`."""
        return int(n * (4 * 2 * self._links + 4 * self._links / (self._links - 1) + 12))

    def tail_limit(self, covered: int) -> int:
        """Return a sixteenth, so that rewriting costs sixteen times the rows appended, however few come at once."""
        return max(1024, covered // 16)

    def train(self, vectors: np.ndarray, seed: int, memory_bytes: int) -> Any:
        """Return an empty graph; FAISS draws the levels of a graph always in the same way, so the seed plays no part."""
        index = _faiss.IndexHNSWFlat(vectors.shape[1], self._links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self._queue_at_build
        return index

    def fill(self, trained: Any, vectors: np.ndarray, rows: range) -> Any:
        """Link rows from the first on; others than all cannot be linked."""
        if rows.start:
            raise InputError(f"a graph is made of all rows from the first on, not from row {rows.start}")
        index = faiss.deserialize_index(faiss.serialize_index(trained))
        with one_thread():
            add_rows(index, vectors, rows, label=False)
        return _without_vectors(index)

    def merge(self, first: Any, second: Any) -> Any:
        """Graphs cannot be merged."""
        return None

    def assemble(self, segments: tuple[Any, ...], covered: int, vectors: np.ndarray, half: np.ndarray | None) -> Structure:
        """Let the graph read its vectors from the cache."""
        (graph,) = segments
        view = flat_view(vectors[:covered])
        graph.own_fields = False
        graph.storage = view
        return Structure(segments, covered, segments, (vectors, view))

    def settings(self, structure: Structure) -> list[SearchParameters]:
        """Return queues of growing length."""
        return [SearchParameters(ef=ef) for ef in _QUEUES]

    def search(
        self, structure: Structure, queries: np.ndarray, k: int, parameters: SearchParameters, selector: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best met on the way; under a narrow filter fewer, which the caller answers by an exact scan."""
        extra = _faiss.SearchParametersHNSW(efSearch=max(parameters.ef, k), sel=selector)
        return structure.searchers[0].search(queries, k, params=extra)


class CagraKind(HnswKind):
    """NVIDIA's graph, made on a GPU in a fraction of the time and walked on the CPU as the lowest level of an HNSW.

    Known to lose recall with default settings from 100,000 vectors on, most under the inner product (NVIDIA/cuvs#2102),
    for which reason it is never chosen by ``auto`` and always certified.
    """

    name = "cagra"
    step_up: str | None = "ivf-flat"

    def validate(self, n: int, dim: int) -> None:
        """Ask for a GPU, and for a FAISS that has this graph.

        Raises
        ------
        DependencyError
        """
        if not hasattr(faiss, "GpuIndexCagra") or _faiss.get_num_gpus() < 1:
            raise DependencyError(
                "a cagra index is made on an NVIDIA GPU by FAISS with cuVS, which is not here: put `faiss-gpu-cuvs` in the "
                "place of `faiss-cpu`, or use kind 'auto'"
            )

    def fill(self, trained: Any, vectors: np.ndarray, rows: range) -> Any:
        """Make the graph on the first GPU and bring it back."""
        if rows.start:
            raise InputError(f"a graph is made of all rows from the first on, not from row {rows.start}")
        config = _faiss.GpuIndexCagraConfig()
        config.graph_degree, config.intermediate_graph_degree = self._links * 2, self._links * 4
        on_gpu = _faiss.GpuIndexCagra(_faiss.StandardGpuResources(), vectors.shape[1], faiss.METRIC_INNER_PRODUCT, config)
        on_gpu.train(np.ascontiguousarray(vectors[rows.start : rows.stop]))
        index = _faiss.IndexHNSWCagra()
        on_gpu.copyTo(index)
        index.base_level_only = True
        return _without_vectors(index)


def _without_vectors(graph: Any) -> Any:
    """Free the vectors that a graph was made with; `assemble` gives it those of the cache."""
    faiss.downcast_index(graph.storage).reset()
    return graph
