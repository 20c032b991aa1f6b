"""Filtered search: whatever the plan, the answer is complete, and as good as promised."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdb.errors import QueryError
from specdb.search.exact import best, exact_search, inner_products, within
from specdb.search.filters import Partition, search_lists
from specdb.search.index import VectorIndex
from specdb.search.kinds import SearchParameters, get_kind
from specdb.search.planner import CostModel, Plan, choose_path
from specdb.search.retrieve import retrieve
from specdb.search.rowfilter import RowFilter
from tests.search.conftest import clustered
from tests.search.test_kinds import structure

N, DIM = 3000, 32


@cache
def built(kind: str, directory: str) -> VectorIndex:
    return VectorIndex.build(clustered(N), np.arange(N), directory, provenance={}, kind=kind, queries=100)


@pytest.fixture(scope="module")
def index_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VectorIndex]:
    folder = tmp_path_factory.mktemp("kinds")
    return lambda kind: built(kind, str(folder / kind))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["flat", "ivf-flat", "ivf-sq8"]),
    share=st.sampled_from([0.0, 0.0005, 0.005, 0.05, 0.5, 1.0]),
    k=st.sampled_from([1, 3, 10, 50, 4000]),
    m=st.sampled_from([1, 5, 40]),
    excluded=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_filter_and_exclusions_leave_k_or_all(
    index_of: Callable[[str], VectorIndex], kind: str, share: float, k: int, m: int, excluded: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    index, vectors, queries = index_of(kind), clustered(N), clustered(m, seed=seed + 1)
    keep = rng.random(N) < share
    own = rng.choice(N, (m, excluded), replace=True) if excluded else None
    scores, rows = index.search(queries, k, keep=keep, exclude_ids=own)
    products = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    products[:, ~keep] = -np.inf
    if own is not None:
        np.put_along_axis(products, own, -np.inf, axis=1)
    possible = np.isfinite(products).sum(axis=1).min()
    assert rows.shape == (m, min(k, possible))
    assert keep[rows].all()
    assert all(len(set(row)) == len(row) for row in rows)
    if rows.shape[1]:
        true = -np.sort(-products, axis=1)[:, : rows.shape[1]]
        assert (scores >= true[:, -1:] - 1e-6).mean() >= 0.9
        np.testing.assert_allclose(scores, np.take_along_axis(products, rows, axis=1), atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("correlated", ["random", "direction", "far"])
def test_recall_of_lists_under_filters_that_know_the_query(share: float, correlated: str) -> None:
    vectors, queries = clustered(20_000), clustered(100, seed=5)
    partition = Partition.of(structure("ivf-flat", vectors), vectors)
    assert partition is not None
    rng = np.random.default_rng(0)
    if correlated == "far":
        queries = queries[:1] + 0.05 * rng.standard_normal(queries.shape).astype(np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    direction = {"random": None, "direction": rng.standard_normal(32).astype(np.float32), "far": queries[0]}[correlated]
    value = rng.random(len(vectors)) if direction is None else vectors @ direction
    rows = np.flatnonzero(value <= np.quantile(value, share))
    found = search_lists(partition.group(rows), queries, 10)
    truth = exact_search(vectors, queries, 10, rows=rows)
    assert np.isin(found[1], rows).all()
    assert (found[0] >= truth[0][:, -1:] - 1e-6).mean() >= 0.99


def test_groups_hold_each_matching_row_once() -> None:
    vectors = clustered(2000)
    partition = Partition.of(structure("ivf-sq8", vectors), vectors)
    assert partition is not None
    rows = np.arange(0, 2000, 7)
    grouped = partition.group(rows)
    np.testing.assert_array_equal(np.sort(grouped.members), rows)
    assert (grouped.counts > 0).all()
    found, owner = grouped.rows_in(np.array([[0, 2], [1, 1]]))
    assert (found >= 0).sum(axis=1).tolist() == [grouped.counts[[0, 2]].sum(), 2 * grouped.counts[1]]
    assert set(owner[0][found[0] >= 0]) == {0, 2}
    np.testing.assert_array_equal(grouped.members[: grouped.counts[0]], found[0][: grouped.counts[0]])


def test_an_index_without_lists_has_no_partition() -> None:
    vectors = clustered(300)
    assert Partition.of(structure("flat", vectors), vectors) is None


def test_a_graph_is_asked_for_more_than_is_wanted(index_of: Callable[[str], VectorIndex]) -> None:
    index, vectors, queries = index_of("hnsw"), clustered(N), clustered(30, seed=5)
    kept = np.sort(np.random.default_rng(1).choice(N, 2700, replace=False))
    assert index.path(kept, 30, 1) == "over-fetch"
    scores, rows = index.search(queries, 1, keep=kept)
    assert np.isin(rows, kept).all()
    exact = exact_search(vectors, queries, 1, rows=kept)
    assert (rows == exact[1]).mean() >= 0.95
    np.testing.assert_array_equal(scores[rows == exact[1]], exact[0][rows == exact[1]])
    few = kept[:200]
    assert index.path(few, 30, 10) == "exact"
    np.testing.assert_array_equal(index.search(queries, 10, keep=few)[1], exact_search(vectors, queries, 10, rows=few)[1])


def test_a_prepared_filter_answers_as_the_rows_do(index_of: Callable[[str], VectorIndex]) -> None:
    queries = clustered(20, seed=6)
    kept = np.sort(np.random.default_rng(2).choice(N, 2000, replace=False))
    for kind in ("flat", "ivf-flat", "ivf-sq8", "hnsw"):
        index = index_of(kind).hiding(kept[:100])
        only = index.only(kept)
        assert only.count == 1900
        for asked in (queries, queries[:1]):
            scores, rows = index.search(asked, 10, keep=only)
            assert np.isin(rows, kept[100:]).all()
            exact = exact_search(clustered(N), asked, 10, rows=kept[100:])
            assert (scores >= exact[0][:, -1:] - 1e-6).mean() >= 0.98
        limits, _, found = index.within(queries, 0.5, keep=only)
        np.testing.assert_array_equal(found, index.within(queries, 0.5, keep=kept)[2])
        assert limits[-1] == len(found)
        np.testing.assert_array_equal(index.search(queries, 10, keep=only, exclude_ids=kept[100:])[1], np.empty((20, 0)))


def test_lists_are_grouped_once() -> None:
    vectors = clustered(2000)
    partition = Partition.of(structure("ivf-flat", vectors), vectors)
    assert partition is not None
    kept = RowFilter(2000, kept=np.arange(0, 2000, 2), reused=True)
    assert kept.grouped(partition) is kept.grouped(partition)
    other = Partition.of(structure("ivf-flat", vectors), vectors)
    assert other is not None
    assert kept.grouped(other) is not kept.grouped(partition)


def test_a_filter_of_another_index_is_refused(index_of: Callable[[str], VectorIndex]) -> None:
    with pytest.raises(QueryError, match="the filter is over 5 rows, the index has 3000; prepare it anew"):
        index_of("flat").search(clustered(1), 3, keep=RowFilter(5, kept=np.arange(3)))


def test_a_radius_search_holds_no_more_than_blocks_and_answers() -> None:
    vectors, queries = clustered(20_000), clustered(600, seed=2)
    tracemalloc.start()
    limits = within(vectors, queries, 0.995)[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert limits[-1] < 20_000
    assert peak < 4 * 600 * 20_000 / 3  # of all similarities


def test_over_fetching_falls_back_to_comparing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdb.search.retrieve.path_of", lambda *_: "over-fetch")
    vectors, kind, queries = clustered(2000), get_kind("ivf-flat"), clustered(20, seed=3)
    kept = np.sort(np.argsort(vectors @ queries[0])[:200])  # far from the first query
    parts = (kind, structure("ivf-flat", vectors), vectors, queries)
    scores, rows = retrieve(*parts, 10, SearchParameters(nprobe=1), allowed=RowFilter(2000, kept=kept))
    assert np.isin(rows, kept).all()
    np.testing.assert_array_equal(rows[0], exact_search(vectors, queries[:1], 10, rows=kept)[1][0])
    assert (np.diff(scores, axis=1) <= 0).all()


@pytest.mark.parametrize("rows", [None, np.arange(0, 2000, 3)])
@pytest.mark.parametrize("least", [-1.0, 0.3, 0.9, 1.0])
def test_all_within_a_radius(rows: np.ndarray | None, least: float) -> None:
    vectors, queries = clustered(2000), clustered(7, seed=2)
    limits, scores, found = within(vectors, queries, least, rows=rows)
    candidates = np.arange(2000) if rows is None else rows
    exact = inner_products(vectors, queries, np.broadcast_to(candidates, (7, len(candidates))))
    assert np.diff(limits).tolist() == (exact >= least).sum(axis=1).tolist()
    for i in range(7):
        mine = slice(limits[i], limits[i + 1])
        assert set(found[mine]) == set(candidates[exact[i] >= least])
        assert (np.diff(scores[mine]) <= 0).all()


def test_the_best_of_many_with_ties() -> None:
    scores = np.array([[0.1, 0.5, 0.5, 0.5, 0.9, 0.2, 0.2, 0.0, 0.0]], np.float32)
    rows = np.array([[8, 7, 3, 5, 0, 1, 2, 4, 6]])
    assert best(scores, rows, 2)[1].tolist() == [[0, 3]]
    assert best(scores[:, :1], rows[:, :1], 3)[1].tolist() == [[8, -1, -1]]


def test_a_long_list_of_one_query_is_shared_by_threads_without_changing_its_scores() -> None:
    vectors, query = clustered(30_000), clustered(1, seed=8)
    rows = np.arange(29_999)[None]
    several = inner_products(vectors, np.repeat(query, 3, axis=0), np.repeat(rows, 3, axis=0))
    np.testing.assert_array_equal(inner_products(vectors, query, rows), several[:1])


@pytest.mark.parametrize(
    ("matching", "queries", "lists", "graph", "path"),
    [
        (0, 1, 4000, False, "exact"),
        (30, 1, 4000, False, "exact"),
        (100, 1000, 4000, False, "exact"),
        (500_000, 1, 4000, False, "lists"),
        (500_000, 1000, 4000, False, "lists"),
        (500_000, 1, 0, False, "exact"),
        (500_000, 1, 0, True, "over-fetch"),
        (900, 1, 0, True, "exact"),
    ],
)
def test_the_planner_takes_the_cheaper_path(matching: int, queries: int, lists: int, graph: bool, path: str) -> None:
    assert choose_path(1_000_000, matching, 256, queries=queries, k=10, n_lists=lists, graph=graph) == path


def test_costs_grow_with_the_work() -> None:
    cost = CostModel()
    assert cost.exact(1000, 256, 1) < cost.exact(2000, 256, 1) < cost.exact(2000, 256, 100)
    assert cost.by_lists(10**6, 1000, 256, 1, 10) < cost.by_lists(10**6, 4000, 256, 1, 10)
    assert cost.by_lists(10**6, 1000, 256, 1, 10, grouped=True) < cost.by_lists(10**5, 1000, 256, 1, 10)


def test_a_plan_explains_itself() -> None:
    plan = Plan("exact", "gaia_xp", 2000, 12, "teff < 4500", "few match", "exact")
    assert str(plan) == "plan: exact search of 2,000 gaia_xp spectra, 12 of which match 'teff < 4500': few match\nexact"
    assert plan.to_dict()["n_matching"] == 12
