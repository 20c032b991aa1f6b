"""What vectors, ids and queries must look like before anything is built on them or asked of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from specdb.errors import InputError, QueryError

__all__ = ["as_ids", "as_queries", "as_rows", "as_vectors", "blocks"]

#: Unit vectors that went through float16 are off by up to 5e-4; anything further away was never normalised.
UNIT_TOLERANCE = 1e-3

_BLOCK_BYTES = 1 << 25


def blocks(n: int, dim: int, block_bytes: int = _BLOCK_BYTES) -> Iterator[slice]:
    """Yield slices that cut n float32 rows of width dim into pieces of bounded size."""
    step = max(1, block_bytes // (4 * dim))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _off_unit(vectors: np.ndarray) -> int:
    """Count the rows that are not unit vectors; NaN and Inf count, since no comparison with them holds."""
    if len(vectors) == 1:  # the latency of a single query counts in microseconds
        return int(not abs(float(np.dot(vectors[0], vectors[0])) - 1.0) <= 2 * UNIT_TOLERANCE)
    off = 0
    for part in blocks(*vectors.shape):
        squared = np.einsum("nd,nd->n", vectors[part], vectors[part])
        off += int(np.count_nonzero(~(np.abs(squared - 1.0) <= 2 * UNIT_TOLERANCE)))
    return off


def as_vectors(vectors: np.ndarray) -> np.ndarray:
    """Check vectors to be indexed.

    Parameters
    ----------
    vectors : ndarray or memmap (n, d), float32 (float16 and float64 are converted)
        Unit vectors.

    Returns
    -------
    ndarray (n, d), float32, C-contiguous
        The same memory where it already has this form.

    Raises
    ------
    InputError
        For another shape or type, or where any row is not a finite unit vector; the message counts them.
    """
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise InputError(f"vectors have shape {vectors.shape}; an index needs a table of n vectors of one dimension, (n, d)")
    if vectors.dtype.kind != "f":
        raise InputError(f"vectors are {vectors.dtype}; an index needs floating-point vectors: convert them to float32")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if off := _off_unit(vectors):
        raise InputError(
            f"{off} of {len(vectors)} vectors are not finite unit vectors (length 1 within {UNIT_TOLERANCE:g}); "
            "similarity is the cosine: divide each vector by its length and leave out those with NaN"
        )
    return vectors


def as_ids(ids: np.ndarray, count: int) -> np.ndarray:
    """Check the ids of `count` vectors and return them as int64 (n,); `InputError` where they cannot name the rows."""
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu" and ids.size:
        raise InputError(f"ids are {ids.dtype}; they must be 64-bit integers, since Gaia ids do not survive a float")
    if ids.shape != (count,):
        raise InputError(f"{count} vectors came with ids of shape {ids.shape}; give one id per vector, shape ({count},)")
    if ids.dtype == np.uint64 and ids.size and ids.max() > np.iinfo(np.int64).max:
        raise InputError(f"id {ids.max()} does not fit into a signed 64-bit integer; ids are int64")
    ids = np.ascontiguousarray(ids, dtype=np.int64)
    ordered = np.sort(ids)
    if (repeated := ordered[1:][ordered[1:] == ordered[:-1]]).size:
        raise InputError(f"{repeated.size} ids occur more than once, first {repeated[0]}; each id names one vector")
    return ids


def as_queries(queries: np.ndarray, dim: int, k: int) -> np.ndarray:
    """Check a batch of queries against the index's dimension and return it as float32 (m, d).

    Raises
    ------
    QueryError
        For k below 1, another shape or dimension, or queries that are not finite unit vectors.
    """
    if k < 1:
        raise QueryError(f"k is {k}; ask for at least one neighbour")
    if queries.ndim != 2:
        raise QueryError(f"queries have shape {queries.shape}; give a batch of m vectors, shape (m, {dim})")
    if queries.shape[1] != dim:
        raise QueryError(
            f"queries have dimension {queries.shape[1]}, this index {dim}: they come from another encoder or modality; "
            "embed them with the encoder that the index was made with"
        )
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if off := _off_unit(queries):
        raise QueryError(f"{off} of {len(queries)} queries are not finite unit vectors; divide each by its length")
    return queries


def as_rows(keep: np.ndarray, count: int) -> np.ndarray:
    """Return the rows that a filter keeps, int64 (r,), increasing.

    Parameters
    ----------
    keep : ndarray
        (count,) bool, or (r,) integers: increasing rows below `count`.

    Raises
    ------
    QueryError
        For anything else.
    """
    keep = np.asarray(keep)
    if keep.dtype == bool and keep.shape == (count,):
        return np.flatnonzero(keep)
    rows = keep.astype(np.int64) if keep.dtype.kind in "iu" or keep.size == 0 else None
    if rows is None or rows.ndim != 1 or (rows.size and (rows[0] < 0 or rows[-1] >= count or (np.diff(rows) <= 0).any())):
        raise QueryError(
            f"keep is {keep.dtype} of shape {keep.shape}; give ({count},) booleans, or increasing row numbers below {count}"
        )
    return rows
