"""Exact answers: inner products of chosen pairs, and the true neighbours of all rows or some, nearest or within a radius.

Everything works against a memory map larger than memory: at most one block of rows is copied at a time.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from specdb.search.checks import blocks

__all__ = ["best", "drop", "exact_search", "inner_products", "rank", "within"]

#: Below this many multiplications, waking other threads (which may have to wait for a core) costs more than it saves.
_WORTH_THREADS = 1 << 19

#: For so few queries, comparing rows where they lie beats copying them side by side for a matrix product.
_FEW_QUERIES = 4

#: Pairs compared at once where rows are compared where they lie.
_PAIRS = 1 << 20

#: What a matrix product may be off by: similarities this close to a limit are computed one by one.
_PRODUCT_ERROR = 1e-5

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
    if len(rows) == 1 < threads and rows.size * vectors.shape[1] >= _WORTH_THREADS:
        # FAISS gives each query to one thread: a long list of one query is cut into that of several equal ones.
        width = -(-rows.shape[1] // threads)
        padded = np.pad(rows, ((0, 0), (0, width * threads - rows.shape[1])), constant_values=-1)
        several = inner_products(vectors, np.repeat(queries, threads, axis=0), padded.reshape(threads, width))
        return several.reshape(1, -1)[:, : rows.shape[1]]
    alone = threads > 1 and rows.size * vectors.shape[1] < _WORTH_THREADS
    if alone:
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
        if alone:
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


def best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best (scores, rows) of each query, best first, of many: all of them need not be sorted."""
    if scores.shape[1] > 4 * k:
        kth = np.partition(scores, -k, axis=1)[:, -k, None]
        # Rows that equal the k-th must stay together, so that `rank` decides between them; rarely more than one does.
        width = int((scores >= kth).sum(axis=1).max())
        chosen = np.argpartition(-scores, width - 1, axis=1)[:, :width]
        scores, rows = np.take_along_axis(scores, chosen, axis=1), np.take_along_axis(rows, chosen, axis=1)
    elif (short := k - scores.shape[1]) > 0:
        scores = np.pad(scores, ((0, 0), (0, short)), constant_values=-np.inf)
        rows = np.pad(rows, ((0, 0), (0, short)), constant_values=-1)
    return rank(scores, rows, k)


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
    if rows is not None and len(queries) <= _FEW_QUERIES:
        for start in range(0, count, _PAIRS):
            some = np.broadcast_to(rows[start : start + _PAIRS], (len(queries), len(rows[start : start + _PAIRS])))
            near, found = best(inner_products(vectors, queries, some), some, k)
            best_scores, best_rows = best(np.hstack([best_scores, near]), np.hstack([best_rows, found]), k)
        return best_scores, best_rows
    for part in blocks(count, vectors.shape[1]):
        block = vectors[part] if rows is None else vectors[rows[part]]
        _, found = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        found = found + part.start if rows is None else rows[part][found]
        candidates = np.hstack([best_rows, found])
        scores = np.hstack([best_scores, inner_products(vectors, queries, found)])
        best_scores, best_rows = rank(scores, candidates, k)
    return best_scores, best_rows


def within(
    vectors: np.ndarray, queries: np.ndarray, least: float, *, rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find every row whose similarity is at least `least`, in one pass over the vectors.

    Parameters
    ----------
    vectors : ndarray or memmap (n, d), float32, C-contiguous
    queries : ndarray (m, d), float32, C-contiguous
    least : float
        A cosine.
    rows : ndarray (r,), int64, increasing, optional
        The rows to consider; all by default.

    Returns
    -------
    limits : ndarray (m + 1,), int64
        The answers of query i are those from ``limits[i]`` to ``limits[i + 1]``.
    scores : ndarray, float32
        Descending within a query; equal scores in the order of their rows.
    rows : ndarray, int64
    """
    count = len(vectors) if rows is None else len(rows)
    lines, scores, found = [np.empty(0, np.int64)], [np.empty(0, np.float32)], [np.empty(0, np.int64)]
    for part in blocks(count, vectors.shape[1]):
        block = np.ascontiguousarray(vectors[part] if rows is None else vectors[rows[part]])
        for start in range(0, len(queries), max(1, _PAIRS // len(block))):
            some = queries[start : start + max(1, _PAIRS // len(block))]
            at, column = np.nonzero(some @ block.T >= least - _PRODUCT_ERROR)
            line = at + start
            row = column + part.start if rows is None else rows[part][column]
            pairs = blocks(len(line), vectors.shape[1])
            products = [inner_products(vectors, queries[line[pair]], row[pair, None])[:, 0] for pair in pairs]
            exact = np.concatenate([np.empty(0, np.float32), *products])
            keep = exact >= least
            lines.append(line[keep])
            scores.append(exact[keep])
            found.append(row[keep])
    owners, values, rows_found = np.concatenate(lines), np.concatenate(scores), np.concatenate(found)
    order = np.lexsort((rows_found, -values, owners))
    limits = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(queries)))]).astype(np.int64)
    return limits, values[order], rows_found[order]
