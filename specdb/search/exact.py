"""Exact answers: inner products of chosen pairs, and the true nearest neighbours among all rows or some of them.

Everything works against a memory map larger than memory: at most one block of rows is copied at a time.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from specdb.search.checks import blocks

__all__ = ["drop", "exact_search", "inner_products", "rank"]

#: Below this many multiplications, waking other threads (which may have to wait for a core) costs more than it saves.
_WORTH_THREADS = 1 << 19

_faiss: Any = faiss  # its type stubs know only part of it


def inner_products(vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the similarity of each query to its own list of rows, from the full-precision vectors.

    The value depends on the pair alone, never on the size of the batch or the kind of index, so scores can be compared
    bit for bit between runs.

    Parameters
    ----------
    vectors : ndarray or memmap (n, d), float32, C-contiguous
    queries : ndarray (m, d), float32, C-contiguous
    rows : ndarray (m, k), int64
        Row numbers below n; negative where there is none.

    Returns
    -------
    ndarray (m, k), float32
        Minus infinity where the row is negative.
    """
    rows = np.ascontiguousarray(rows)
    scores = np.full(rows.shape, -np.inf, dtype=np.float32)
    if rows.size == 0:
        return scores
    threads = faiss.omp_get_max_threads()
    if rows.size * vectors.shape[1] < _WORTH_THREADS:
        faiss.omp_set_num_threads(1)  # of the calling thread only, in OpenMP
    try:
        _faiss.fvec_inner_products_by_idx(
            _faiss.swig_ptr(scores),
            _faiss.swig_ptr(queries),
            _faiss.swig_ptr(vectors),
            _faiss.swig_ptr(rows),
            vectors.shape[1],
            *rows.shape,
        )
    finally:
        faiss.omp_set_num_threads(threads)
    return scores


def rank(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best (scores, rows) of each query, best first; equal scores come in the order of their rows."""
    if (scores[:, :-1] > scores[:, 1:]).all():
        return scores[:, :k], rows[:, :k]
    order = np.argsort(-scores, axis=1)
    line = np.arange(len(scores))[:, None]
    ranked = scores[line, order]
    # Ties are rare, and sorting by two keys takes several times as long.
    tied = (ranked[:, :-1] == ranked[:, 1:]).any(axis=1)
    if tied.any():
        order[tied] = np.lexsort((rows[tied], -scores[tied]), axis=-1)
    return ranked[:, :k], rows[line, order[:, :k]]


def drop(scores: np.ndarray, rows: np.ndarray, unwanted: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first k (scores, rows) of each query that are not among its unwanted rows.

    Parameters
    ----------
    scores, rows : ndarray (m, p)
        Ranked; p is at least k plus the number of unwanted rows.
    unwanted : ndarray (m, e), int64
        Row numbers; -2 pads lists of different length.
    """
    hit = (rows[:, :, None] == unwanted[:, None, :]).any(axis=2)
    order = np.argsort(hit, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def exact_search(
    vectors: np.ndarray, queries: np.ndarray, k: int, *, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Find the true k nearest rows by inner product, in one pass over the vectors.

    Parameters
    ----------
    vectors : ndarray or memmap (n, d), float32, C-contiguous
    queries : ndarray (m, d), float32, C-contiguous
    k : int
    rows : ndarray (r,), int64, increasing, optional
        The rows to consider; all by default.

    Returns
    -------
    scores : ndarray (m, min(k, r)), float32, descending
    rows : ndarray (m, min(k, r)), int64
    """
    count = len(vectors) if rows is None else len(rows)
    k = min(k, count)
    best_scores = np.empty((len(queries), 0), dtype=np.float32)
    best_rows = np.empty((len(queries), 0), dtype=np.int64)
    if k == 0 or len(queries) == 0:
        return np.empty((len(queries), k), dtype=np.float32), np.empty((len(queries), k), dtype=np.int64)
    for part in blocks(count, vectors.shape[1]):
        block = vectors[part] if rows is None else vectors[rows[part]]
        _, found = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        found = found + part.start if rows is None else rows[part][found]
        candidates = np.hstack([best_rows, found])
        scores = np.hstack([best_scores, inner_products(vectors, queries, found)])
        best_scores, best_rows = rank(scores, candidates, k)
    return best_scores, best_rows
