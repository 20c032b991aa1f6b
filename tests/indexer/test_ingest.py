"""The ingest pipeline on a toy survey: counting, resuming at any record, sources of many spectra, duplicates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.embedding import EmbeddingBuffer, EmbeddingSettings, embed_missing
from indexer.ingest import IngestSettings, ingest
from indexer.known import IntSet
from indexer.prefetch import prefetch
from specdb.errors import InputError, ProvenanceError, ReadError
from specdb.spectra import Modality, Prepared, Rejection, Spectra, metadata_table
from specdb.spectra.readers import register
from specdb.spectra.readers.opened import OpenSource
from specdb.store import Store, compact_parts, matrix, read_table, verify_store

N_GRID = 4


class ToyReader:
    """A JSON list of ids per file, delivered in batches of three; negative ids are of low S/N, "bad" ends the file."""

    name = "toy"
    suffixes = (".toy",)
    native = True

    def identify(self, opened: OpenSource) -> str | None:
        return None if opened.data[:1] == b"[" else "no list"

    def read(self, opened: OpenSource) -> Iterator[Spectra]:
        ids = json.loads(opened.data)
        for start in range(0, len(ids), 3):
            batch = ids[start : start + 3]
            if "bad" in batch:
                raise ReadError("corrupt", "the list holds 'bad'")
            flux = np.array(batch, float)[:, None] + np.zeros((1, N_GRID))
            metadata = metadata_table({"spectrum_id": batch, "source_file": [opened.name] * len(batch)})
            yield Spectra(np.arange(N_GRID, dtype=float), flux, metadata=metadata)


class ToyPreparation:
    name = "toy"

    def __init__(self, version: int = 1) -> None:
        self.version = version

    def settings(self) -> dict[str, float | int | str | bool]:
        return {"min_snr": 1.0}

    def __call__(self, batches: Sequence[Spectra]) -> Prepared:
        flux = np.concatenate([b.flux for b in batches]).astype(np.float32)
        good = flux[:, 0] >= 0
        rejections = [Rejection("low_snr", "negative", int(row)) for row in np.flatnonzero(~good)]
        n = int(good.sum())
        zeros = np.zeros(n, np.int32)
        return Prepared(flux[good], flux[good], zeros, zeros, zeros + 9.0, np.flatnonzero(good), rejections)


class ToyEncoder:
    name = "toy-encoder"
    weight_hash = "abc"
    modalities = served = ("toy",)
    preparation = {"toy": ("toy", 1)}  # noqa: RUF012

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, flux: np.ndarray, modality: str, **_: object) -> dict[str, np.ndarray]:
        self.encoded += len(flux)
        return {"shared": np.column_stack([flux[:, 0], np.ones(len(flux))]).astype(np.float32)}


def modality(version: int = 1) -> Modality:
    return Modality("toy", "toy", np.arange(N_GRID, dtype=float), ToyPreparation(version), pa.schema([]), ("toy",), "toy")


register(ToyReader())
SETTINGS = IngestSettings(window=4, part_records=8, workers=0)


def write(folder: Path, contents: dict[str, list]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def run(store: Store, folder: Path, encoder: ToyEncoder | None = None, **changes: object):
    buffer = EmbeddingBuffer(encoder, modality(), EmbeddingSettings()) if encoder else None  # type: ignore[arg-type]
    chosen = IngestSettings(**{**vars(SETTINGS), **changes})  # type: ignore[arg-type]
    with store.writing() as writer:
        return ingest(writer, modality(), [folder], settings=chosen, buffer=buffer)


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    one_each = {f"a{i:02d}.toy": [i] for i in range(10)}
    many = {"b.toy": list(range(100, 120)), "c.toy": [5, 200, -1, 201, 202, 203, "bad", 204]}
    folder = write(tmp_path / "survey", one_each | many | {"d.toy": []})
    (folder / "README").write_text("about")
    (folder / "e.toy").write_text('["bad"]')
    return folder


def test_count_in_is_count_out(tmp_path: Path, survey: Path) -> None:
    store = Store.create(tmp_path / "db", "toy-encoder")
    encoder = ToyEncoder()
    report = run(store, survey, encoder)
    assert report.sources == 15
    assert (report.accepted, report.skipped, report.failed) == (34, 3, 3)
    assert dict(report.reasons) == {
        "duplicate": 1,
        "low_snr": 1,
        "not_a_spectrum": 1,
        "corrupt": 2,
        "empty_file": 1,
    }
    rejected = {(Path(r["source_file"]).name, r["record"], r["reason"]) for r in store.rejected("toy").to_pylist()}
    assert ("c.toy", 2, "low_snr") in rejected
    assert ("c.toy", -1, "corrupt") in rejected
    assert encoder.encoded == len(store.ids("toy")) == 34
    assert verify_store(store) == []

    again = run(store, survey, encoder)
    assert (again.sources, again.known, again.records) == (15, 15, 0)
    assert encoder.encoded == 34


class _Killed(BaseException):
    pass


def contents(store: Store) -> tuple[list, list, list]:
    spectra = [row for part in store.spectra_parts("toy") for row in read_table(store.root / part).to_pylist()]
    embeddings = [(i, v) for ids, vs in store.vectors("toy-encoder", "toy") for i, v in zip(ids, vs.tolist(), strict=True)]
    return spectra, embeddings, store.rejected("toy").to_pylist()


@pytest.mark.parametrize("dies_at", range(12))
def test_a_killed_run_goes_on_and_ends_the_same(
    tmp_path: Path, survey: Path, dies_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Die at the n-th rename of the whole run, then run again to the end."""
    whole = Store.create(tmp_path / "whole", "toy-encoder")
    run(whole, survey, ToyEncoder())

    store = Store.create(tmp_path / "db", "toy-encoder")
    replace, left = Path.replace, dies_at

    def dying(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise _Killed
        left -= 1
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(_Killed):
            run(store, survey, ToyEncoder())
    committed = sum(entry.rows for name, entry in store.manifest().files.items() if name.startswith("embeddings"))
    encoder = ToyEncoder()
    report = run(store, survey, encoder)
    assert encoder.encoded + committed == 34
    assert report.accepted == encoder.encoded
    assert contents(store) == contents(whole)
    assert verify_store(store) == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    window=st.integers(1, 7),
    parts=st.integers(1, 3),
)
def test_nothing_is_lost_however_the_stream_is_cut(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], window: int, parts: int
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    ids = iter(range(10_000))
    survey = write(folder / "s", {f"{i:02d}.toy": [next(ids) for _ in range(size)] for i, size in enumerate(sizes)})
    store = Store.create(folder / "db", "toy-encoder")
    report = run(store, survey, ToyEncoder(), window=window, part_records=window * parts)
    assert store.ids("toy").tolist() == list(range(sum(sizes)))
    assert report.accepted == sum(sizes)
    assert report.failed == sizes.count(0)


