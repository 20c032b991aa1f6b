"""The one path from queries to rows that searches, certificates and benchmarks all take."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from specdb.search.exact import best, exact_search, inner_products, rank
from specdb.search.filters import Partition, search_lists
from specdb.search.kinds import IndexKind, SearchParameters
from specdb.search.planner import Path, choose_path

__all__ = ["path_of", "retrieve"]

#: Neighbours fetched, in multiples of what a filter independent of the query would need.
_OVER_FETCH = 1.5


def retrieve(
    kind: IndexKind,
    index: Any,
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    parameters: SearchParameters,
    *,
    excluded: np.ndarray | None = None,
    kept: np.ndarray | None = None,
    partition: Partition | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest rows: candidates from the index, scores and order from the full-precision vectors.

    Queries for which the visited lists held fewer than k rows are answered by an exact scan.

    Parameters
    ----------
    kind, index, parameters
        What to search and how.
    vectors : ndarray or memmap (n, d), float32, C-contiguous
    queries : ndarray (m, d), float32, C-contiguous
    k : int
    excluded : ndarray (e,), int64, optional
        Distinct rows that no query may find.
    kept : ndarray (r,), int64, increasing, optional
        The only rows that may be found; excludes `excluded`.
    partition : Partition, optional
        ``Partition.of(index)``, to save reading it again.

    Returns
    -------
    scores : ndarray (m, min(k, p)), float32, descending
        p is the number of rows that may be found.
    rows : ndarray (m, min(k, p)), int64, never negative
    """
    n = len(vectors)
    excluded = np.empty(0, np.int64) if excluded is None else excluded
    k = min(k, n - len(excluded) if kept is None else len(kept))
    if k <= 0 or len(queries) == 0:
        return np.empty((len(queries), max(k, 0)), np.float32), np.empty((len(queries), max(k, 0)), np.int64)
    if kept is not None:
        partition = partition or Partition.of(index)
        path = path_of(kind, partition, n, len(kept), vectors.shape[1], len(queries), k)
        if path == "lists" and partition is not None:
            return search_lists(partition.group(kept), vectors, queries, k)
        if path == "over-fetch":
            return _over_fetch(kind, index, vectors, queries, k, parameters, kept)
        return exact_search(vectors, queries, k, rows=kept)
    selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(excluded)) if excluded.size else None
    scores, rows = kind.search(index, queries, k, parameters, selector)
    if not kind.precise:
        scores = inner_products(vectors, queries, rows)
    scores, rows = rank(scores, rows, k)
    if (short := rows[:, -1] < 0).any():
        rest = np.setdiff1d(np.arange(n), excluded) if excluded.size else None
        scores[short], rows[short] = exact_search(vectors, queries[short], k, rows=rest)
    return scores, rows


def path_of(kind: IndexKind, partition: Partition | None, n: int, matching: int, dim: int, queries: int, k: int) -> Path:
    """Say how `retrieve` finds the k nearest of some of the rows; see `specdb.search.planner.choose_path`."""
    n_lists = 0 if partition is None else len(partition.centres)
    graph = partition is None and kind.step_up is not None
    return choose_path(n, matching, dim, queries=queries, k=k, n_lists=n_lists, graph=graph)


def _over_fetch(
    kind: IndexKind,
    index: Any,
    vectors: np.ndarray,
    queries: np.ndarray,
    k: int,
    parameters: SearchParameters,
    kept: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fetch so many neighbours that k of them should match; where fewer do, compare all matching rows."""
    n = len(vectors)
    keep = np.zeros(n, bool)
    keep[kept] = True
    fetch = min(n, int(_OVER_FETCH * k * n / len(kept)) + 10)
    _, rows = kind.search(index, queries, fetch, parameters)
    rows = np.where((rows >= 0) & keep[rows], rows, -1)
    scores, rows = best(inner_products(vectors, queries, rows), rows, k)
    if (short := rows[:, -1] < 0).any():
        scores[short], rows[short] = exact_search(vectors, queries[short], k, rows=kept)
    return scores, rows
