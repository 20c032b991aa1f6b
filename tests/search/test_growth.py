"""The life of an index: appending, dropping, merging, rebuilding; killed at any moment; read meanwhile."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from specdb.errors import DatabaseError, InputError, RecallError
from specdb.search.build import Certified
from specdb.search.certificate import cross_truth, exact_truth, read_truths
from specdb.search.exact import exact_search
from specdb.search.index import VectorIndex
from specdb.search.kinds import SearchParameters
from tests.search.conftest import FIRST_ID, KINDS, PROVENANCE, MakeVectors, build, same


@pytest.mark.parametrize("kind", KINDS)
def test_appending(vectors: np.ndarray, make_vectors: MakeVectors, queries: np.ndarray, tmp_path: Path, kind: str) -> None:
    extra, extra_ids = make_vectors(500, seed=9), np.arange(500)
    index = build(vectors, tmp_path, kind=kind)
    reader = VectorIndex.open(tmp_path)
    before = reader.search(queries, 10)

    report = index.append(extra, extra_ids, provenance={"encoder": "mini", "parts": 2})
    assert (report.added, report.count, report.rebuilt) == (500, 2500, False)
    assert report.why.startswith("extended from 2000 to 2500 vectors; recall@10 ")
    assert index.card.count == len(index) == 2500
    assert index.card.built_count == 2000
    assert index.card.provenance == {"encoder": "mini", "parts": 2}
    assert index.certificate.rows == 2500
    np.testing.assert_array_equal(index.vectors(extra_ids), extra)
    assert same(VectorIndex.open(tmp_path).search(queries, 10), index.search(queries, 10))
    assert same(reader.search(queries, 10), before)  # whoever had it open goes on undisturbed
    index.verify()

    whole = VectorIndex.build(
        np.vstack([vectors, extra]), np.append(reader.ids, extra_ids), tmp_path / "whole", provenance={}, kind="flat"
    )
    scores, ids = index.search(queries, 10)
    exact = whole.search(queries, 10)
    if kind == "flat":
        assert same((scores, ids), exact)
    else:
        assert np.mean([np.isin(true, found).mean() for true, found in zip(exact[1], ids, strict=True)]) >= 0.97


def test_appending_nothing(vectors: np.ndarray, tmp_path: Path) -> None:
    assert build(vectors, tmp_path).append(np.empty((0, 32), np.float32), np.empty(0, np.int64)).count == 2000


def test_what_cannot_be_appended(vectors: np.ndarray, make_vectors: MakeVectors, tmp_path: Path) -> None:
    index = build(vectors, tmp_path)
    with pytest.raises(InputError, match="vectors have dimension 8, this index 32"):
        index.append(make_vectors(2, 8), np.arange(2))
    with pytest.raises(InputError, match=f"1 ids are in the index already, first {FIRST_ID}; append new spectra only"):
        index.append(make_vectors(2, seed=5), np.array([7, FIRST_ID]))
    VectorIndex.open(tmp_path).append(make_vectors(2, seed=5), np.arange(2))
    with pytest.raises(DatabaseError, match="the index on disk is generation 2, this one was opened at 1"):
        index.append(make_vectors(2, seed=6), np.arange(10, 12))


def test_rebuilds_when_it_has_outgrown_its_training(vectors: np.ndarray, tmp_path: Path) -> None:
    index = build(vectors[:300], tmp_path, kind="ivf-flat", recall=0.5)
    report = index.append(vectors[300:], np.arange(1700))
    assert report.rebuilt
    assert report.why == "rebuilt as ivf-flat: 2000 vectors are more than 4 times the 300 it was trained on"
    assert index.card.built_count == 2000
    assert report.why.split(": ")[1] in index.card.why


def test_rebuilds_when_recall_has_fallen(vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build(vectors[:1500], tmp_path, kind="ivf-flat")
    fallen = Certified(index.certificate, {}, {}, "recall@10 0.5000 at its costliest setting, below the 0.99 asked")
    monkeypatch.setattr("specdb.search.growth.certify_index", lambda *_: fallen)
    report = index.append(vectors[1500:], np.arange(500))
    assert report.rebuilt
    assert "rebuilt as ivf-flat: its recall@10 0.5000 at its" in report.why


def test_rebuilds_when_auto_would_choose_otherwise(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specdb.search.kinds.choice.FLAT_LIMIT", 1800)
    index = build(vectors[:1500], tmp_path)
    report = index.append(vectors[1500:], np.arange(500))
    assert report.rebuilt
    assert report.why.startswith("rebuilt as ivf-sq8: ivf-sq8, since 2,000 vectors are too many to scan")


@pytest.mark.parametrize(("what", "failing"), [("build", i) for i in range(5)] + [("append", i) for i in range(7)])
def test_killed_at_any_moment_the_old_index_stays(
    vectors: np.ndarray, make_vectors: MakeVectors, queries: np.ndarray, tmp_path: Path, what: str, failing: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    index = build(vectors, tmp_path, kind="ivf-sq8")
    before = index.search(queries, 10)
    extra, extra_ids = make_vectors(1500, seed=9), np.arange(1500)  # so many that they make a segment

    class Killed(BaseException):
        """As SIGKILL would end it: no handler of ours may count on running."""

    calls = iter(range(100))
    fsync = os.fsync

    def fail(handle: int) -> None:  # called after everything that is written, and before every rename
        if next(calls) == failing:
            raise Killed
        fsync(handle)

    def write() -> None:
        if what == "build":
            build(make_vectors(300, seed=9), tmp_path)
        else:
            VectorIndex.open(tmp_path).append(extra, extra_ids)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(Killed):
            write()
    opened = VectorIndex.open(tmp_path, PROVENANCE)
    opened.verify()
    assert same(opened.search(queries, 10), before)
    assert same(index.search(queries, 10), before)

    write()
    after = VectorIndex.open(tmp_path)
    after.verify()
    assert len(after) == (300 if what == "build" else 3500)
    assert not list(tmp_path.glob(".tmp-*"))


def test_files_of_the_generation_before_stay_until_the_next_write(vectors: np.ndarray, tmp_path: Path) -> None:
    index = build(vectors, tmp_path)
    (tmp_path / ".tmp-1-index-1-0.faiss").write_bytes(b"left by a killed writer")
    for number in (2, 3):
        index.append(vectors[:1] * -1 if number == 2 else vectors[1:2] * -1, np.array([number]))
        assert {path.name for path in tmp_path.glob("truth-*")} == {f"truth-{number - 1}.npz", f"truth-{number}.npz"}
        assert [path.name for path in tmp_path.glob("vectors-*")] == ["vectors-1.f32"]  # grown, not copied
    build(vectors, tmp_path)
    assert {path.name for path in tmp_path.glob("vectors-*")} == {"vectors-1.f32", "vectors-4.f32"}


def test_a_full_disk_leaves_the_old_index(
    vectors: np.ndarray, queries: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(vectors, tmp_path)
    before = index.search(queries, 5)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatabaseError, match="no space left on the disk"):
        index.append(-vectors[:1], np.array([1]))
    monkeypatch.undo()
    monkeypatch.setattr("faiss.write_index", lambda *_: (_ for _ in ()).throw(RuntimeError("write error: No space left")))
    with pytest.raises(DatabaseError, match=r"cannot write .*trained-2.faiss \(write error: No space left\); free some"):
        build(vectors, tmp_path, kind="ivf-flat")
    monkeypatch.undo()
    assert same(VectorIndex.open(tmp_path).search(queries, 5), before)
    index.append(-vectors[:1], np.array([1]))


def test_recall_not_reached_leaves_the_old_index(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(vectors, tmp_path)
    monkeypatch.setattr("specdb.search.kinds.IvfKind.settings", lambda self, structure: [SearchParameters()])
    with pytest.raises(RecallError, match="ask for less recall, another kind, or allow stepping up"):
        build(vectors, tmp_path, kind="ivf-flat", on_shortfall="fail")
    assert VectorIndex.open(tmp_path).card.kind == "flat"


def test_overtaken_reader_opens_the_newer_index(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes finish between reading the card and opening its files, which are gone by then."""
    from specdb.search.card import IndexCard

    index = build(vectors, tmp_path)
    old = index.card
    for number in (1, 2):
        index.append(-vectors[number : number + 1], np.array([number]))
    read, cards = IndexCard.read, iter([old])
    monkeypatch.setattr(IndexCard, "read", lambda directory: next(cards, None) or read(directory))
    assert len(VectorIndex.open(tmp_path)) == 2002


