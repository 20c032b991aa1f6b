from __future__ import annotations

from collections.abc import Callable

import faiss
import numpy as np
import pytest

from specdb.errors import InputError, RecallError
from specdb.search.build import BuildOptions, build_index
from specdb.search.exact import exact_search
from specdb.search.kinds import SearchParameters, choose_kind, get_kind, kind_names
from specdb.search.retrieve import retrieve

MakeVectors = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def vectors(make_vectors: MakeVectors) -> np.ndarray:
    return make_vectors(6000)


def test_the_kinds() -> None:
    assert kind_names() == ["flat", "ivf-flat", "ivf-sq8"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "hnsw"}, "no kind of index is called 'hnsw'; known kinds: auto, flat, ivf-flat, ivf-sq8"),
        ({"recall": 0.0}, "recall is 0.0; ask for a share above 0 and at most 1"),
        ({"recall": 99}, "recall is 99; ask for a share above 0 and at most 1"),
        ({"on_shortfall": "ignore"}, "on_shortfall is 'ignore'; it must be 'step-up' or 'fail'"),
        ({"queries": 0}, "queries is 0; a recall cannot be measured without any"),
    ],
)
def test_options_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildOptions(**options)


@pytest.mark.parametrize(
    ("n", "memory", "name", "why"),
    [
        (50_000, 2**30, "flat", "exact scan of 50,000 vectors"),
        (50_001, 2**30, "ivf-sq8", "0.013 GiB, within the 1 GiB allowed"),
        (10_000_000, 2**30, "ivf-sq8", "paged from disk as needed, being more than the 1 GiB allowed"),
    ],
)
def test_auto_says_why(n: int, memory: int, name: str, why: str) -> None:
    kind, reason = choose_kind(n, 256, memory)
    assert kind.name == name
    assert why in reason


def test_too_few_vectors_to_train_on(vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="needs at least 256 vectors to train on, got 100: use kind 'flat'"):
        build_index(vectors[:100], BuildOptions(kind="ivf-flat"))


@pytest.mark.parametrize("name", ["flat", "ivf-flat", "ivf-sq8"])
def test_estimate_is_close_to_the_file(vectors: np.ndarray, name: str) -> None:
    kind = get_kind(name)
    size = len(faiss.serialize_index(kind.build(vectors, 0)))
    assert kind.estimate_bytes(*vectors.shape) == pytest.approx(size, rel=0.02)


@pytest.mark.parametrize("name", ["ivf-flat", "ivf-sq8"])
def test_same_seed_same_index_for_any_number_of_threads(vectors: np.ndarray, name: str) -> None:
    threads = faiss.omp_get_max_threads()
    serialised = []
    try:
        for count in (1, 2):
            faiss.omp_set_num_threads(count)
            serialised.append(faiss.serialize_index(get_kind(name).build(vectors, 7)))
    finally:
        faiss.omp_set_num_threads(threads)
    np.testing.assert_array_equal(*serialised)
    assert not np.array_equal(serialised[0], faiss.serialize_index(get_kind(name).build(vectors, 8)))


@pytest.mark.parametrize("name", ["ivf-flat", "ivf-sq8"])
def test_all_lists_visited_is_the_exact_answer(vectors: np.ndarray, make_vectors: MakeVectors, name: str) -> None:
    kind, queries = get_kind(name), make_vectors(50, seed=3)
    index = kind.build(vectors, 0)
    scores, rows = retrieve(kind, index, vectors, queries, 10, SearchParameters(nprobe=10**6, k_factor=8))
    expected = exact_search(vectors, queries, 10)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_array_equal(scores, expected[0])


@pytest.mark.parametrize("name", ["flat", "ivf-flat", "ivf-sq8"])
@pytest.mark.parametrize("k", [1, 10, 500, 6000, 7000])
def test_never_fewer_than_k_while_there_are_rows(vectors: np.ndarray, make_vectors: MakeVectors, name: str, k: int) -> None:
    kind, excluded = get_kind(name), np.arange(0, 6000, 3)
    index = kind.build(vectors, 0)
    for without in (None, excluded):
        parameters = SearchParameters(nprobe=1, k_factor=2)
        scores, rows = retrieve(kind, index, vectors, make_vectors(3, seed=4), k, parameters, excluded=without)
        assert rows.shape == (3, min(k, 6000 if without is None else 4000))
        assert (rows >= 0).all()
        assert (np.diff(scores, axis=1) <= 0).all()
        assert all(len(set(row)) == len(row) for row in rows)
        assert without is None or not np.isin(rows, without).any()


@pytest.mark.parametrize("name", ["ivf-flat", "ivf-sq8"])
def test_tuning_is_no_more_expensive_than_needed(vectors: np.ndarray, name: str) -> None:
    built = {r: build_index(vectors, BuildOptions(kind=name, recall=r, queries=500)) for r in (0.7, 0.99)}
    for asked, result in built.items():
        assert result.kind.name == name
        assert result.certificate.recall[10].value >= asked
        assert result.certificate.parameters == result.parameters
    assert built[0.7].parameters.nprobe < built[0.99].parameters.nprobe


@pytest.fixture(scope="module")
def isotropic() -> np.ndarray:
    """Vectors without any structure, for which visiting half of the lists finds far from everything."""
    x = np.random.default_rng(0).standard_normal((3000, 128))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_shortfall_steps_up_and_says_so(isotropic: np.ndarray) -> None:
    built = build_index(isotropic, BuildOptions(kind="ivf-sq8", recall=0.999, queries=300))
    assert built.kind.name == "flat"
    assert built.certificate.recall[10].value == 1.0
    assert built.why.startswith("flat, since ivf-flat reaches recall@10 0.")
    assert "below the 0.999 asked" in built.why


def test_shortfall_fails_where_asked_to(isotropic: np.ndarray) -> None:
    with pytest.raises(
        RecallError, match=r"ivf-flat reaches recall@10 0\.\d+ at its costliest setting, below the 0.999 asked"
    ):
        build_index(isotropic, BuildOptions(kind="ivf-flat", recall=0.999, on_shortfall="fail", queries=300))
