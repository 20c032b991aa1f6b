"""How a search goes about its work, decided from costs that were measured, and said in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["CostModel", "Path", "Plan", "choose_path"]

Path = Literal["index", "exact", "lists", "over-fetch"]


@dataclass(frozen=True)
class CostModel:
    """What the steps of a filtered search cost, in nanoseconds.

    Measured with one thread, 256 dimensions, 100,000 rows on the machine that `benchmarks/results/filters.md` names; only
    their ratios matter to the choice between paths.

    Attributes
    ----------
    compare : float
        One value of one row with a query that is alone: bound by memory.
    compare_batch : float
        The same in a batch, where rows are compared by a matrix product.
    copy : float
        One value of one matching row, once per batch, to lay rows side by side.
    group : float
        One row of the index, matching or not, once per batch: sorting the filter's rows into lists.
    list : float
        One inverted list, per query.
    query : float
        One query by lists, whatever the rest.
    call : float
        One batch by lists, whatever its size.
    """

    compare: float = 0.95
    compare_batch: float = 0.42
    copy: float = 1.6
    group: float = 24.0
    list: float = 180.0
    query: float = 60_000.0
    call: float = 700_000.0

    #: Rows compared, per neighbour wanted, by a search by lists: first visit and what is added to it, on average.
    visited: int = 150

    #: Batches from this size on profit from matrix products.
    batch: int = 20

    def exact(self, n_matching: int, dim: int, queries: int) -> float:
        """Return the time of comparing every matching row, for all queries."""
        if queries < self.batch:
            return queries * n_matching * dim * self.compare
        return n_matching * dim * (self.copy + queries * self.compare_batch)

    def by_lists(self, n: int, n_lists: int, dim: int, queries: int, k: int, grouped: bool = False) -> float:
        """Return the time of a search by lists, for all queries; `grouped` where the rows lie in their lists already."""
        per_query = self.query + n_lists * self.list + self.visited * k * dim * self.compare
        return self.call + (0.0 if grouped else n * self.group) + queries * per_query


def choose_path(
    n: int,
    n_matching: int,
    dim: int,
    *,
    queries: int,
    k: int,
    n_lists: int,
    graph: bool,
    grouped: bool = False,
    cost: CostModel | None = None,
) -> Path:
    """Choose how to answer queries of which only some rows are possible answers.

    Parameters
    ----------
    n, n_matching : int
        Rows in the index, and rows that the filter selects.
    dim, queries, k : int
    n_lists : int
        Inverted lists of the index; 0 where it has none.
    graph : bool
        True where the index is neither lists nor an exact scan: it can only be asked for more than is wanted.
    grouped : bool
        True where sorting the filter's rows into lists counts for nothing, since many searches share it.

    Returns
    -------
    {"exact", "lists", "over-fetch"}
        Compare all matching rows; visit lists until enough; or fetch k / selectivity neighbours and keep those that match.
    """
    cost = cost or CostModel()
    if n_matching <= 4 * k:
        return "exact"
    exact = cost.exact(n_matching, dim, queries)
    if n_lists and n_matching > 2 * cost.visited * k:
        return "lists" if cost.by_lists(n, n_lists, dim, queries, k, grouped) < exact else "exact"
    # A graph's search visits some hundred rows per neighbour fetched, and narrow filters make it miss.
    if graph and n_matching > n // 20 and cost.visited * k * n / n_matching * dim * cost.compare * queries < exact:
        return "over-fetch"
    return "exact"


@dataclass(frozen=True)
class Plan:
    """How a search is, or was, answered.

    Attributes
    ----------
    kind : {"index", "exact", "lists", "over-fetch", "radius"}
        ``index``: by the index alone. ``exact``: all rows that may be found are compared. ``lists``, ``over-fetch``: see
        `choose_path`. ``radius``: every row compared with the limit.
    modality : str
        What is searched.
    n_searched : int
        Spectra in the index.
    n_matching : int or None
        Those that the filter selects; None without a filter.
    where : str or None
        The filter.
    why : str
        One sentence on the choice.
    guarantee : str
        One sentence on what the answer is worth.
    """

    kind: str
    modality: str
    n_searched: int
    n_matching: int | None
    where: str | None
    why: str
    guarantee: str

    def __str__(self) -> str:
        """Two lines for people."""
        filtered = "" if self.n_matching is None else f", {self.n_matching:,} of which match {self.where!r}"
        searched = f"{self.n_searched:,} {self.modality} spectra{filtered}"
        return f"plan: {self.kind} search of {searched}: {self.why}\n{self.guarantee}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)