@pytest.mark.parametrize("kind", [name for name in KINDS if name.startswith("ivf-")])
def test_many_appends_make_few_segments_and_keep_the_recall(make_vectors: MakeVectors, tmp_path: Path, kind: str) -> None:
    index = build(make_vectors(4000, seed=1), tmp_path, kind=kind, recall=0.95)
    everything = make_vectors(4000, seed=1)
    for step in range(4):
        extra = make_vectors(1100, seed=20 + step)
        assert not index.append(extra, np.arange(1100) + 2000 * step).rebuilt
        everything = np.vstack([everything, extra])
    counts = [segment.count for segment in index.card.segments]
    assert sum(counts) == index.card.covered == 8400
    assert all(before >= 2 * after for before, after in itertools.pairwise(counts))
    assert [path.name for path in tmp_path.glob("vectors-*")] == ["vectors-1.f32"]
    queries = make_vectors(50, seed=3)
    rows = index.rows_of(VectorIndex.open(tmp_path).search(queries, 10)[1])
    exact = exact_search(everything, queries, 10)[1]
    assert np.mean([np.isin(true, found).mean() for true, found in zip(exact, rows, strict=True)]) >= 0.93
    index.verify()


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_vectors_are_found_by_no_kind(vectors: np.ndarray, queries: np.ndarray, tmp_path: Path, kind: str) -> None:
    index = build(vectors, tmp_path, kind=kind)
    best = np.unique(index.search(queries, 3)[1])
    view = index.hiding(np.append(best, 7))  # 7 is not there
    scores, ids = view.search(queries, 10)
    assert not np.isin(ids, best).any()
    assert ids.shape == (40, 10)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert view.hidden == best.size
    assert view.search(queries[:1], 5000)[1].shape == (1, 2000 - best.size)
    assert view.within(queries[:1], -1.0)[2].size == 2000 - best.size
    assert np.isin(best, index.search(queries, 3)[1]).all()  # the index itself is as it was
    most = index.hiding(index.ids[5:])
    assert sorted(most.search(queries, 10)[1][0].tolist()) == sorted(index.ids[:5].tolist())


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8", "ivf-rabitq", "hnsw"])
def test_dropping(vectors: np.ndarray, queries: np.ndarray, tmp_path: Path, kind: str) -> None:
    index = build(vectors, tmp_path, kind=kind)
    reader = VectorIndex.open(tmp_path)
    before = reader.search(queries, 10)
    gone = index.ids[::3].copy()
    report = index.drop(np.append(gone, 4))
    assert (report.added, report.dropped, report.count, report.rebuilt) == (0, 667, 1333, False)
    assert report.why == "dropped 667 of 2000 vectors"
    assert len(index) == len(index.ids) == 1333
    assert not np.isin(index.search(queries, 10)[1], gone).any()
    assert same(reader.search(queries, 10), before)
    index.verify()
    assert index.drop(index.ids[:800].copy()).why.startswith(
        f"dropped 800 of 1333 vectors; rebuilt as {kind}: more than half"
    )
    with pytest.raises(InputError, match="all 533 vectors of the index would be dropped"):
        index.drop(index.ids.copy())


