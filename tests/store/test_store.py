"""The database directory: atomic, refusing what does not fit, sound after being killed at any step."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specdb.errors import DatabaseError, InputError, LockError, ProvenanceError, VersionError
from specdb.spectra import Modality
from specdb.spectra.schema import metadata_table
from specdb.store import (
    FORMAT_VERSION,
    REJECTED,
    Batch,
    Manifest,
    Store,
    can_be_made_again,
    embedding_table,
    matrix,
    read_table,
    spectra_table,
    verify_store,
)

N_GRID = 8
MODALITY = Modality(
    name="toy",
    survey="toy",
    wavelength=np.linspace(4000, 5000, N_GRID),
    preparation=None,  # type: ignore[arg-type]  # nothing is prepared here
    columns=pa.schema([pa.field("plan_id", pa.string())]),
    readers=(),
    title="toy",
)
PROVENANCE = {"kind": "spectra", "preparation": "toy", "preparation_version": 1}


def rows(first: int, n: int) -> pa.Table:
    ids = np.arange(first, first + n)
    flux = ids[:, None] + np.zeros((n, N_GRID), np.float32)
    metadata = metadata_table({"spectrum_id": ids, "source_file": [f"/files/{i}.fits" for i in ids]})
    measured = {"snr": np.full(n, 9.0), "quality": np.zeros(n, int), "n_repaired": np.zeros(n, int)}
    return spectra_table(MODALITY, metadata, {"flux": flux, "ivar": np.ones_like(flux), **measured})


def rejects(batch: int, n: int) -> pa.Table:
    row = {"record": -1, "status": "failed", "reason": "truncated", "detail": "cut short", "batch": batch}
    return pa.Table.from_pylist([{"source_file": f"/bad/{batch}-{i}.fits", **row} for i in range(n)], REJECTED)


def vectors(first: int, n: int) -> tuple[str, pa.Table, dict]:
    table = embedding_table(np.arange(first, first + n), {"shared": np.eye(n, 4, dtype=np.float32)}, {"metric": "cosine"})
    return "toy-encoder", table, {"kind": "embeddings", "weight_hash": "abc"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "db", "toy-encoder")
    with store.writing() as writer:
        for number in range(2):
            batch = Batch(number, 6)
            writer.commit_ingest(
                MODALITY, batch, rows(10 * number, 4), rejects(number, 2), PROVENANCE, vectors(10 * number, 4)
            )
    return store


def test_what_is_committed_is_read_back(store: Store) -> None:
    assert store.modalities() == ["toy"]
    assert store.ids("toy").tolist() == [0, 1, 2, 3, 10, 11, 12, 13]
    assert store.rejected("toy").num_rows == 4
    assert store.encoders("toy") == ["toy-encoder"]
    table = read_table(store.root / store.spectra_parts("toy")[1])
    np.testing.assert_array_equal(matrix(table["flux"])[:, 0], [10, 11, 12, 13])
    grid = json.loads(table.schema.metadata[b"wavelength_vac_angstrom"])
    np.testing.assert_array_equal(grid, MODALITY.wavelength)
    assert store.provenance(store.spectra_parts("toy")[0])["preparation"] == "toy"
    assert verify_store(store) == []


def test_other_tools_can_read_it(store: Store) -> None:
    import duckdb

    query = f"SELECT count(*), min(len(flux)) FROM read_parquet('{store.root}/spectra/toy/part-*.parquet')"
    [(count, width)] = duckdb.sql(query).fetchall()
    assert (count, width) == (8, N_GRID)


def test_a_second_writer_is_refused_while_readers_go_on(store: Store) -> None:
    with store.writing():
        with pytest.raises(LockError, match=rf"is being written by process {os.getpid()} on .* since"), store.writing():
            pass
        assert len(Store.open(store.root).ids("toy")) == 8


def _hold_lock(root: Path, ready) -> None:
    with Store.open(root).writing():
        ready.set()
        signal.pause()


def test_the_lock_of_a_killed_writer_is_free(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold_lock, args=(store.root, ready))
    process.start()
    assert ready.wait(60)
    with pytest.raises(LockError), store.writing():
        pass
    process.kill()
    process.join()
    with store.writing():
        pass


@pytest.mark.parametrize("step", range(4))
def test_dying_between_any_two_renames_loses_nothing(store: Store, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit renames rejected, spectra, embeddings, manifest; die at each of them, then run again."""
    before = store.manifest()
    replace, calls = Path.replace, 0

    def dying(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls > step:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(KeyboardInterrupt), store.writing() as writer:
            writer.commit_ingest(MODALITY, Batch(2, 3), rows(20, 2), rejects(2, 1), PROVENANCE, vectors(20, 2))
    assert store.manifest() == before
    assert store.rejected("toy").num_rows == 4
    assert [p for p in verify_store(store) if p.what != "not in the manifest"] == []

    with store.writing() as writer:
        writer.commit_ingest(MODALITY, Batch(2, 3), rows(20, 2), rejects(2, 1), PROVENANCE, vectors(20, 2))
    assert store.ids("toy").tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21]
    assert store.rejected("toy").num_rows == 5
    assert verify_store(store) == []
    assert not list(store.root.rglob(".tmp-*"))


