"""Filters by row: every kind finds only what is kept, and never fewer than k while so many are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from specdb.errors import QueryError
from specdb.search.exact import exact_search
from specdb.search.index import VectorIndex
from specdb.search.kinds import kind_names

MakeVectors = Callable[..., np.ndarray]
N = 6000


@pytest.fixture(scope="module")
def vectors(make_vectors: MakeVectors) -> np.ndarray:
    return make_vectors(N)


@pytest.fixture(scope="module", params=[name for name in kind_names() if name != "cagra"])
def index(request: pytest.FixtureRequest, vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    folder = tmp_path_factory.mktemp(request.param)
    return VectorIndex.build(vectors, np.arange(N) * 3, folder, provenance={}, kind=request.param, queries=100)


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.4, 0.95, 1.0])
@pytest.mark.parametrize("k", [1, 20, N])
def test_only_kept_rows_and_never_too_few(
    index: VectorIndex, vectors: np.ndarray, make_vectors: MakeVectors, share: float, k: int
) -> None:
    mask = np.random.default_rng(3).random(N) < share
    queries = make_vectors(5, seed=8)
    scores, ids = index.search(queries, k, keep=mask)
    assert ids.shape == (5, min(k, mask.sum()))
    assert mask[index.rows_of(ids)].all()
    assert (np.diff(scores, axis=1) <= 0).all()
    again = index.search(queries, k, keep=np.flatnonzero(mask))
    np.testing.assert_array_equal(again[1], ids)
    if mask.sum() <= 2048:
        np.testing.assert_array_equal(exact_search(vectors, queries, k, rows=np.flatnonzero(mask))[1] * 3, ids)


def test_together_with_excluded_ids(index: VectorIndex, make_vectors: MakeVectors) -> None:
    mask = np.random.default_rng(4).random(N) < 0.5
    queries = make_vectors(3, seed=9)
    plain = index.search(queries, 9, keep=mask)[1]
    best = plain[:, :2]
    np.testing.assert_array_equal(index.search(queries, 7, keep=mask, exclude_ids=best)[1], plain[:, 2:])
    few = np.sort(index.rows_of(plain[0]))
    assert index.search(queries[:1], 9, keep=few, exclude_ids=best[:1])[1].shape == (1, 7)
    assert index.search(queries[:1], 9, keep=few, exclude_ids=best[0])[1].shape == (1, 7)
    lost = np.array([[3, -7], [3, 9], [12, 9]])  # of which the filter lets few through anyway
    assert index.search(queries, N, keep=few, exclude_ids=lost)[1].shape[1] >= 7


@pytest.mark.parametrize(
    "keep", [np.ones(5, bool), np.array([3, 1]), np.array([1, 1]), np.array([N]), np.array([-1]), np.array([0.5])]
)
def test_filters_that_make_no_sense(index: VectorIndex, make_vectors: MakeVectors, keep: np.ndarray) -> None:
    with pytest.raises(QueryError, match=r"give \(6000,\) booleans, or increasing row numbers below 6000"):
        index.search(make_vectors(1), 3, keep=keep)
