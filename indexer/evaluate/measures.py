"""Figures of merit of a representation: repeat visits, and labels of nearest neighbours."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from indexer.train.data import LABELS
from specdb.statistics import biweight_sigma, r_squared, wilson

__all__ = [
    "Recall",
    "evaluate",
    "neighbour_labels",
    "principal_components",
    "repeat_visits",
    "unit_rows",
]


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


def repeat_visits(embedding: np.ndarray, star: np.ndarray, ks: tuple[int, ...] = (1, 10)) -> list[Recall]:
    """Search each spectrum that has another visit of its star among all the others, by cosine.

    Parameters
    ----------
    embedding : ndarray (n, d)
    star : ndarray (n,)
        Equal numbers are one star.
    ks : tuple of int

    Returns
    -------
    list of Recall
        One per k: a hit is any other visit of the star among the first k.
    """
    _, inverse, visits = np.unique(star, return_inverse=True, return_counts=True)
    query = np.flatnonzero(visits[inverse] > 1)
    unit = unit_rows(embedding)
    similarity = unit[query] @ unit.T  # (q, n)
    similarity[np.arange(len(query)), query] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")[:, : max(ks)]
    same = star[order] == star[query][:, None]  # (q, max k)
    hits = {k: int(same[:, :k].any(axis=1).sum()) for k in ks}
    shares = {k: hits[k] / max(len(query), 1) for k in ks}
    return [Recall(k, len(query), shares[k], *wilson(shares[k], len(query))) for k in ks]


def neighbour_labels(bank: np.ndarray, labels: np.ndarray, query: np.ndarray, k: int = 10) -> np.ndarray:
    """Return the mean labels (m, l) of the k nearest rows of `bank` (n, d), by cosine, for each row of `query` (m, d)."""
    similarity = unit_rows(query) @ unit_rows(bank).T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return labels[nearest].mean(axis=1)


def principal_components(flux: np.ndarray, train: np.ndarray, n: int = 50) -> np.ndarray:
    """Return scores (n_spectra, n) on the principal components of the training rows of `flux`: the baseline."""
    mean = flux[train].mean(axis=0)
    _, _, axes = np.linalg.svd(flux[train] - mean, full_matrices=False)
    return (flux - mean) @ axes[:n].T


def evaluate(embedding: np.ndarray, star: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int = 10) -> dict:
    """Return all figures of an embedding on the stars of the test rows.

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