def test_files_added_later_are_the_only_ones_read(tmp_path: Path, survey: Path) -> None:
    store = Store.create(tmp_path / "db", "toy-encoder")
    run(store, survey, ToyEncoder())
    write(survey, {"z.toy": [900, 901]})
    encoder = ToyEncoder()
    report = run(store, survey, encoder)
    assert (report.known, report.accepted, encoder.encoded) == (15, 2, 2)
    assert store.ids("toy")[-2:].tolist() == [900, 901]


def test_stages_apart_give_what_they_give_together(tmp_path: Path, survey: Path) -> None:
    together, apart = (Store.create(tmp_path / name, "toy-encoder") for name in ("together", "apart"))
    run(together, survey, ToyEncoder())
    run(apart, survey)
    buffer = EmbeddingBuffer(ToyEncoder(), modality(), EmbeddingSettings())  # type: ignore[arg-type]
    with apart.writing() as writer:
        assert embed_missing(writer, buffer) == 34
        assert embed_missing(writer, buffer) == 0
    assert contents(apart) == contents(together)


def test_embeddings_are_unit_vectors_and_their_length_is_kept(tmp_path: Path, survey: Path) -> None:
    store = Store.create(tmp_path / "db", "toy-encoder")
    run(store, survey, ToyEncoder())
    table = read_table(store.root / store.embedding_parts("toy-encoder", "toy")[0])
    unit, norm = matrix(table["shared"]), table["shared_norm"].to_numpy()
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose((unit * norm[:, None])[:, 0], table["spectrum_id"].to_numpy(), rtol=1e-6, atol=1e-6)


