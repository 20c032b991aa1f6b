"""The recall certificate: how many true neighbours an index finds, measured on the user's own vectors.

Queries are rows of the indexed vectors themselves, drawn at random; the query's own row is left out of question and answer
alike, since finding oneself is no achievement. Queries of another modality lie outside what the index was fitted to and
are the harder ones, so they get a certificate of their own. An answer is judged by the row numbers it names: their
similarities are computed afresh, so neither wrong scores nor rows out of step with their scores can pass for hits. A row as
near as the k-th true neighbour is a hit even if it is another row: duplicates must not count as misses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from specdb.search.exact import drop, exact_search, inner_products
from specdb.search.kinds import SearchParameters
from specdb.statistics import wilson

__all__ = [
    "DEPTHS",
    "Recall",
    "RecallCertificate",
    "Search",
    "Truth",
    "certify",
    "cross_truth",
    "draw_rows",
    "exact_truth",
    "read_truths",
    "wilson_recall",
    "write_truths",
]

#: The k for which recall is measured.
DEPTHS = (1, 10, 100)

#: Differences of float32 inner products of unit vectors below this are rounding (a few units in the last place of 1).
SCORE_TOLERANCE = 1e-6

_OWN_ROWS = "rows of the indexed vectors, each without itself"

#: A search as the certificate sees it: (queries (m, d), k) -> rows (m, <= k), int64, best first, -1 for none.
Search = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Recall:
    """A measured recall with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RecallCertificate:
    """What was measured and how.

    Attributes
    ----------
    recall : dict of int to Recall
        For each k of `DEPTHS`: the share of the k true nearest neighbours that the index returned.
    queries : int
        Number of queries.
    drawn : str
        How the queries were chosen.
    rows : int
        Number of vectors searched.
    parameters : SearchParameters
        The knobs in force.
    microseconds_per_query : float
        In one batch at k = 100; depends on the machine and its load, so it plays no part in comparisons.
    """

    recall: dict[int, Recall]
    queries: int
    drawn: str
    rows: int
    parameters: SearchParameters
    microseconds_per_query: float = field(compare=False)

    def __str__(self) -> str:
        """One line for people."""
        ten = self.recall[10]
        others = ", ".join(f"recall@{k} {r.value:.4f}" for k, r in self.recall.items() if k != 10)
        return f"measured recall@10 {ten.value:.4f} [{ten.low:.4f}, {ten.high:.4f}], {others} ({self.queries} queries)"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "recall": {str(k): asdict(r) for k, r in self.recall.items()}}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RecallCertificate:
        """Rebuild a certificate from `to_dict`."""
        recall = {int(k): Recall(**r) for k, r in values["recall"].items()}
        return cls(**{**values, "recall": recall, "parameters": SearchParameters(**values["parameters"])})


@dataclass(frozen=True)
class Truth:
    """Queries with their exact answers.

    Attributes
    ----------
    queries : ndarray (m, d), float32
    own : ndarray (m, 1), int64
        The row that each query was drawn from, -2 for queries from elsewhere; never part of an answer.
    scores : ndarray (m, p), float32
        Similarities of the true neighbours, best first, p = min(max(DEPTHS), rows that could be found).
    allowed : ndarray (n,), bool, optional
        Rows that may be found, all where None.
    drawn : str
        How the queries were chosen.
    population : int
        Rows there were when the queries were drawn.
    """

    queries: np.ndarray
    own: np.ndarray
    scores: np.ndarray
    allowed: np.ndarray | None
    drawn: str
    population: int

    def part(self, rows: slice) -> Truth:
        """Return some of the queries."""
        return replace(self, queries=self.queries[rows], own=self.own[rows], scores=self.scores[rows])

    def extended(self, vectors: np.ndarray) -> Truth:
        """Return the truth among the rows searched so far and more rows (m, d), float32, without looking at the former."""
        scores, _ = exact_search(vectors, self.queries, max(DEPTHS))
        return replace(self, scores=-np.sort(-np.hstack([self.scores, scores]), axis=1)[:, : max(DEPTHS)])


def draw_rows(n: int, count: int, seed: int) -> np.ndarray:
    """Return up to `count` of n row numbers, without repetition and in random order, int64."""
    # Another stream than the one that draws the training sample, lest queries be the very vectors trained on.
    return np.random.default_rng((seed, 1)).choice(n, min(n, count), replace=False).astype(np.int64)


def exact_truth(vectors: np.ndarray, rows: np.ndarray, *, allowed: np.ndarray | None = None) -> Truth:
    """Search exactly for the neighbours of some of the rows, each without itself.

    Parameters
    ----------
    vectors : ndarray or memmap (n, d), float32
    rows : ndarray (m,), int64
        Where the queries are.
    allowed : ndarray (n,), bool, optional
        A filter: only these rows may be found.
    """
    queries = np.ascontiguousarray(vectors[rows])
    within = None if allowed is None else np.flatnonzero(allowed)
    scores, found = exact_search(vectors, queries, max(DEPTHS) + 1, rows=within)
    depth = min(max(DEPTHS), (len(vectors) if within is None else len(within)) - 1)
    scores, _ = drop(scores, found, rows[:, None], max(depth, 0))
    return Truth(queries, rows[:, None], scores, allowed, _OWN_ROWS, len(vectors))