def test_a_full_disk_is_said_and_loses_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with (
            pytest.raises(DatabaseError, match=r"no space left.*everything committed before is safe"),
            store.writing() as writer,
        ):
            writer.commit_ingest(MODALITY, Batch(2, 2), rows(20, 2), REJECTED.empty_table(), PROVENANCE)
    assert len(store.ids("toy")) == 8
    assert verify_store(store) == []


def test_files_made_differently_are_refused(store: Store) -> None:
    with store.writing() as writer:
        parts = store.spectra_parts("toy")
        writer.require_same(parts, {"preparation": "toy", "preparation_version": 1}, "toy spectra")
        with pytest.raises(ProvenanceError, match=r"preparation_version: stored 1, now 2.*build a new database"):
            writer.require_same(parts, {"preparation_version": 2}, "toy spectra")


def test_failures_can_be_forgotten_to_be_tried_again(store: Store) -> None:
    with store.writing() as writer:
        assert writer.forget_failures("toy") == 4
    assert store.rejected("toy").num_rows == 0
    assert verify_store(store) == []


def test_damage_is_found_and_what_can_be_made_again_is_forgotten(store: Store) -> None:
    spectra, embeddings = store.spectra_parts("toy")[0], store.embedding_parts("toy-encoder", "toy")[1]
    for name in (spectra, embeddings):
        content = bytearray((store.root / name).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (store.root / name).write_bytes(content)
    problems = verify_store(store)
    assert {p.file for p in problems if "checksum" in p.what} == {spectra, embeddings}
    assert [p.file for p in problems if can_be_made_again(p)] == [embeddings]
    with store.writing() as writer:
        writer.forget([embeddings])
    assert embeddings not in store.embedding_parts("toy-encoder", "toy")

    (store.root / spectra).unlink()
    assert any(p.file == spectra and p.what == "the file is missing" for p in verify_store(store))


def test_ids_of_embeddings_must_be_those_of_the_spectra(store: Store) -> None:
    with store.writing() as writer:
        _, table, record = vectors(50, 4)
        writer.commit_embeddings("toy-encoder", "toy", "part-00001.parquet", table, record)
    assert [p.what for p in verify_store(store)] == ["its ids are not those of its spectra part"]


def test_opening_what_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"no specdb database \(it has no specdb.toml\); `specdb build-index`"):
        Store.open(tmp_path)
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DatabaseError, match=r"holds other files \(thesis.tex, ...\).*only in an empty or a new folder"):
        Store.create(tmp_path, "toy-encoder")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_newer_format_is_refused(store: Store) -> None:
    path = store.root / "specdb.toml"
    path.write_text(re.sub(r"format_version = \d+", f"format_version = {FORMAT_VERSION + 1}", path.read_text()))
    with pytest.raises(
        VersionError, match=f"format version {FORMAT_VERSION + 1}, this specdb .* up to {FORMAT_VERSION}; upgrade"
    ):
        Store.open(store.root)


