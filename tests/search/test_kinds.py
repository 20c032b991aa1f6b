from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from specdb.errors import DependencyError, InputError, RecallError
from specdb.search.build import BuildOptions, build_index
from specdb.search.exact import exact_search
from specdb.search.kinds import SearchParameters, Structure, choose_kind, get_kind, kind_names, plan_index
from specdb.search.retrieve import retrieve
from specdb.search.rowfilter import RowFilter

MakeVectors = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def vectors(make_vectors: MakeVectors) -> np.ndarray:
    return make_vectors(6000)


def test_the_kinds() -> None:
    assert kind_names() == ["cagra", "flat", "hnsw", "ivf-flat", "ivf-pq", "ivf-rabitq", "ivf-sq8"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "annoy"}, "no kind of index is called 'annoy'; known kinds: auto, cagra, flat, hnsw, ivf-flat, ivf-pq"),
        ({"memory_bytes": 0}, "memory_bytes is 0; an index needs some memory"),
        ({"recall": 0.0}, "recall is 0.0; ask for a share above 0 and at most 1"),
        ({"recall": 99}, "recall is 99; ask for a share above 0 and at most 1"),
        ({"on_shortfall": "ignore"}, "on_shortfall is 'ignore'; it must be 'step-up' or 'fail'"),
        ({"queries": 0}, "queries is 0; a recall cannot be measured without any"),
    ],
)
def test_options_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        BuildOptions(**options)


KINDS = [name for name in kind_names() if name != "cagra"]
TRAINED = [name for name in KINDS if name.startswith("ivf-")]


def structure(name: str, vectors: np.ndarray, seed: int = 0) -> Structure:
    """Build a kind in memory."""
    kind = get_kind(name)
    segment = kind.fill(kind.train(vectors, seed, 2**30), vectors, range(len(vectors)))
    return kind.assemble(() if segment is None else (segment,), len(vectors), vectors, vectors.astype(np.float16))


@pytest.mark.parametrize(
    ("n", "memory", "recall", "name", "why"),
    [
        (50_000, 2**30, 0.99, "flat", "exact scan of 50,000 vectors"),
        (60_000, 2**30, 1.0, "flat", "a recall of 1 is certain only if every vector is compared"),
        (50_001, 2**30, 0.99, "ivf-sq8", "makes 13.5 MiB, within the 1 GiB allowed"),
        (
            10_000_000,
            2**30,
            0.99,
            "ivf-rabitq",
            "would make 2.47 GiB, more than the 1 GiB allowed; one bit per value",
        ),
        (10_000_000, 2**20, 0.99, "ivf-rabitq", "paged from disk as needed, being more than that"),
    ],
)
def test_auto_says_why(n: int, memory: int, recall: float, name: str, why: str) -> None:
    kind, reason = choose_kind(n, 256, memory, recall)
    assert kind.name == name
    assert why in reason


def test_the_plan_states_the_cost_before_building() -> None:
    plan = plan_index(10_000_000, 64, "ivf-rabitq", 2**31)
    assert plan.why == "ivf-rabitq, as asked"
    assert plan.structure_bytes == pytest.approx(10_000_000 * 24, rel=0.1)
    assert plan.disk_bytes == pytest.approx(10_000_000 * (24 + 64 * 6 + 8), rel=0.05)
    assert "index beside the vectors, 3.88 GiB on disk in all, building takes up to 1.29 G" in str(plan)
    with pytest.raises(InputError, match="needs at least 256 vectors to train on, got 10"):
        plan_index(10, 64, "ivf-pq")


def test_values_are_coded_in_pairs(vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="codes values in pairs, the dimension is 31: use kind 'ivf-sq8'"):
        build_index(np.ascontiguousarray(vectors[:, :31]), BuildOptions(kind="ivf-pq"))


def test_cagra_needs_a_gpu(vectors: np.ndarray) -> None:
    if hasattr(faiss, "GpuIndexCagra"):
        pytest.skip("this FAISS has it")
    with pytest.raises(DependencyError, match="put `faiss-gpu-cuvs` in the place of `faiss-cpu`, or use kind 'auto'"):
        build_index(vectors, BuildOptions(kind="cagra"))


def test_too_few_vectors_to_train_on(vectors: np.ndarray) -> None:
    with pytest.raises(InputError, match="needs at least 256 vectors to train on, got 100: use kind 'flat'"):
        build_index(vectors[:100], BuildOptions(kind="ivf-flat"))


@pytest.mark.parametrize("name", [name for name in KINDS if name != "flat"])
def test_estimate_is_close_to_the_file(vectors: np.ndarray, name: str, tmp_path: Path) -> None:
    faiss.write_index(structure(name, vectors).segments[0], str(tmp_path / "index"), faiss.IO_FLAG_SKIP_STORAGE)
    assert get_kind(name).estimate_bytes(*vectors.shape) == pytest.approx((tmp_path / "index").stat().st_size, rel=0.05)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "flat"])
