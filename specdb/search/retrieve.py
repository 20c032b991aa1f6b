"""The one path from queries to rows that searches, certificates and benchmarks all take."""

from __future__ import annotations

import numpy as np

from specdb.search.exact import best, exact_search, inner_products, rank
from specdb.search.filters import Partition, search_lists
from specdb.search.kinds import IndexKind, SearchParameters, Structure
from specdb.search.planner import Path, choose_path
from specdb.search.rowfilter import RowFilter

__all__ = ["path_of", "retrieve"]

#: Neighbours fetched, in multiples of what a filter independent of the query would need.
_OVER_FETCH = 1.5


def retrieve(
    kind: IndexKind,
    structure: Structure,
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    parameters: SearchParameters,
    *,
    allowed: RowFilter | None = None,
    partition: Partition | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows: candidates from the index, scores and order from the full-precision vectors.

    Rows that the structure does not cover yet are compared one by one, and queries for which it gave fewer than k rows are
    answered by an exact scan.

    Parameters
    ----------
    kind, structure, parameters
        What to search and how.
    vectors : ndarray or memmap (n, d), float32, C-contiguous
    queries : ndarray (m, d), float32, C-contiguous
    k : int
    allowed : RowFilter, optional
        The rows that may be found; all by default.
    partition : Partition, optional
        ``Partition.of(structure, vectors)``, to save reading it again.

    Returns
    -------
    scores : ndarray (m, min(k, p)), float32, descending
        p is the number of rows that may be found.
    rows : ndarray (m, min(k, p)), int64, never negative
    """
    n = len(vectors)
    allowed = RowFilter(n) if allowed is None else allowed
    k = min(k, allowed.count)
    if k <= 0 or len(queries) == 0:
        return np.empty((len(queries), max(k, 0)), np.float32), np.empty((len(queries), max(k, 0)), np.int64)
    if allowed.kept is not None:
        partition = partition or Partition.of(structure, vectors)
        path = path_of(kind, partition, vectors.shape[1], allowed, len(queries), k)
        if path == "lists" and partition is not None:
            return search_lists(allowed.grouped(partition), queries, k)
        if path == "exact":
            return exact_search(vectors, queries, k, rows=allowed.kept)
        fetch = min(n, int(_OVER_FETCH * k * n / allowed.count) + 10)
        scores, rows = _candidates(kind, structure, vectors, queries, fetch, parameters, RowFilter(n))
        rows = np.where(allowed.lets_through(rows), rows, -1)
        scores, rows = best(np.where(rows < 0, -np.inf, scores), rows, k)
    else:
        scores, rows = rank(*_candidates(kind, structure, vectors, queries, k, parameters, allowed), k)
    if (short := rows[:, -1] < 0).any():
        scores[short], rows[short] = exact_search(vectors, queries[short], k, rows=allowed.rows())
    return scores, rows


def _candidates(
    kind: IndexKind,
    structure: Structure,
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    parameters: SearchParameters,
    allowed: RowFilter,
) -> tuple[np.ndarray, np.ndarray]:
    """Return at least k rows of each query with full-precision scores, in no order; those that are missing are -1."""
    scores, rows = kind.search(structure, queries, k, parameters, allowed.selector)
    if not kind.precise:
        scores = inner_products(vectors, queries, rows)
    if structure.covered < len(vectors):
        tail = exact_search(vectors, queries, k, rows=allowed.rows(structure.covered))
        scores, rows = np.hstack([scores, tail[0]]), np.hstack([rows, tail[1]])
    return scores, rows


def path_of(kind: IndexKind, partition: Partition | None, dim: int, allowed: RowFilter, queries: int, k: int) -> Path:
    """Say how `retrieve` finds the k nearest of some of the rows; see `specdb.search.planner.choose_path`."""
    n_lists = 0 if partition is None else len(partition.centres)
    graph = partition is None and kind.step_up is not None
    return choose_path(
        allowed.n, allowed.count, dim, queries=queries, k=k, n_lists=n_lists, graph=graph, grouped=allowed.reused
    )
