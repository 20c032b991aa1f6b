from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdb.search import checks
from specdb.search.exact import drop, exact_search, inner_products, rank


def unit(n: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 80),
    m=st.integers(0, 30),
    dim=st.integers(1, 40),
    k=st.integers(1, 100),
    share=st.sampled_from([None, 0.0, 0.2, 0.9]),
    seed=st.integers(0, 2**32 - 1),
)
def test_agrees_with_sorting_all_products(n: int, m: int, dim: int, k: int, share: float | None, seed: int) -> None:
    vectors, queries = unit(n, dim, seed), unit(m, dim, seed + 1)
    rng = np.random.default_rng(seed)
    rows = None if share is None else np.flatnonzero(rng.random(n) < share)
    scores, found = exact_search(vectors, queries, k, rows=rows)

    candidates = np.arange(n) if rows is None else rows
    products = queries.astype(np.float64) @ vectors[candidates].T.astype(np.float64)
    expected = -np.sort(-products, axis=1)[:, :k]
    assert scores.shape == found.shape == (m, min(k, len(candidates)))
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert np.isin(found, candidates).all()
    assert all(len(set(row)) == len(row) for row in found)


def test_blocks_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = unit(1000, 16, 0), unit(25, 16, 1)
    whole = exact_search(vectors, queries, 17)
    monkeypatch.setattr("specdb.search.exact.blocks", lambda n, dim: checks.blocks(n, dim, block_bytes=4 * dim * 37))
    for rows in (None, np.arange(1000)):
        scores, found = exact_search(vectors, queries, 17, rows=rows)
        np.testing.assert_array_equal(scores, whole[0])
        np.testing.assert_array_equal(found, whole[1])


def test_products_do_not_depend_on_the_batch() -> None:
    vectors, queries = unit(500, 67, 0), unit(64, 67, 1)
    rows = np.random.default_rng(2).integers(0, 500, (64, 30))
    whole = inner_products(vectors, queries, rows)
    single = np.vstack([inner_products(vectors, queries[i : i + 1], rows[i : i + 1, :7]) for i in range(64)])
    np.testing.assert_array_equal(whole[:, :7], single)


def test_no_row_scores_minus_infinity() -> None:
    assert inner_products(unit(3, 4, 0), unit(1, 4, 1), np.array([[1, -1]]))[0, 1] == -np.inf


def test_equal_scores_come_in_row_order() -> None:
    scores, rows = rank(np.array([[0.5, 0.9, 0.5, 0.5]], np.float32), np.array([[7, 1, 3, 5]]), 3)
    np.testing.assert_array_equal(rows, [[1, 3, 5]])
    np.testing.assert_array_equal(scores, np.array([[0.9, 0.5, 0.5]], np.float32))


def test_dropping_keeps_the_order_of_the_rest() -> None:
    rows = np.array([[4, 3, 2, 1], [4, 3, 2, 1]])
    _, kept = drop(rows.astype(np.float32), rows, np.array([[3, 3], [-2, 4]]), 3)
    np.testing.assert_array_equal(kept, [[4, 2, 1], [3, 2, 1]])
