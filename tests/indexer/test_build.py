"""`build_index` with the shipped encoder on files of the survey's own format: end to end, killed, extended."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import indexer
import specdb
from indexer.simulate import LamostSurvey
from specdb.errors import LockError
from specdb.store import Store, read_table

KILLED = -signal.SIGKILL


def build(db: Path, *inputs: Path, **changes: object) -> indexer.BuildReport:
    settings = indexer.IngestSettings(**{"workers": 0, "part_records": 16, "window": 8, **changes})  # type: ignore[arg-type]
    return indexer.build_index(db, "lamost", inputs, ingest_settings=settings)


def rows(db: Path) -> tuple[pa.Table, pa.Table, list[dict]]:
    """Return all spectra, all embeddings and all rejected rows, without the paths of the files."""
    store = Store.open(db)

    def whole(parts: list[str]) -> pa.Table:
        return pa.concat_tables([read_table(store.root / part) for part in parts])

    spectra = whole(store.spectra_parts("lamost_lrs"))
    embeddings = whole(store.embedding_parts(store.default_encoder, "lamost_lrs"))
    return spectra, embeddings, store.rejected("lamost_lrs").to_pylist()


@pytest.fixture(scope="module")
def undisturbed(survey: LamostSurvey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    db = tmp_path_factory.mktemp("undisturbed") / "db"
    build(db, survey.spectra)
    return db


def test_every_file_is_accounted_for(survey: LamostSurvey, undisturbed: Path) -> None:
    db = specdb.open(undisturbed)
    status = db.status()["modalities"]["lamost_lrs"]
    assert status["spectra"] + sum(status["rejected"].values()) == survey.n_spectra + survey.n_broken
    failed = Counter({k: n for k, n in status["rejected"].items() if k.startswith("failed")})
    assert failed == Counter({f"failed: {r}": 1 for r in ("truncated", "empty_file", "bad_flux", "no_valid_pixels")})
    assert db.verify() == []


def test_repeat_visits_are_found(survey: LamostSurvey, undisturbed: Path) -> None:
    db = specdb.open(undisturbed)
    truth = survey.catalogue()
    star = dict(zip(truth["spectrum_id"].to_pylist(), truth["star"].to_pylist(), strict=True))
    visits = Counter(star[i] for i in db.store.ids("lamost_lrs").tolist())
    repeated = [i for i in db.store.ids("lamost_lrs").tolist() if visits[star[i]] > 1][:20]
    found = [star[i] in [star[j] for j in db.search(i, k=10).ids.tolist()] for i in repeated]
    assert np.mean(found) > 0.7


def test_a_file_is_answered_like_its_row(survey: LamostSurvey, undisturbed: Path) -> None:
    db = specdb.open(undisturbed)
    spectrum_id = int(db.store.ids("lamost_lrs")[3])
    path = db.spectra([spectrum_id])["source_file"][0].as_py()
    by_id, by_file = db.search(spectrum_id, k=5), db.search(path, k=5)
    assert by_id.ids.tolist() == by_file.ids.tolist()
    np.testing.assert_allclose(by_id.scores, by_file.scores, atol=1e-5)
    assert spectrum_id not in by_id.ids
    assert db.search(spectrum_id, k=5, exclude="none").ids[0] == spectrum_id


def test_files_added_later_extend_the_index(survey: LamostSurvey, undisturbed: Path, tmp_path: Path) -> None:
    files = sorted(survey.spectra.rglob("*.fits.gz"))
    for name, some in (("first", files[::2]), ("second", files[1::2])):
        (tmp_path / name).mkdir()
        for file in some:
            shutil.copy(file, tmp_path / name)
    db = tmp_path / "db"
    first = build(db, tmp_path / "first")
    second = build(db, tmp_path / "first", tmp_path / "second")
    assert first.index is not None
    assert second.index is not None
    assert (first.index.action, second.index.action) == ("built", "extended")
    assert second.ingest.known == len(files[::2])
    assert second.ingest.accepted == len(second.index.index) - len(first.index.index)
    assert build(db, tmp_path / "second").index.action == "unchanged"  # type: ignore[union-attr]
    assert set(Store.open(db).ids("lamost_lrs")) == set(Store.open(undisturbed).ids("lamost_lrs"))
    # The extended index answers like one that was built at once.
    query = int(Store.open(db).ids("lamost_lrs")[0])
    together, extended = specdb.open(undisturbed).search(query), specdb.open(db).search(query)
    np.testing.assert_allclose(extended.scores, together.scores, atol=1e-6)


def test_reader_processes_give_the_same_rows(survey: LamostSurvey, undisturbed: Path, tmp_path: Path) -> None:
    build(tmp_path / "db", survey.spectra, workers=2)
    assert rows(tmp_path / "db") == rows(undisturbed)


def _start(db: Path, files: Path) -> subprocess.Popen:
    options = ["--db", str(db), "--part-size", "16", "--workers", "1", "--quiet"]
    command = [sys.executable, "-m", "specdb", "build-index", "lamost", str(files), *options]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)


def _kill_at_random(db: Path, files: Path, parts: int, seconds: float) -> int:
    """Run the command, wait until so many more parts lie there, and a little; kill it and its readers; return the status."""

    def count() -> int:
        return len(list(db.glob("spectra/*/part-*.parquet")))

    enough = count() + parts
    process = _start(db, files)
    while (count() < enough or not (db / "lock.json").exists()) and process.poll() is None:
        time.sleep(0.002)  # imports are not what we want to interrupt
    time.sleep(seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _killed_often(db: Path, files: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    killed = 0
    for _ in range(kills):
        killed += _kill_at_random(db, files, rng.randint(0, 2), rng.uniform(0, 0.05)) == KILLED
    assert killed, "every run ended before it was killed; the test shows nothing"
    assert _start(db, files).wait() == 0


def _window_of_the_command(tmp_path: Path, files: Path) -> Path:
    db = tmp_path / "whole"
    indexer.build_index(db, "lamost", [files], ingest_settings=indexer.IngestSettings(workers=0, part_records=16, window=16))
    return db


def test_killed_by_sigkill_it_goes_on_to_the_same_rows(survey: LamostSurvey, tmp_path: Path) -> None:
    _killed_often(tmp_path / "db", survey.spectra, kills=2, seed=0)
    assert rows(tmp_path / "db") == rows(_window_of_the_command(tmp_path, survey.spectra))
    assert specdb.open(tmp_path / "db").verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_very_often_it_goes_on_to_the_same_rows(survey: LamostSurvey, tmp_path: Path, seed: int) -> None:
    _killed_often(tmp_path / "db", survey.spectra, kills=6, seed=seed)
    assert rows(tmp_path / "db") == rows(_window_of_the_command(tmp_path, survey.spectra))
    assert specdb.open(tmp_path / "db").verify() == []


def test_a_script_without_a_guard_works(survey: LamostSurvey, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    many = [str(survey.spectra)] * 10  # enough sources for reader processes, though most are known when they come again
    script.write_text(
        "import indexer\n"
        "import indexer.reading\n"
        "indexer.reading._FEW = 1\n"
        "print('once')\n"
        f"report = indexer.build_index({str(tmp_path / 'db')!r}, 'lamost', {many!r})\n"
        "print(report.ingest.accepted)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "once"
    assert done.stdout.count("once") == 1


def test_two_writers_at_once(survey: LamostSurvey, undisturbed: Path) -> None:
    with Store.open(undisturbed).writing(), pytest.raises(LockError, match="is being written by process"):
        build(undisturbed, survey.spectra)


@pytest.mark.shared
def test_all_real_lamost_files_in_one_go(shared: Path, tmp_path: Path) -> None:
    db = tmp_path / "db"
    folders = sorted(shared.glob("lamost_*"))
    report = indexer.build_index(db, "lamost", folders).ingest
    assert report.records == report.sources == 495
    assert report.failed == 0
    assert report.reasons["other_instrument"] == 1  # the medium-resolution file
    assert report.reasons["not_a_spectrum"] == 5  # catalogues and packed arrays beside the spectra
    assert report.accepted >= 480
    opened = specdb.open(db)
    assert opened.verify() == []
    groups = np.genfromtxt(
        shared / "lamost_dr8_repeat" / "groups.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    group = dict(zip(groups["combined_obsid"].tolist(), groups["GroupID"].tolist(), strict=True))
    ids = [i for i in opened.store.ids("lamost_lrs").tolist() if i in group]
    sizes = Counter(group[i] for i in ids)
    repeated = [i for i in ids if sizes[group[i]] > 1]
    found = [group[i] in [group.get(j) for j in opened.search(i, k=10).ids.tolist()] for i in repeated]
    assert np.mean(found) > 0.8
