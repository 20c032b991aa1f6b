"""Deleting spectra and compacting: nothing shows them at once, nothing is lost at any moment, they do not come back."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from indexer.compaction import compact
from indexer.indexing import IndexSettings, update_index
from specdb.database import Database
from specdb.errors import InputError, QueryError
from specdb.search.exact import exact_search
from specdb.spectra import get_modality
from specdb.store import Store, compact_parts, read_table, verify_store
from tests.catalog.small_store import DIM, ENCODER, N, commit, lamost, rows, vectors

LRS = "lamost_lrs"
FIRST, SECOND = 1001, 2001


def index(store: Store, kind: str = "auto") -> str:
    with store.writing() as writer:
        return update_index(writer, LRS, ENCODER, "abc", IndexSettings(kind)).action


@pytest.fixture
def db(tmp_path: Path) -> Database:
    """Two parts of `N` spectra each."""
    store = Store.create(tmp_path / "db", ENCODER)
    commit(store, get_modality(LRS), lamost(FIRST), 1)
    assert index(store) == "built"
    commit(store, get_modality(LRS), lamost(SECOND), 2)
    assert index(store) == "extended"
    assert index(store) == "unchanged"
    return Database(store)


def all_ids() -> np.ndarray:
    return np.concatenate([np.arange(FIRST, FIRST + N), np.arange(SECOND, SECOND + N)])


def check(db: Database, gone: list[int]) -> None:
    """Compare every way to see the spectra with brute force."""
    x, queries = np.concatenate([vectors(N, 1), vectors(N, 2)]), vectors(5, 9)
    kept = np.flatnonzero(~np.isin(all_ids(), gone))
    scores, rows = exact_search(x, queries, 7, rows=kept)
    found = db.index(LRS).search(queries, 7)
    np.testing.assert_array_equal(found[1], all_ids()[rows])
    np.testing.assert_array_equal(found[0], scores)
    assert db.index(LRS).search(queries, 500)[1].shape == (5, len(kept))
    assert db.counts() == {LRS: len(kept)}
    assert db.store.ids(LRS).tolist() == all_ids()[kept].tolist()
    assert sum(len(ids) for ids, _ in db.store.vectors(ENCODER, LRS)) == len(kept)
    for view in ("spectra", LRS, "embeddings"):
        seen = db.sql(f"SELECT spectrum_id FROM {view} ORDER BY 1").rows["spectrum_id"].to_pylist()
        assert seen == all_ids()[kept].tolist()
    state = db.status()["modalities"][LRS]
    assert state["spectra"] == state["encoders"][ENCODER]["embedded"] == state["encoders"][ENCODER]["indexed"] == len(kept)
    assert db.spectra([all_ids()[kept[0]]], LRS).num_rows == 1
    for spectrum_id in gone:
        with pytest.raises(QueryError, match="has no spectrum with the id"):
            db.spectra([spectrum_id], LRS)
        with pytest.raises(QueryError, match="not in the index"):
            db.index(LRS).vectors(np.array([spectrum_id]))


def test_deletions_take_effect_at_once_and_compaction_changes_no_answer(db: Database) -> None:
    check(db, [])
    gone = [FIRST, FIRST + 7, SECOND + 3]
    assert db.delete(gone, dry_run=True) == {LRS: 3}
    check(db, [])
    assert db.delete(gone, reason="cosmic rays") == {LRS: 3}
    assert db.delete(gone) == {LRS: 0}
    check(db, gone)
    assert db.status()["modalities"][LRS]["deleted"] == 3
    assert db.delete(gone[:1], undelete=True) == {LRS: 1}
    check(db, gone[1:])
    (tombstones, _) = db.store.tables(f"deleted/{LRS}")
    assert read_table(db.store.root / tombstones)["reason"].to_pylist() == ["cosmic rays"] * 3

    done = compact(db.store.root)[LRS]
    assert (done.dropped, done.parts) == (2, 2)
    assert done.bytes > 0
    check(db, gone[1:])
    assert len(db.index(LRS).ids) == 2 * N - 2
    assert db.store.counts(LRS) == (2 * N - 2, 0)
    assert compact(db.store.root)[LRS].dropped == 0
    assert {p.what for p in db.verify()} == {"not in the manifest"}  # replaced, and left for readers for a while
    assert index(db.store) == "unchanged"
    with pytest.raises(QueryError, match="no deleted spectrum of lamost_lrs has the id 1001"):
        db.delete([FIRST], undelete=True)


def test_everything_can_be_deleted(db: Database) -> None:
    db.delete(where="spectrum_id > 0")
    assert db.index(LRS).search(vectors(2, 9), 5)[1].shape == (2, 0)
    assert compact(db.store.root)[LRS].dropped == 2 * N
    assert db.counts() == {LRS: 0}
    assert not db.store.index_folder(ENCODER, LRS).exists()


def test_deleting_by_condition(db: Database) -> None:
    assert db.delete(where=f"spectrum_id BETWEEN {FIRST} AND {FIRST + 2}") == {LRS: 3}
    check(db, [FIRST, FIRST + 1, FIRST + 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give the ids of the spectra, or a condition"),
        ({"ids": [1], "where": "snr > 3"}, "give the ids of the spectra, or a condition"),
        ({"where": "snr > 3", "undelete": True}, "give the ids of the spectra, or a condition"),
        ({"ids": [FIRST, 5, 6]}, r"no spectrum of lamost_lrs has the id 5 \(2 such ids\); nothing was done"),
        ({"ids": [FIRST], "undelete": True}, "no deleted spectrum of lamost_lrs has the id 1001"),
        ({"ids": [FIRST], "modality": "gaia_xp"}, "the database has no modality 'gaia_xp'; it has lamost_lrs"),
    ],
)
def test_what_cannot_be_deleted(db: Database, options: dict, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        db.delete(**options)
    check(db, [])


def test_an_id_of_several_modalities_is_ambiguous(db: Database) -> None:
    table = lamost(FIRST)
    xp = get_modality("gaia_xp")
    commit(db.store, xp, rows(xp, table["spectrum_id"].to_numpy()), 3)
    with pytest.raises(QueryError, match="the id 1001 occurs in several modalities; say which with --modality"):
        db.delete([FIRST])
    assert db.delete([FIRST], modality="gaia_xp") == {"gaia_xp": 1}


def test_tombstones_are_no_table_of_users(db: Database) -> None:
    with db.store.writing() as writer, pytest.raises(InputError, match="cannot be the name of a table"):
        writer.put("deleted/x.parquet", lamost(1), {})


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("dies_at", range(12))
def test_a_killed_compaction_loses_nothing(db: Database, dies_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = [FIRST, SECOND + 5]
    db.delete(gone)
    replace, left = Path.replace, dies_at

    def dying(self: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise _Killed
        left -= 1
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with suppress(_Killed):
            compact(db.store.root)
    opened = Database(Store.open(db.store.root))
    assert opened.counts() == {LRS: 2 * N - 2}
    found = opened.index(LRS).search(vectors(5, 9), 500)[1]
    assert set(found[0].tolist()) == set(all_ids().tolist()) - set(gone)
    compact(db.store.root)
    check(opened, gone)
    assert [p for p in verify_store(opened.store) if "not in the manifest" not in p.what] == []
    monkeypatch.setattr("specdb.store.compaction.GRACE_S", 0)
    with opened.store.writing():
        pass  # whoever writes next clears the files that were replaced
    assert verify_store(opened.store) == []


def test_readers_go_on_while_others_write(db: Database) -> None:
    """Searches and reads in a thread, while spectra are deleted, compacted and added."""
    stop, errors, answers = threading.Event(), [], 0
    queries = vectors(3, 9)

    def read() -> None:
        nonlocal answers
        mine = Database(Store.open(db.store.root))
        while not stop.is_set():
            try:
                assert mine.index(LRS).search(queries, 5)[1].shape == (3, 5)
                mine.spectra([SECOND + N - 1], LRS)
                answers += 1
            except Exception as error:
                errors.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(3):
        db.delete([FIRST + step, SECOND + step])
        with db.store.writing() as writer:
            compact_parts(writer, LRS)
        index(db.store)
    stop.set()
    reader.join()
    assert errors == []
    assert answers > 0
    assert db.index(LRS).card.dimension == DIM
