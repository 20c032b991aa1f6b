"""Figures of merit of a representation: repeat visits, labels of nearest neighbours, partners in another modality."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from indexer.train.data import LABELS
from specdb.statistics import biweight_sigma, r_squared, wilson

__all__ = [
    "Recall",
    "evaluate",
    "neighbour_labels",
    "partner_ranks",
    "principal_components",
    "recalls",
    "repeat_visits",
    "unit_rows",
    "visit_ranks",
]

_BLOCK = 1024  # queries whose similarities are held at a time


@dataclass(frozen=True)
class Recall:
    """Share of queries whose true partner is among the first k, with its 95 % Wilson interval."""

    k: int
    n_queries: int
    value: float
    low: float
    high: float


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Return the rows of (n, d) at unit length."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def recalls(ranks: np.ndarray, ks: tuple[int, ...] = (1, 10)) -> list[Recall]:
    """Return one `Recall` per k from the ranks (q,) of the true answers, counted from 1."""
    n = len(ranks)
    shares = {k: float((ranks <= k).sum()) / max(n, 1) for k in ks}
    return [Recall(k, n, shares[k], *wilson(shares[k], n)) for k in ks]


def visit_ranks(embedding: np.ndarray, star: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Search each spectrum that has another visit of its star among all the others, by cosine.

    Parameters
    ----------
    embedding : ndarray (n, d)
    star : ndarray (n,)
        Equal numbers are one star.

    Returns
    -------
    query : ndarray (q,), int64
        Rows that have another visit.
    rank : ndarray (q,), int64
        Rank, from 1, of the other visit that comes first.
    """
    _, inverse, visits = np.unique(star, return_inverse=True, return_counts=True)
    query = np.flatnonzero(visits[inverse] > 1)
    unit = unit_rows(embedding)
    rank = np.empty(len(query), np.int64)
    for start in range(0, len(query), _BLOCK):
        rows = query[start : start + _BLOCK]
        similarity = unit[rows] @ unit.T  # (b, n)
        similarity[np.arange(len(rows)), rows] = -np.inf
        order = np.argsort(-similarity, axis=1, kind="stable")
        rank[start : start + len(rows)] = (star[order] == star[rows][:, None]).argmax(axis=1) + 1
    return query, rank


def repeat_visits(embedding: np.ndarray, star: np.ndarray, ks: tuple[int, ...] = (1, 10)) -> list[Recall]:
    """Return for each k how often another visit of the star is among the first k; see `visit_ranks`."""
    return recalls(visit_ranks(embedding, star)[1], ks)


def partner_ranks(
    query: np.ndarray, bank: np.ndarray, partner: np.ndarray | None = None, *, normalise: bool = True
) -> np.ndarray:
    """Return the rank (q,), from 1, of each query's partner in another modality; equals count against it.

    Parameters
    ----------
    query : ndarray (q, d)
    bank : ndarray (n, d)
    partner : ndarray (q,), int, optional
        Row of the bank that is the same star; by default row i belongs to query i.
    normalise : bool
        Compare by cosine, else by inner product.
    """
    a, b = (unit_rows(query), unit_rows(bank)) if normalise else (query, bank)
    partner = np.arange(len(a)) if partner is None else partner
    rank = np.empty(len(a), np.int64)
    for start in range(0, len(a), _BLOCK):
        rows = slice(start, start + _BLOCK)
        similarity = a[rows] @ b.T  # (block, n)
        own = similarity[np.arange(len(similarity)), partner[rows]]
        rank[rows] = (similarity >= own[:, None]).sum(axis=1)
    return np.maximum(rank, 1)


def neighbour_labels(
    bank: np.ndarray,
    labels: np.ndarray,
    query: np.ndarray,
    k: int = 10,
    *,
    bank_star: np.ndarray | None = None,
    query_star: np.ndarray | None = None,
) -> np.ndarray:
    """Return the mean labels (m, l) of the k nearest rows of `bank` (n, d), by cosine, for each row of `query` (m, d).

    With the stars of both, no spectrum of the query's own star counts.
    """
    similarity = unit_rows(query) @ unit_rows(bank).T
    if bank_star is not None and query_star is not None:
        similarity[query_star[:, None] == bank_star] = -np.inf
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return labels[nearest].mean(axis=1)


def principal_components(flux: np.ndarray, train: np.ndarray, n: int = 50) -> np.ndarray:
    """Return scores (n_spectra, n) on the principal components of the training rows of `flux`: the baseline."""
    mean = flux[train].mean(axis=0)
    _, _, axes = np.linalg.svd(flux[train] - mean, full_matrices=False)
    return (flux - mean) @ axes[:n].T


def evaluate(embedding: np.ndarray, star: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int = 10) -> dict:
    """Return the in-modal figures of an embedding on the stars of the test rows.

    Repeat visits are searched among the test rows. The labels of a test spectrum are estimated as the mean of its k nearest
    labelled spectra among the other rows.

    Parameters
    ----------
    embedding : ndarray (n, d)
    star : ndarray (n,)
    labels : ndarray (n, 3)
        Columns `indexer.train.data.LABELS`.
    test : ndarray (n,), bool
    k : int
    """
    known = np.isfinite(labels).all(axis=1)
    result: dict = {"recall": [asdict(r) for r in repeat_visits(embedding[test], star[test])]}
    bank, query = known & ~test, known & test
    if bank.sum() >= k and query.sum() > 1:
        predicted = neighbour_labels(embedding[bank], labels[bank], embedding[query], k)
        truth = labels[query]
        result["knn"] = {
            name: {"sigma": biweight_sigma(predicted[:, i] - truth[:, i]), "r2": r_squared(truth[:, i], predicted[:, i])}
            for i, name in enumerate(LABELS)
        }
        result["n_labelled"] = {"bank": int(bank.sum()), "test": int(query.sum())}
    return result