def test_certificates_in_between_use_the_old_queries(
    vectors: np.ndarray, make_vectors: MakeVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large indices bring the truth of the last queries up to date instead of reading all vectors again."""
    monkeypatch.setattr("specdb.search.growth._REDRAW_BYTES", 0)
    cross = {"gaia_xp": make_vectors(100, seed=7)}
    index = build(vectors, tmp_path, kind="ivf-flat", cross=cross)
    with monkeypatch.context() as patch:
        patch.setattr("specdb.search.growth.certify_index", lambda *_: pytest.fail("drawn anew"))
        index.append(make_vectors(300, seed=9), np.arange(300))
    assert index.certificate.rows == 2300
    truth = read_truths(tmp_path / index.card.files["truth"].name, index._snapshot.vectors)
    for source, found in truth.items():
        cached = index._snapshot.vectors
        fresh = cross_truth(cached, found.queries, source) if source else exact_truth(cached, found.own[:, 0])
        np.testing.assert_allclose(found.scores, fresh.scores, atol=1e-6)
        assert found.population == 2000
    index.append(make_vectors(300, seed=10), np.arange(300, 600))  # now a quarter more than when they were drawn
    assert index.card.cross["gaia_xp"].recall[10].value >= 0.99
    assert read_truths(tmp_path / index.card.files["truth"].name, index._snapshot.vectors)[""].population == 2600


def test_certifying_for_another_modality_later(vectors: np.ndarray, make_vectors: MakeVectors, tmp_path: Path) -> None:
    index = build(vectors, tmp_path, kind="ivf-sq8")
    own = index.certificate
    assert index.card.certificate_for("gaia_xp") == own
    report = index.certify({"gaia_xp": make_vectors(200, seed=7)})
    assert (report.rebuilt, report.why) == (False, "certified for gaia_xp queries")
    opened = VectorIndex.open(tmp_path)
    assert opened.card.cross["gaia_xp"].queries == 100
    assert opened.card.certificate_for("gaia_xp") == opened.card.cross["gaia_xp"]
    assert opened.search(vectors[:2], 3, source="gaia_xp")[1].shape == (2, 3)
    assert [p.nprobe for p in opened.settings()] == sorted(p.nprobe for p in opened.settings())


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["flat", "ivf-flat", "ivf-rabitq"]))
def test_any_life_of_an_index_is_exact(
    make_vectors: MakeVectors, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    """Append, hide, drop and search in any order, at the costliest setting, against brute force."""
    pool = make_vectors(3000, dim=8, seed=4)
    held, used, hidden = list(range(400)), 400, set()
    folder = tmp_path_factory.mktemp("life")
    index = VectorIndex.build(pool[:400], np.arange(400), folder, provenance={}, kind=kind, recall=0.5, queries=20)
    for _ in range(data.draw(st.integers(1, 4))):
        action = data.draw(st.sampled_from(["append", "hide", "drop"]))
        if action == "append":
            new = list(range(used, used + data.draw(st.sampled_from([1, 30, 600]))))
            index.append(pool[new], np.array(new))
            held, used = held + new, new[-1] + 1
        else:
            chosen = data.draw(st.lists(st.sampled_from(held), max_size=20, unique=True))
            if action == "hide":
                hidden |= set(chosen)
            else:
                index.drop(np.array(chosen, np.int64))
                held = [i for i in held if i not in set(chosen)]
                hidden -= set(chosen)
        costliest = SearchParameters(nprobe=10**6, k_factor=64)
        seen = np.array([i for i in held if i not in hidden])
        queries = make_vectors(3, dim=8, seed=used)
        view = VectorIndex.open(folder).hiding(np.array(sorted(hidden), np.int64))
        scores, ids = view.search(queries, 10, parameters=costliest)
        expected = exact_search(pool, queries, 10, rows=seen)
        np.testing.assert_array_equal(scores, expected[0])
        np.testing.assert_array_equal(ids, expected[1])


def _search_until(folder: Path, queries: np.ndarray, stop: threading.Event, found: list) -> None:
    while not stop.is_set():
        try:
            found.append(VectorIndex.open(folder).search(queries, 10)[1].shape)
        except Exception as error:
            found.append(error)


def test_readers_go_on_while_it_grows(
    vectors: np.ndarray, make_vectors: MakeVectors, queries: np.ndarray, tmp_path: Path
) -> None:
    index = build(vectors, tmp_path, kind="ivf-sq8")
    stop, found = threading.Event(), []
    reader = threading.Thread(target=_search_until, args=(tmp_path, queries, stop, found))
    reader.start()
    for step in range(3):
        index.append(make_vectors(700, seed=40 + step), np.arange(700) + 1000 * step)
    index.drop(np.arange(700))
    stop.set()
    reader.join()
    assert set(found) == {(40, 10)}
