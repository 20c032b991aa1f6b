"""Moving an index to a GPU and back: with stand-ins for FAISS's GPU here, with the real one where there is one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from specdb.errors import DependencyError, InputError
from specdb.search.index import VectorIndex

MakeVectors = Callable[..., np.ndarray]


def has_gpu() -> bool:
    return hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0


@pytest.fixture(params=["flat", "ivf-flat", "ivf-sq8"])
def index(request: pytest.FixtureRequest, make_vectors: MakeVectors, tmp_path: Path) -> VectorIndex:
    ids = np.arange(3000)
    return VectorIndex.build(make_vectors(3000), ids, tmp_path, provenance={}, kind=request.param, queries=100)


class Fake:
    """A GPU index as the documentation has it: no filters, k and nprobe up to 2048, scores a little off."""

    def __init__(self, index: Any) -> None:
        self.index, self.searches = index, 0

    def search(self, queries: np.ndarray, k: int, params: Any = None) -> tuple[np.ndarray, np.ndarray]:
        assert k <= 2048
        assert params is None or (params.sel is None and params.nprobe <= 2048)
        self.searches += 1
        scores, rows = self.index.search(queries, k, params=params)
        return scores + 1e-6, rows


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    made: list[Fake] = []

    def move(resources: Any, number: int, index: Any) -> Fake:
        if "FastScan" in type(index).__name__ or "Refine" in type(index).__name__:
            raise RuntimeError("This index type is not implemented on GPU.")
        made.append(Fake(index))
        return made[-1]

    monkeypatch.setattr("faiss.get_num_gpus", lambda: 1, raising=False)
    monkeypatch.setattr("faiss.StandardGpuResources", object, raising=False)
    monkeypatch.setattr("faiss.index_cpu_to_gpu", move, raising=False)
    return made


def check(index: VectorIndex, moved: VectorIndex, queries: np.ndarray) -> None:
    for options in (
        {},
        {"keep": np.arange(0, 3000, 2)},
        {"exclude_ids": np.array([1, 2])},
        {"exclude_ids": np.ones((40, 1), int)},
    ):
        for k in (1, 10, 2500):
            for one, other in zip(index.search(queries, k, **options), moved.search(queries, k, **options), strict=True):
                np.testing.assert_array_equal(one, other)


def test_answers_are_the_same(index: VectorIndex, gpu: list[Fake], make_vectors: MakeVectors) -> None:
    queries = make_vectors(40, seed=2)
    moved = index.to("cuda")
    check(index, moved, queries)
    assert gpu[0].searches > 0
    check(index, moved.to("cpu"), queries)
    check(index.hiding(np.array([5])), index.hiding(np.array([5])).to("cuda:0"), queries)


def test_kinds_without_gpu_code_stay(gpu: list[Fake], make_vectors: MakeVectors, tmp_path: Path) -> None:
    index = VectorIndex.build(make_vectors(3000), np.arange(3000), tmp_path, provenance={}, kind="ivf-rabitq", queries=100)
    check(index, index.to("cuda"), make_vectors(40, seed=2))
    assert gpu == []


def test_devices_that_are_not_there(index: VectorIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faiss.get_num_gpus", lambda: 0, raising=False)
    with pytest.raises(DependencyError, match="FAISS sees 0 GPUs here, so there is no cuda:1: put `faiss-gpu`"):
        index.to("cuda:1")
    with pytest.raises(InputError, match="'tpu' is no device; use cpu, cuda or cuda:1"):
        index.to("tpu")


@pytest.mark.gpu
@pytest.mark.skipif(not has_gpu(), reason="needs FAISS with a GPU")
def test_answers_are_the_same_on_a_real_gpu(index: VectorIndex, make_vectors: MakeVectors) -> None:
    check(index, index.to("cuda"), make_vectors(40, seed=2))


@pytest.mark.gpu
@pytest.mark.skipif(not (has_gpu() and hasattr(faiss, "GpuIndexCagra")), reason="needs FAISS with cuVS and a GPU")
def test_cagra(make_vectors: MakeVectors, tmp_path: Path) -> None:
    index = VectorIndex.build(make_vectors(20_000), np.arange(20_000), tmp_path, provenance={}, kind="cagra", recall=0.9)
    assert index.card.kind == "cagra"
    assert VectorIndex.open(tmp_path).search(make_vectors(3, seed=2), 10)[1].shape == (3, 10)