def cross_truth(vectors: np.ndarray, queries: np.ndarray, source: str) -> Truth:
    """Search exactly for the neighbours of vectors of another modality, (m, d) float32."""
    queries = np.ascontiguousarray(queries, np.float32)
    scores, _ = exact_search(vectors, queries, max(DEPTHS))
    return Truth(queries, np.full((len(queries), 1), -2), scores, None, f"{source} spectra", len(vectors))


def write_truths(truths: dict[str, Truth], path: Path) -> None:
    """Keep the queries of certificates with their answers, so that appending need not search them all again."""
    arrays: dict[str, Any] = {}
    for source, truth in truths.items():
        arrays |= {f"{source}/{name}": getattr(truth, name) for name in ("own", "scores", "population")}
        if source:
            arrays[f"{source}/queries"] = truth.queries
    with path.open("wb") as handle:
        np.savez(handle, **arrays)


def read_truths(path: Path, vectors: np.ndarray) -> dict[str, Truth]:
    """Read what `write_truths` kept; the key is the queries' modality, empty for the indexed one."""
    with np.load(path, allow_pickle=False) as arrays:
        truths = {}
        for source in sorted({name.rpartition("/")[0] for name in arrays.files}):
            own = arrays[f"{source}/own"]
            queries = arrays[f"{source}/queries"] if source else np.ascontiguousarray(vectors[own[:, 0]])
            drawn = f"{source} spectra" if source else _OWN_ROWS
            scores, population = arrays[f"{source}/scores"], int(arrays[f"{source}/population"])
            truths[source] = Truth(queries, own, scores, None, drawn, population)
    return truths


def wilson_recall(shares: np.ndarray, k: int) -> Recall:
    """Return the mean share of hits with Wilson's score interval at 95 %.

    The k hits of one query rise and fall together, so m k hits are worth fewer than m k independent trials. Their number
    is reduced by the design effect: p (1 - p) / s^2 trials per query, with s^2 the variance between queries, and between
    one and k (Kish 1965, Survey Sampling, section 5.4; Wilson 1927, J. Am. Stat. Assoc. 22, 209).

    Parameters
    ----------
    shares : ndarray (m,), float64
        Share of hits of each query, 0 to 1.
    k : int
        Hits sought per query.
    """
    m = len(shares)
    p = float(shares.mean())
    spread = float(shares.var(ddof=1)) if m > 1 else 0.0
    trials = m * min(max(p * (1 - p) / spread, 1.0), float(k)) if spread > 0 else float(m)
    return Recall(p, *wilson(p, trials))


def _hits(vectors: np.ndarray, truth: Truth, found: np.ndarray, k: int) -> np.ndarray:
    """Return the share of the k nearest (m,) that is among the first k rows found (m, >= k)."""
    k = min(k, truth.scores.shape[1])
    if k == 0:
        return np.ones(len(found))
    rows = np.sort(found[:, :k], axis=1)
    hit = inner_products(vectors, truth.queries, rows) >= truth.scores[:, k - 1 : k] - SCORE_TOLERANCE
    hit &= (rows >= 0) & (rows != truth.own)
    hit[:, 1:] &= rows[:, 1:] != rows[:, :-1]  # a row named twice is one hit
    if truth.allowed is not None:
        hit &= truth.allowed[rows]
    return hit.mean(axis=1)


def certify(
    search: Search,
    vectors: np.ndarray,
    truth: Truth,
    parameters: SearchParameters,
    *,
    depths: tuple[int, ...] = DEPTHS,
) -> RecallCertificate:
    """Measure the recall of a search against the truth.

    Each depth is a search of its own, since an index may look at more candidates when asked for more.

    Parameters
    ----------
    search : callable
        The whole path a user's query takes, filters included.
    vectors : ndarray or memmap (n, d), float32
    truth : Truth
    parameters : SearchParameters
        Noted in the certificate.
    depths : tuple of int
        The k to measure.
    """
    recall = {}
    seconds = 0.0
    for k in depths:
        start = time.perf_counter()
        found = search(truth.queries, k + 1)
        seconds = time.perf_counter() - start
        if (missing := k + 1 - found.shape[1]) > 0:
            found = np.pad(found, ((0, 0), (0, missing)), constant_values=-1)
        _, found = drop(found, found, truth.own, k)
        recall[k] = wilson_recall(_hits(vectors, truth, found, k), k)
    timing = 1e6 * seconds / len(truth.queries)
    return RecallCertificate(recall, len(truth.queries), truth.drawn, len(vectors), parameters, timing)
