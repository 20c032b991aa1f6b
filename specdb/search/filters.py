"""Filtered search in an inverted-file index: visit the lists that hold matching rows until no better row is to be expected.

Visiting the same few lists as without a filter fails twice: narrow filters leave too few matching rows in them, and filters
that select another region than the query's leave none. Here the matching rows are grouped by list. The lists nearest to
the query are visited until they have given `FIRST_ROWS` matching rows per neighbour wanted; then the distances met, and
those to a random sample of the matching rows, say how the similarity to a row scatters about the similarity to the centre
of its list, and with that how many rows better than the k-th found each unvisited list may hold. Lists are added until
fewer than `MISSED_SHARE` of the k neighbours are expected outside. A query for which that takes most of the matching rows
is answered by comparing all of them.

Scores come from the full-precision vectors, so that nothing needs to be re-ranked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np
from scipy.special import ndtr

from specdb.search.checks import blocks
from specdb.search.exact import best, exact_search, inner_products
from specdb.search.kinds import Structure

__all__ = ["FIRST_ROWS", "Grouped", "Partition", "search_lists"]

_faiss: Any = faiss  # its type stubs know only part of it

#: Matching rows visited at first, per neighbour wanted.
FIRST_ROWS = 30

#: Share of the k neighbours that may be expected in lists that are not visited.
MISSED_SHARE = 0.002

#: Rows of the random sample that tells how similarities scatter where the query has not looked.
_SAMPLE = 512

#: Queries whose unvisited lists of interest hold more than this share of the matching rows are answered exactly.
_MOST = 0.5

_BLOCK_PRODUCTS = 1 << 21  # similarities held at once


@dataclass(frozen=True)
class Partition:
    """Which inverted list holds which row.

    Attributes
    ----------
    centres : ndarray (l, d), float32
        Centres of the lists, unit vectors.
    lists : ndarray (n,), int32
        List of each row.
    order : ndarray (n,), int64
        Rows list by list.
    starts : ndarray (l + 1,), int64
        Where each list begins in `order`.
    vectors : ndarray or memmap (n, d), float32, C-contiguous
    """

    centres: np.ndarray
    lists: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(cls, structure: Structure, vectors: np.ndarray) -> Partition | None:
        """Read the lists of an index, and sort rows that it does not cover yet (n, d) into them; None where it has none."""
        if not structure.segments or not hasattr(structure.segments[0], "invlists"):
            return None
        first = structure.segments[0]
        lists = np.empty(len(vectors), np.int32)
        for segment in structure.segments:
            stored = segment.invlists
            for number in range(segment.nlist):
                if size := stored.list_size(number):
                    ids = stored.get_ids(number)
                    lists[_faiss.rev_swig_ptr(ids, size)] = number
                    stored.release_ids(number, ids)
        for part in blocks(len(vectors) - structure.covered, vectors.shape[1]):
            rows = slice(structure.covered + part.start, structure.covered + part.stop)
            lists[rows] = first.quantizer.assign(np.ascontiguousarray(vectors[rows]), 1)[:, 0]
        order = np.argsort(lists, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(lists, minlength=first.nlist))])
        return cls(first.quantizer.reconstruct_n(0, first.nlist), lists, order, starts, vectors)

    def group(self, rows: np.ndarray) -> Grouped:
        """Group the rows (r,) of a filter, r > 0, by list."""
        keep = np.zeros(len(self.order), bool)
        keep[rows] = True
        kept = keep[self.order]
        counts = np.add.reduceat(kept, np.minimum(self.starts[:-1], len(kept) - 1), dtype=np.int64)
        counts[self.starts[:-1] == self.starts[1:]] = 0
        occupied = np.flatnonzero(counts)
        starts = np.concatenate([[0], np.cumsum(counts[occupied])])
        return Grouped(rows, self.order[kept], starts, self.centres[occupied], self.vectors)


@dataclass(frozen=True)
class Grouped:
    """The rows that a filter selects, list by list; lists without any are left out.

    Attributes
    ----------
    rows : ndarray (r,), int64
        Increasing.
    members : ndarray (r,), int64
        The same rows list by list.
    starts : ndarray (g + 1,), int64
        Where each list begins in `members`.
    centres : ndarray (g, d), float32
    vectors : ndarray or memmap (n, d), float32, C-contiguous
        Of all rows.
    """

    rows: np.ndarray
    members: np.ndarray
    starts: np.ndarray
    centres: np.ndarray
    vectors: np.ndarray

    @cached_property
    def counts(self) -> np.ndarray:
        """Rows in each list (g,), int64."""
        return np.diff(self.starts)

    @cached_property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (s, d) of rows drawn evenly and the lists (s,) that they are in: the same for the same filter."""
        places = np.unique(np.linspace(0, len(self.members) - 1, _SAMPLE).astype(np.int64))
        owner = np.searchsorted(self.starts, places, side="right") - 1
        return np.ascontiguousarray(self.vectors[self.members[places]]), owner

    def rows_in(self, lists: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows in each query's lists.

        Parameters
        ----------
        lists : ndarray (m, p), int64

        Returns
        -------
        rows : ndarray (m, t), int64
            Padded with -1.
        owner : ndarray (m, t), int64
            The list that each row is in; any where the row is -1.
        """
        begins = self.starts[lists]
        sizes = self.starts[lists + 1] - begins
        totals = sizes.sum(axis=1)
        flat = sizes.ravel()
        ends = np.cumsum(flat)
        source = np.repeat(begins.ravel() - (ends - flat), flat) + np.arange(int(flat.sum()))
        rows = np.full((len(lists), int(totals.max(initial=0))), -1, np.int64)
        owner = np.zeros_like(rows)
        filled = np.arange(rows.shape[1]) < totals[:, None]
        rows[filled] = self.members[source]
        owner[filled] = np.repeat(lists.ravel(), flat)
        return rows, owner


def search_lists(grouped: Grouped, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest of the grouped rows.

    Parameters
    ----------
    grouped : Grouped
        At least k rows.
    queries : ndarray (m, d), float32, C-contiguous
    k : int

    Returns
    -------
    scores : ndarray (m, k), float32, descending
    rows : ndarray (m, k), int64, never negative
    """
    scores = np.empty((len(queries), k), np.float32)
    rows = np.empty((len(queries), k), np.int64)
    vectors, counts = grouped.vectors, grouped.counts
    wanted = min(len(counts), int(np.ceil(FIRST_ROWS * k / counts.mean())))
    sampled, owner = grouped.sample
    broad = np.zeros(len(queries), bool)
    for part in _blocks(len(queries), max(len(counts), int(wanted * counts.mean()))):
        asked = queries[part]
        near = asked @ grouped.centres.T  # (b, g): similarity to the centres
        first = np.argpartition(-near, wanted - 1, axis=1)[:, :wanted]
        found, lists = grouped.rows_in(first)
        similarity = inner_products(vectors, asked, found)
        kept = best(similarity, found, k)
        scatter = _scatter(near, similarity, lists, found >= 0, asked @ sampled.T, owner)
        for i, more in _promising(near, counts, first, kept[0], scatter):
            line = slice(part.start + i, part.start + i + 1)
            if counts[more].sum() > _MOST * len(grouped.rows):
                broad[line] = True
            elif len(more):
                further, _ = grouped.rows_in(more[None])
                beyond = inner_products(vectors, queries[line], further)
                kept[0][i], kept[1][i] = (
                    pair[0] for pair in best(np.hstack([kept[0][[i]], beyond]), np.hstack([kept[1][[i]], further]), k)
                )
        scores[part], rows[part] = kept
    broad |= rows[:, -1] < 0
    if broad.any():
        scores[broad], rows[broad] = exact_search(vectors, queries[broad], k, rows=grouped.rows)
    return scores, rows


def _blocks(m: int, width: int) -> Iterator[slice]:
    step = max(1, _BLOCK_PRODUCTS // width)
    return (slice(start, min(start + step, m)) for start in range(0, m, step))


def _scatter(
    near: np.ndarray, similarity: np.ndarray, lists: np.ndarray, filled: np.ndarray, other: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit, per query, the similarity to a row as a line in the similarity to the centre of its list.

    Least squares over the rows visited (m, t) and those sampled (m, s). The scatter about the line is the larger of both
    root mean squares: near the query it may differ from elsewhere.

    Returns
    -------
    slope, intercept, sigma : ndarray (m, 1), float64
    """
    x = np.where(filled, np.take_along_axis(near, lists, axis=1), 0).astype(np.float64)
    y = np.where(filled, similarity, 0).astype(np.float64)
    u, v = near[:, owner].astype(np.float64), other.astype(np.float64)
    n = filled.sum(axis=1) + u.shape[1]
    mean_x, mean_y = (x.sum(axis=1) + u.sum(axis=1)) / n, (y.sum(axis=1) + v.sum(axis=1)) / n
    variance = ((x**2).sum(axis=1) + (u**2).sum(axis=1)) / n - mean_x**2
    covariance = ((x * y).sum(axis=1) + (u * v).sum(axis=1)) / n - mean_x * mean_y
    slope = np.where(variance > 0, covariance / np.maximum(variance, 1e-30), 0.0)
    intercept = mean_y - slope * mean_x
    here = np.where(filled, y - slope[:, None] * x - intercept[:, None], 0.0)
    there = v - slope[:, None] * u - intercept[:, None]
    square = np.maximum((here**2).sum(axis=1) / np.maximum(filled.sum(axis=1), 1), (there**2).mean(axis=1))
    return slope[:, None], intercept[:, None], np.sqrt(square)[:, None] + 1e-9


def _promising(
    near: np.ndarray,
    counts: np.ndarray,
    visited: np.ndarray,
    scores: np.ndarray,
    scatter: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each query with the lists to be visited yet.

    Similarities are taken as normally distributed about the line of `_scatter`; a list then holds
    ``count * P(similarity > k-th score)`` better rows on average.
    """
    slope, intercept, sigma = scatter
    expected = counts * ndtr((slope * near + intercept - scores[:, -1:]) / sigma)
    np.put_along_axis(expected, visited, 0.0, axis=1)
    rising = np.sort(expected, axis=1)
    may_miss = (np.cumsum(rising, axis=1) <= MISSED_SHARE * scores.shape[1]).sum(axis=1)
    for i, skipped in enumerate(may_miss):
        limit = rising[i, skipped - 1] if skipped else -1.0
        yield i, np.flatnonzero(expected[i] > limit)
