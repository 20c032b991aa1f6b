from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from specdb.search.certificate import RecallCertificate, certify, draw_rows, exact_truth, wilson_recall
from specdb.search.exact import exact_search
from specdb.search.kinds import SearchParameters

MakeVectors = Callable[..., np.ndarray]
PARAMETERS = SearchParameters(nprobe=3, k_factor=2)


@pytest.fixture(scope="module")
def vectors(make_vectors: MakeVectors) -> np.ndarray:
    return make_vectors(3000)


def test_exact_search_earns_full_marks(vectors: np.ndarray) -> None:
    truth = exact_truth(vectors, draw_rows(len(vectors), 200, 0))
    certificate = certify(lambda q, k: exact_search(vectors, q, k)[1], vectors, truth, PARAMETERS)
    assert [r.value for r in certificate.recall.values()] == [1.0, 1.0, 1.0]
    assert certificate.recall[10].low < 1.0  # 200 queries cannot prove perfection
    assert (certificate.queries, certificate.rows, certificate.parameters) == (200, 3000, PARAMETERS)
    assert "recall@10 1.0000 [0.98" in str(certificate)
    assert "each without itself" in certificate.drawn


def test_half_an_index_gets_half_the_recall(vectors: np.ndarray) -> None:
    half = np.flatnonzero(np.random.default_rng(5).random(len(vectors)) < 0.5)
    truth = exact_truth(vectors, draw_rows(len(vectors), 500, 0))
    certificate = certify(lambda q, k: exact_search(vectors, q, k, rows=half)[1], vectors, truth, PARAMETERS)
    for k in (10, 100):
        assert certificate.recall[k].value == pytest.approx(half.size / len(vectors), abs=0.03)


def test_finding_oneself_is_no_hit(vectors: np.ndarray) -> None:
    rows = draw_rows(len(vectors), 100, 0)
    truth = exact_truth(vectors, rows)
    certificate = certify(lambda q, k: np.repeat(rows[:, None], k, axis=1), vectors, truth, PARAMETERS)
    assert all(recall.value == 0.0 for recall in certificate.recall.values())


def test_one_row_named_often_is_one_hit(vectors: np.ndarray) -> None:
    truth = exact_truth(vectors, draw_rows(len(vectors), 100, 0))

    def search(queries: np.ndarray, k: int) -> np.ndarray:
        return np.repeat(exact_search(vectors, queries, 2)[1][:, 1:], k, axis=1)

    certificate = certify(search, vectors, truth, PARAMETERS)
    assert certificate.recall[1].value == 1.0
    assert certificate.recall[10].value == pytest.approx(0.1)


def test_rows_out_of_step_are_noticed(vectors: np.ndarray) -> None:
    """Batches whose row numbers start again at zero: right scores, wrong rows (NVIDIA/cuvs#1021)."""
    truth = exact_truth(vectors, draw_rows(len(vectors), 100, 0))
    certificate = certify(lambda q, k: exact_search(vectors, q, k)[1] % 1000, vectors, truth, PARAMETERS)
    assert certificate.recall[10].value < 0.5


def test_a_filter_out_of_step_is_noticed(vectors: np.ndarray) -> None:
    allowed = np.random.default_rng(1).random(len(vectors)) < 0.3
    truth = exact_truth(vectors, draw_rows(len(vectors), 200, 0), allowed=allowed)

    def search_with(mask: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
        return lambda q, k: exact_search(vectors, q, k, rows=np.flatnonzero(mask))[1]

    right = certify(search_with(allowed), vectors, truth, PARAMETERS)
    ignored = certify(search_with(np.ones_like(allowed)), vectors, truth, PARAMETERS)
    shifted = certify(search_with(np.roll(allowed, 1)), vectors, truth, PARAMETERS)
    assert right.recall[10].value == 1.0
    assert ignored.recall[10].value < 0.6
    assert shifted.recall[10].value < 0.6


def test_duplicates_are_not_misses(make_vectors: MakeVectors) -> None:
    vectors = np.repeat(make_vectors(100), 30, axis=0)
    truth = exact_truth(vectors, draw_rows(len(vectors), 200, 0))

    def last_first(queries: np.ndarray, k: int) -> np.ndarray:
        return len(vectors) - 1 - exact_search(np.ascontiguousarray(vectors[::-1]), queries, k)[1]

    certificate = certify(last_first, vectors, truth, PARAMETERS)
    assert certificate.recall[10].value == 1.0


def test_an_answer_too_short_loses_the_rest(vectors: np.ndarray) -> None:
    truth = exact_truth(vectors, draw_rows(len(vectors), 100, 0))
    certificate = certify(lambda q, k: exact_search(vectors, q, min(k, 6))[1], vectors, truth, PARAMETERS)
    assert certificate.recall[10].value == pytest.approx(0.5)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_rows(make_vectors: MakeVectors, n: int) -> None:
    vectors = make_vectors(n)
    truth = exact_truth(vectors, draw_rows(n, 1000, 0))
    certificate = certify(lambda q, k: exact_search(vectors, q, k)[1], vectors, truth, PARAMETERS)
    assert certificate.recall[10].value == 1.0
    assert certificate.queries == n


def test_wilson_matches_the_textbook_where_queries_are_independent() -> None:
    # Newcombe 1998, Stat. Med. 17, 857, table I: 81 of 263 gives 0.2553 to 0.3662.
    recall = wilson_recall(np.repeat([1.0, 0.0], [81, 182]), 1)
    assert (recall.low, recall.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_interval_covers_the_true_recall() -> None:
    """Queries of unequal difficulty: counting every hit as independent would cover far less than 95 %."""
    rng = np.random.default_rng(0)
    difficulty = rng.beta(9, 1, (1000, 300))
    shares = rng.binomial(10, difficulty) / 10
    intervals = [wilson_recall(s, 10) for s in shares]
    assert np.mean([r.low <= 0.9 <= r.high for r in intervals]) == pytest.approx(0.95, abs=0.02)


def test_survives_json(vectors: np.ndarray) -> None:
    truth = exact_truth(vectors, draw_rows(len(vectors), 50, 0))
    certificate = certify(lambda q, k: exact_search(vectors, q, k)[1], vectors, truth, PARAMETERS)
    again = RecallCertificate.from_dict(json.loads(json.dumps(certificate.to_dict())))
    assert again == certificate
    assert again.microseconds_per_query == certificate.microseconds_per_query
