"""The one path from queries to rows that searches, certificates and benchmarks all take."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from specdb.search.exact import exact_search, inner_products, rank
from specdb.search.kinds import IndexKind, SearchParameters

__all__ = ["retrieve"]

#: So few rows are compared one by one sooner than lists are searched for them.
SCAN_LIMIT = 2048


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
    if kept is not None and len(kept) <= max(SCAN_LIMIT, k):
        return exact_search(vectors, queries, k, rows=kept)
    selector: Any = None
    if kept is not None:
        bits = np.zeros(n, bool)
        bits[kept] = True
        selector = faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
    elif excluded.size:
        selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(excluded))
    scores, rows = kind.search(index, queries, k, parameters, selector)
    if not kind.precise:
        scores = inner_products(vectors, queries, rows)
    scores, rows = rank(scores, rows, k)
    if (short := rows[:, -1] < 0).any():
        rest = np.setdiff1d(np.arange(n), excluded) if kept is None and excluded.size else kept
        scores[short], rows[short] = exact_search(vectors, queries[short], k, rows=rest)
    return scores, rows