@pytest.mark.parametrize("content", ["", "format_version = 'x'", "[[["])
def test_damaged_settings_are_refused(store: Store, content: str) -> None:
    (store.root / "specdb.toml").write_text(content)
    with pytest.raises(DatabaseError, match="cannot be read"):
        Store.open(store.root)


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3, "batches": {}, "provenance": {}}'])
def test_a_damaged_manifest_is_refused(store: Store, content: str) -> None:
    (store.root / "manifest.json").write_text(content)
    with pytest.raises(DatabaseError, match="is damaged"):
        store.ids("toy")


def test_a_lost_manifest_is_no_empty_database(store: Store) -> None:
    (store.root / "manifest.json").unlink()
    with pytest.raises(DatabaseError, match=r"manifest.json is missing.*restore it from a copy"):
        store.ids("toy")


def test_encoder_names_must_be_folder_names(store: Store) -> None:
    with store.writing() as writer, pytest.raises(InputError, match="cannot be a folder name"):
        writer.commit_embeddings("../escape", "toy", "part-00000.parquet", vectors(0, 4)[1], {})


def test_columns_nobody_declared_are_refused() -> None:
    metadata = metadata_table({"spectrum_id": [1]}).append_column("mood", pa.array(["good"]))
    with pytest.raises(DatabaseError, match=r"columns \['mood'\] are not declared by modality toy"):
        spectra_table(MODALITY, metadata, {})


def test_manifest_round_trip(tmp_path: Path) -> None:
    key, manifest = Manifest().record({"kind": "x"})
    manifest = manifest.with_batch("toy", Batch(0, 3, {"big.parquet": 3}))
    manifest.save(tmp_path / "manifest.json")
    assert Manifest.load(tmp_path / "manifest.json") == manifest
    assert manifest.provenance[key] == {"kind": "x"}


def test_tables_of_their_own_are_put_replaced_streamed_and_removed(store: Store) -> None:
    batches = [pa.record_batch({"spectrum_id": [i], "teff": [5000.0 + i]}) for i in range(5)]
    with store.writing() as writer:
        assert writer.put("labels/lasp.parquet", pa.Table.from_batches(batches[:2]), {"from": "a.csv"}) == 2
        assert (
            writer.put("labels/lasp.parquet", pa.RecordBatchReader.from_batches(batches[0].schema, batches), {"v": 2}) == 5
        )
    assert store.tables("labels") == ["labels/lasp.parquet"]
    assert store.provenance("labels/lasp.parquet")["v"] == 2
    assert pq.read_table(store.root / "labels/lasp.parquet")["teff"].to_pylist() == [5000.0 + i for i in range(5)]
    assert verify_store(store) == []
    with store.writing() as writer:
        writer.remove(["labels/lasp.parquet"])
    assert store.tables("labels") == [] and not (store.root / "labels/lasp.parquet").exists()


@pytest.mark.parametrize(
    "name", ["lasp.parquet", "../lasp.parquet", "labels/../../x.parquet", "spectra/x/part-00001.parquet", "labels/"]
)
def test_names_of_tables_stay_in_their_folders(store: Store, name: str) -> None:
    with store.writing() as writer, pytest.raises(InputError, match="cannot be the name of a table"):
        writer.put(name, pa.table({"a": [1]}), {})


@pytest.mark.parametrize("step", [1, 2, 3])
def test_dying_while_a_table_is_replaced_leaves_old_none_or_new(
    store: Store, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store.writing() as writer:
        writer.put("labels/lasp.parquet", pa.table({"a": [1]}), {})
    renames = 0
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames == step:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt), store.writing() as writer:
        writer.put("labels/lasp.parquet", pa.table({"a": [1, 2]}), {})
    monkeypatch.undo()
    listed = store.tables("labels")
    assert [p for p in verify_store(store) if p.file in listed] == []
    with store.writing() as writer:
        writer.put("labels/lasp.parquet", pa.table({"a": [1, 2]}), {})
    assert verify_store(store) == []