def test_same_seed_same_index_for_any_number_of_threads(vectors: np.ndarray, name: str) -> None:
    threads = faiss.omp_get_max_threads()
    serialised = []
    try:
        for count in (1, 2):
            faiss.omp_set_num_threads(count)
            serialised.append(faiss.serialize_index(structure(name, vectors[:2000], 7).segments[0]))
    finally:
        faiss.omp_set_num_threads(threads)
    np.testing.assert_array_equal(*serialised)
    other = faiss.serialize_index(structure(name, vectors[:2000], 8).segments[0])
    assert np.array_equal(serialised[0], other) == (name == "hnsw")  # whose levels FAISS draws always in the same way


@pytest.mark.parametrize("name", TRAINED)
def test_all_lists_visited_is_the_exact_answer(vectors: np.ndarray, make_vectors: MakeVectors, name: str) -> None:
    queries = make_vectors(50, seed=3)
    parameters = SearchParameters(nprobe=10**6, k_factor=64)
    scores, rows = retrieve(get_kind(name), structure(name, vectors), vectors, queries, 10, parameters)
    expected = exact_search(vectors, queries, 10)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_array_equal(scores, expected[0])


@pytest.mark.parametrize("name", TRAINED)
def test_segments_together_answer_as_one(vectors: np.ndarray, make_vectors: MakeVectors, name: str) -> None:
    kind, queries, parameters = get_kind(name), make_vectors(50, seed=3), SearchParameters(nprobe=8, k_factor=16)
    half = vectors.astype(np.float16)
    trained = kind.train(vectors, 0, 2**30)
    cuts = [range(0, 3000), range(3000, 4500), range(4500, 5500)]
    apart = [kind.fill(trained, vectors, rows) for rows in cuts]
    whole = kind.assemble((kind.fill(trained, vectors, range(6000)),), 6000, vectors, half)
    expected = retrieve(kind, whole, vectors, queries, 10, parameters)[1]
    # The last 500 rows belong to no segment: they are compared one by one.
    several = retrieve(kind, kind.assemble(tuple(apart), 5500, vectors, half), vectors, queries, 10, parameters)[1]
    merged = kind.merge(kind.merge(apart[0], apart[1]), apart[2])
    together = retrieve(kind, kind.assemble((merged,), 5500, vectors, half), vectors, queries, 10, parameters)[1]
    exact = exact_search(vectors, queries, 10)[1]

    def recall(rows: np.ndarray) -> float:
        return float((exact[:, :, None] == rows[:, None, :]).any(axis=2).mean())

    assert min(recall(several), recall(together)) >= recall(expected) - 1e-9


def test_a_graph_is_one_piece(vectors: np.ndarray) -> None:
    kind = get_kind("hnsw")
    with pytest.raises(InputError, match="made of all rows from the first on, not from row 5"):
        kind.fill(kind.train(vectors, 0, 2**30), vectors, range(5, 10))
    assert kind.merge(None, None) is None


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("k", [1, 10, 500, 6000, 7000])
def test_never_fewer_than_k_while_there_are_rows(vectors: np.ndarray, make_vectors: MakeVectors, name: str, k: int) -> None:
    built, excluded = structure(name, vectors), np.arange(0, 6000, 3)
    for without in (None, excluded):
        parameters = SearchParameters(nprobe=1, k_factor=2)
        scores, rows = retrieve(
            get_kind(name), built, vectors, make_vectors(3, seed=4), k, parameters, allowed=RowFilter(6000, without)
        )
        assert rows.shape == (3, min(k, 6000 if without is None else 4000))
        assert (rows >= 0).all()
        assert (np.diff(scores, axis=1) <= 0).all()
        assert all(len(set(row)) == len(row) for row in rows)
        assert without is None or not np.isin(rows, without).any()


@pytest.mark.parametrize("name", TRAINED)
def test_tuning_is_no_more_expensive_than_needed(vectors: np.ndarray, name: str) -> None:
    settings = get_kind(name).settings(structure(name, vectors))
    built = {r: build_index(vectors, BuildOptions(kind=name, recall=r, queries=500)) for r in (0.7, 0.99)}
    for asked, result in built.items():
        assert result.kind.name == name
        assert result.certificate.recall[10].value >= asked
        assert result.certificate.parameters == result.parameters
    assert settings.index(built[0.7].parameters) < settings.index(built[0.99].parameters)


def test_queries_of_another_modality_are_certified_apart(vectors: np.ndarray) -> None:
    """They lie between the clusters, so that more lists have to be visited for them."""
    rng = np.random.default_rng(1)
    outside = vectors[rng.integers(0, 6000, 800)] + 0.2 * rng.standard_normal((800, 32)).astype(np.float32)
    outside /= np.linalg.norm(outside, axis=1, keepdims=True)
    built = build_index(vectors, BuildOptions(kind="ivf-sq8", recall=0.95, queries=400), cross={"gaia_xp": outside})
    cross = built.certified.cross["gaia_xp"]
    assert cross.drawn == "gaia_xp spectra"
    assert cross.queries == 400
    assert cross.recall[10].value >= 0.95
    assert cross.parameters.nprobe > built.parameters.nprobe
    with pytest.raises(RecallError, match=r"; recall@10 0\.\d+ for gaia_xp queries at its costliest setting"):
        isotropic = rng.standard_normal((3000, 32)).astype(np.float32)
        isotropic /= np.linalg.norm(isotropic, axis=1, keepdims=True)
        build_index(isotropic, BuildOptions(kind="ivf-flat", recall=0.9999, on_shortfall="fail"), cross={"gaia_xp": outside})


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