def test_failed_files_are_read_again_on_request(tmp_path: Path, survey: Path) -> None:
    store = Store.create(tmp_path / "db", "toy-encoder")
    run(store, survey)
    (survey / "e.toy").write_text("[300]")
    assert run(store, survey).records == 0
    report = run(store, survey, retry_failed=True)
    assert 300 in store.ids("toy")
    assert report.accepted == 1
    assert verify_store(store) == []


def test_deleted_spectra_do_not_come_back_unless_asked_to(tmp_path: Path, survey: Path) -> None:
    store = Store.create(tmp_path / "db", "toy-encoder")
    run(store, survey, ToyEncoder())
    with store.writing() as writer:
        assert writer.mark_deleted("toy", np.array([3, 100])) == 2
    assert run(store, survey, ToyEncoder()).records == 0  # their files are known
    assert len(store.ids("toy")) == 32
    with store.writing() as writer:
        assert compact_parts(writer, "toy").dropped == 2
    report = run(store, survey, ToyEncoder())  # a03.toy, the only source that has gone as a whole
    assert dict(report.reasons) == {"deleted": 1}
    (row,) = [row for row in store.rejected("toy").to_pylist() if row["reason"] == "deleted"]
    assert row["detail"] == "spectrum_id 3 was deleted; `--undelete` takes it back"
    report = run(store, survey, ToyEncoder(), undelete=True)
    assert report.accepted == 1
    assert store.deleted("toy").tolist() == [100]
    assert 3 in store.ids("toy")
    with store.writing() as writer:
        writer.mark_deleted("toy", np.array([5]))
    report = run(store, survey, ToyEncoder(), undelete=True)  # its row is still there and becomes visible again
    assert dict(report.reasons) == {"duplicate": 1}
    assert 5 in store.ids("toy")


def test_other_preparations_and_encoders_are_not_mixed(tmp_path: Path, survey: Path) -> None:
    store = Store.create(tmp_path / "db", "toy-encoder")
    run(store, survey, ToyEncoder())
    with store.writing() as writer:
        with pytest.raises(ProvenanceError, match="preparation_version: stored 1, now 2"):
            ingest(writer, modality(2), [survey], settings=SETTINGS)
        encoder = ToyEncoder()
        encoder.weight_hash = "other"
        buffer = EmbeddingBuffer(encoder, modality(), EmbeddingSettings())  # type: ignore[arg-type]
        with pytest.raises(ProvenanceError, match="weight_hash: stored 'abc', now 'other'"):
            ingest(writer, modality(), [survey], settings=SETTINGS, buffer=buffer)
        encoder = ToyEncoder()
        encoder.preparation = {"toy": ("toy", 7)}
        buffer = EmbeddingBuffer(encoder, modality(), EmbeddingSettings())  # type: ignore[arg-type]
        with pytest.raises(
            ProvenanceError, match="trained on preparation toy version 7, toy is prepared with toy version 1"
        ):
            embed_missing(writer, buffer)
        buffer = EmbeddingBuffer(SimpleNamespace(name="x", served=("gaia_xp",)), modality(), EmbeddingSettings())  # type: ignore[arg-type]
        with pytest.raises(InputError, match="encoder x does not encode toy, only gaia_xp"):
            embed_missing(writer, buffer)


def test_a_folder_without_files_is_said_before_anything_is_written(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "db", "toy-encoder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        run(store, tmp_path / "empty")
    assert store.modalities() == []


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 9), max_size=8), max_size=8))
def test_int_set_is_a_set(batches: list[list[int]]) -> None:
    seen: set[int] = set(batches[0]) if batches else set()
    known = IntSet(np.array(sorted(seen), np.int64))
    for batch in batches[1:]:
        expected = [value not in seen and value not in batch[:i] for i, value in enumerate(batch)]
        assert known.add(np.array(batch, np.int64)).tolist() == expected
        seen.update(batch)
    assert len(known) == len(seen)


def test_prefetch_keeps_order_raises_in_place_and_stops_when_left() -> None:
    closed = []

    def numbers() -> Iterator[int]:
        try:
            yield from range(5)
            raise ValueError("five")
        finally:
            closed.append(True)

    got = []
    with pytest.raises(ValueError, match="five"):
        for number in prefetch(numbers(), depth=2):
            got.append(number)  # noqa: PERF402
    assert got == [0, 1, 2, 3, 4]

    left = prefetch(numbers(), depth=1)
    assert next(left) == 0
    left.close()
    assert closed == [True, True]
