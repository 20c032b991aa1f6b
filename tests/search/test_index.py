"""Building an index, asking it, opening it again, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from specdb.errors import DatabaseError, InputError, ProvenanceError, QueryError, VersionError
from specdb.search.index import VectorIndex
from tests.search.conftest import FIRST_ID, KINDS, PROVENANCE, MakeVectors, build, same


@pytest.fixture(scope="module")
def flat(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> VectorIndex:
    return build(vectors, tmp_path_factory.mktemp("flat"))


@pytest.mark.parametrize("kind", KINDS)
def test_answers_survive_saving_and_batches_do_not_matter(
    vectors: np.ndarray, queries: np.ndarray, tmp_path: Path, kind: str
) -> None:
    built = build(vectors, tmp_path, kind=kind)
    answer = built.search(queries, 10)
    opened = VectorIndex.open(tmp_path, {**PROVENANCE, "dimension": 32})
    assert same(opened.search(queries, 10), answer)
    singles = [opened.search(query[None], 10) for query in queries]
    assert same((np.vstack([s for s, _ in singles]), np.vstack([i for _, i in singles])), answer)
    assert answer[0].dtype == np.float32
    assert answer[1].dtype == np.int64
    assert opened.card == built.card
    assert opened.certificate.recall[10].value >= 0.99
    opened.verify()


def test_flat_agrees_with_numpy(vectors: np.ndarray, queries: np.ndarray, flat: VectorIndex) -> None:
    scores, ids = flat.search(queries, 10)
    products = queries @ vectors.T
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :10], atol=1e-6)
    np.testing.assert_array_equal(ids, flat.ids[np.argsort(-products, axis=1, kind="stable")[:, :10]])


def test_vectors_by_id(vectors: np.ndarray, flat: VectorIndex) -> None:
    rows = [5, 1999, 0, 5]
    np.testing.assert_array_equal(flat.vectors(flat.ids[rows]), vectors[rows])
    with pytest.raises(QueryError, match=r"2 of 3 ids are not in the index, first 4, 9223372036854775807"):
        flat.vectors(np.array([4, FIRST_ID, 2**63 - 1]))


def test_the_card_says_everything(flat: VectorIndex) -> None:
    card = json.loads((flat._directory / "index.json").read_text())
    assert card["kind"] == "flat"
    assert card["why"].startswith("flat, since an exact scan of 2,000 vectors")
    assert (card["metric"], card["dimension"], card["count"]) == ("inner_product", 32, 2000)
    assert card["provenance"] == PROVENANCE
    assert card["certificate"]["recall"]["10"]["value"] == 1.0
    assert card["files"].keys() == {"vectors", "ids", "truth"}
    assert card["segments"] == []  # an exact scan needs nothing but the vectors
    assert card["cross"] == {}
    assert [len(digest) for digest in card["files"]["vectors"]["sha256"]] == [64]
    assert len(flat) == 2000
    assert "flat, 2000 x 32" in repr(flat)


@pytest.mark.parametrize("k", [1, 1999, 2000, 5000])
@pytest.mark.parametrize("kind", KINDS)
def test_k_up_to_all_vectors(vectors: np.ndarray, queries: np.ndarray, tmp_path: Path, kind: str, k: int) -> None:
    scores, ids = build(vectors, tmp_path, kind=kind, queries=50).search(queries[:3], k)
    assert scores.shape == ids.shape == (3, min(k, 2000))
    assert (ids >= FIRST_ID).all()
    assert all(len(np.unique(row)) == len(row) for row in ids)


def test_no_queries(flat: VectorIndex) -> None:
    scores, ids = flat.search(np.empty((0, 32), np.float32), 5)
    assert scores.shape == ids.shape == (0, 5)


def test_one_vector(vectors: np.ndarray, tmp_path: Path) -> None:
    index = build(vectors[:1], tmp_path)
    assert index.search(vectors[:1], 10)[1].tolist() == [[FIRST_ID]]
    assert index.search(vectors[:1], 10, exclude_ids=np.array([FIRST_ID]))[1].shape == (1, 0)


def test_excluding_ids(vectors: np.ndarray, flat: VectorIndex) -> None:
    queries = vectors[:4]
    plain = flat.search(queries, 12)
    own = flat.ids[:4, None]
    np.testing.assert_array_equal(plain[1][:, :1], own)
    assert same(flat.search(queries, 11, exclude_ids=own), (plain[0][:, 1:], plain[1][:, 1:]))
    padded = np.hstack([own, own, plain[1][:, 1:2], np.full((4, 1), 3)])
    assert same(flat.search(queries, 10, exclude_ids=padded), (plain[0][:, 2:], plain[1][:, 2:]))

    common = np.append(plain[1][0, :3], [3, 3])  # 3 is not in the index
    scores, ids = flat.search(queries[:1], 9, exclude_ids=common)
    assert same((scores, ids), (plain[0][:1, 3:], plain[1][:1, 3:]))
    assert flat.search(queries, 2000, exclude_ids=common)[1].shape == (4, 1997)
    assert flat.search(queries, 2000, exclude_ids=padded)[1].shape == (4, 1998)
    assert same(flat.search(queries, 12, exclude_ids=np.empty(0, np.int64)), plain)


def test_exclusions_that_cannot_be(queries: np.ndarray, flat: VectorIndex) -> None:
    with pytest.raises(
        QueryError, match=r"exclude_ids are int64 of shape \(2, 1\); give integers, \(e,\) for all queries or \(40, e\)"
    ):
        flat.search(queries, 3, exclude_ids=np.array([[1], [2]]))
    with pytest.raises(QueryError, match="exclude_ids are float64"):
        flat.search(queries, 3, exclude_ids=np.array([1.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_duplicates_are_all_found(make_vectors: MakeVectors, tmp_path: Path, kind: str) -> None:
    vectors = np.repeat(make_vectors(100), 20, axis=0)
    scores, ids = build(vectors, tmp_path, kind=kind).search(vectors[::20], 20)
    np.testing.assert_allclose(scores, 1.0, atol=1e-6)
    assert np.unique(ids).size == 2000


def spoiled(vectors: np.ndarray, value: float) -> np.ndarray:
    vectors = vectors.copy()
    vectors[[3, 8]] *= value
    return vectors


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1.1])
def test_vectors_must_be_unit_vectors(vectors: np.ndarray, flat: VectorIndex, tmp_path: Path, value: float) -> None:
    with pytest.raises(InputError, match="2 of 2000 vectors are not finite unit vectors"):
        build(spoiled(vectors, value), tmp_path)
    with pytest.raises(QueryError, match="2 of 2000 queries are not finite unit vectors"):
        flat.search(spoiled(vectors, value), 3)
    assert not list(tmp_path.iterdir())


def test_half_precision_vectors_are_unit_enough(vectors: np.ndarray, tmp_path: Path) -> None:
    assert build(vectors.astype(np.float16), tmp_path).vectors(np.array([FIRST_ID])).dtype == np.float32


@pytest.mark.parametrize(
    ("shape", "ids", "message"),
    [
        ((0, 8), np.arange(0), "there are no vectors to index"),
        ((3,), np.arange(3), r"vectors have shape \(3,\)"),
        ((3, 1), np.arange(2), r"3 vectors came with ids of shape \(2,\)"),
        ((3, 1), np.arange(3.0), "ids are float64; they must be 64-bit integers"),
        ((3, 1), np.array([5, 1, 5]), "1 ids occur more than once, first 5"),
        ((3, 1), np.array([1, 2, 2**63], np.uint64), "id 9223372036854775808 does not fit"),
    ],
)
def test_input_that_cannot_be_indexed(tmp_path: Path, shape: tuple[int, ...], ids: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        VectorIndex.build(np.ones(shape, np.float32), ids, tmp_path, provenance={})


def test_integers_are_no_vectors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="vectors are int64; an index needs floating-point vectors"):
        VectorIndex.build(np.ones((2, 1), np.int64), np.arange(2), tmp_path, provenance={})


def test_provenance_must_be_plain(vectors: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="provenance holds what JSON cannot"):
        VectorIndex.build(vectors, np.arange(2000), tmp_path, provenance={"path": tmp_path})


@pytest.mark.parametrize(
    ("shape", "k", "message"),
    [
        ((1, 32), 0, "k is 0; ask for at least one neighbour"),
        ((1, 32), -3, "k is -3"),
        ((32,), 3, r"queries have shape \(32,\); give a batch of m vectors, shape \(m, 32\)"),
        ((1, 768), 3, "queries have dimension 768, this index 32: they come from another encoder"),
    ],
)
def test_questions_that_cannot_be_asked(flat: VectorIndex, shape: tuple[int, ...], k: int, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        flat.search(np.ones(shape, np.float32), k)


def test_index_of_another_encoder_is_refused(flat: VectorIndex) -> None:
    with pytest.raises(ProvenanceError, match="encoder_sha256 is 'ab12', expected 'cd34'; rebuild it with `specdb index`"):
        VectorIndex.open(flat._directory, {"encoder": "mini", "encoder_sha256": "cd34"})
    with pytest.raises(ProvenanceError, match="dimension is 32, expected 256"):
        VectorIndex.open(flat._directory, {"dimension": 256})


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="holds no index; make one with `specdb index`"):
        VectorIndex.open(tmp_path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_faiss_file_is_never_read(vectors: np.ndarray, tmp_path: Path) -> None:
    flip(tmp_path / build(vectors, tmp_path, kind="ivf-flat").card.segments[0].file.name)
    with pytest.raises(DatabaseError, match=r"index-1-0.faiss does not match the SHA-256 .* rebuild it with `specdb index`"):
        VectorIndex.open(tmp_path)
    VectorIndex.open(tmp_path, trusted=True)


@pytest.mark.parametrize("role", ["vectors", "ids"])
def test_verify_finds_damaged_arrays(vectors: np.ndarray, tmp_path: Path, role: str) -> None:
    index = build(vectors, tmp_path)
    flip(tmp_path / index.card.files[role].name)
    VectorIndex.open(tmp_path)
    with pytest.raises(DatabaseError, match=f"{role}-1.* does not match the SHA-256"):
        index.verify()


@pytest.mark.parametrize("number", range(5))
def test_missing_or_cut_files(vectors: np.ndarray, tmp_path: Path, number: int) -> None:
    index = build(vectors, tmp_path, kind="ivf-sq8")
    path = tmp_path / index.card.entries[number].name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatabaseError, match=r"has \d+ bytes, its card says \d+: the index is damaged; rebuild it"):
        VectorIndex.open(tmp_path)
    path.unlink()
    with pytest.raises(DatabaseError, match=f"{path.name} is missing from the index; rebuild it"):
        VectorIndex.open(tmp_path)
    with pytest.raises(DatabaseError, match=f"{path.name} is missing from the index"):
        index.verify()


def edit_card(directory: Path, **changes: object) -> None:
    path = directory / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 5}, r"vectors-1.f32 has 256000 bytes, \(5, 32\) float32 make 640"),
        ({"segments": []}, "names no segments of its ivf-flat index"),
        ({"certificate": None}, "not a valid index card"),
        ({"options": {"recall": 7}}, "not a valid index card"),
        ({"colour": "red"}, "not a valid index card"),
    ],
)
def test_card_that_does_not_fit(vectors: np.ndarray, tmp_path: Path, changes: dict, message: str) -> None:
    build(vectors, tmp_path, kind="ivf-flat")
    edit_card(tmp_path, **changes)
    with pytest.raises(DatabaseError, match=message):
        VectorIndex.open(tmp_path)


def test_card_of_another_version(vectors: np.ndarray, tmp_path: Path) -> None:
    build(vectors, tmp_path)
    edit_card(tmp_path, format_version=99)
    with pytest.raises(VersionError, match="has format 99, this specdb reads up to 2: update specdb"):
        VectorIndex.open(tmp_path)
    edit_card(tmp_path, format_version=1)
    (tmp_path / "vectors-7.npy").write_bytes(b"as format 1 had them")
    with pytest.raises(DatabaseError, match="has format 1, this specdb writes 2; rebuild it with `specdb index`"):
        VectorIndex.open(tmp_path)
    build(vectors, tmp_path)
    assert not (tmp_path / "vectors-7.npy").exists()


def test_files_swapped_for_others_are_noticed(vectors: np.ndarray, tmp_path: Path) -> None:
    index = build(vectors, tmp_path, kind="ivf-flat")
    card = json.loads((tmp_path / "index.json").read_text())
    (segment,) = card["segments"]
    for changes, message in (
        ({"segments": [{**segment, "file": card["files"]["ids"]}]}, "cannot be read by FAISS"),
        ({"segments": [{**segment, "file": card["files"]["trained"]}]}, r"holds 0 x 32, its card says 2000 x 32"),
        (
            {"files": {**card["files"], "vectors": card["files"]["ids"]}},
            r"has 16000 bytes, \(2000, 32\) float32 make 256000",
        ),
    ):
        edit_card(tmp_path, **{**card, **changes})
        with pytest.raises(DatabaseError, match=message):
            VectorIndex.open(tmp_path)
    assert len(index) == 2000


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_answers(vectors: np.ndarray, queries: np.ndarray, tmp_path: Path, kind: str) -> None:
    first, second = (build(vectors, tmp_path / name, kind=kind, seed=3) for name in "ab")
    assert same(first.search(queries, 10), second.search(queries, 10))
    assert first.card.certificate == second.card.certificate
    assert (first.card.files, first.card.segments) == (second.card.files, second.card.segments)
