"""Scores of a small simulated survey of pairs, stored, listed, explained and reviewed; and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from click.testing import CliRunner

import specdb
from specdb.anomaly import (
    SCORES,
    AnomalySettings,
    Mark,
    add_marks,
    anomaly_list,
    anomaly_table,
    deviations_of,
    latest_marks,
    read_marks,
    rerank,
    run_anomalies,
)
from specdb.anomaly.survey import Block, Survey
from specdb.catalog import add_labels
from specdb.cli import cli
from specdb.database import Database
from specdb.errors import DatabaseError, InputError, QueryError
from specdb.search import VectorIndex
from specdb.spectra import get_modality, metadata_table
from specdb.store import REJECTED, Batch, Store, embedding_table, spectra_table

N, ODD = 300, 17
HASH = "0" * 64
XP = get_modality("gaia_xp")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of 300 XP-like spectra in two parts; number 17 has an emission line at H alpha."""
    root = tmp_path_factory.mktemp("anomalies") / "db"
    store = Store.create(root, "specclip-mini")
    rng = np.random.default_rng(0)
    x = np.linspace(-1, 1, len(XP.wavelength))
    slope, sigma = rng.normal(size=(N, 1)), 0.01 * np.exp(0.5 * rng.normal(size=(N, 1)))
    flux = 1 + 0.2 * slope * x + sigma * rng.normal(size=(N, len(x)))
    flux[ODD] += 0.4 * np.exp(-0.5 * ((XP.wavelength - 6564.6) / 60) ** 2)
    angle = np.arctan(slope)
    vectors = np.hstack([np.cos(angle), np.sin(angle), 0.02 * rng.normal(size=(N, 6))]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = 1000 + np.arange(N)
    prepared = {
        "flux": flux.astype(np.float32),
        "ivar": np.broadcast_to(sigma**-2.0, flux.shape).astype(np.float32),
        "snr": (1 / sigma[:, 0]).astype(np.float32),
        "quality": np.zeros(N, np.int32),
        "n_repaired": np.zeros(N, np.int32),
    }
    with store.writing() as writer:
        for number, rows in enumerate((slice(0, 200), slice(200, N))):
            metadata = metadata_table(
                {"spectrum_id": ids[rows], "ra": np.linspace(1, 359, N)[rows], "dec": np.linspace(-80, 80, N)[rows]},
                XP.columns,
            )
            table = spectra_table(XP, metadata, {k: v[rows] for k, v in prepared.items()})
            embedded = embedding_table(ids[rows], {"shared": vectors[rows]}, {})
            made_by = ("specclip-mini", embedded, {"weight_hash": HASH})
            writer.commit_ingest(XP, Batch(number, table.num_rows), table, REJECTED.empty_table(), {}, made_by)
        provenance = {"modality": "gaia_xp", "encoder": "specclip-mini", "weight_hash": HASH}
        VectorIndex.build(vectors, ids, store.index_folder("specclip-mini", "gaia_xp"), provenance=provenance)
        writer.commit_index("specclip-mini", "gaia_xp", N, provenance)
    return root


@pytest.fixture
def db(made: Path, tmp_path: Path) -> Database:
    shutil.copytree(made, tmp_path / "db")
    return specdb.open(tmp_path / "db")


FAST = AnomalySettings(methods=("knn_distance", "local_reachability", "reconstruction", "neighbour_residual", "feature"))


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    return result.exit_code, result.output


def test_the_planted_line_comes_first_and_is_explained(db: Database) -> None:
    done = run_anomalies(db, "gaia_xp", FAST)
    assert (done.rows, done.used, done.skipped, done.reused) == (N, FAST.methods, {}, False)
    table = anomaly_table(db, "gaia_xp")
    assert table["spectrum_id"].to_pylist() == list(range(1000, 1000 + N))
    first = anomaly_list(db, "gaia_xp", 5).rows.to_pylist()[0]
    assert first["spectrum_id"] == 1000 + ODD
    assert first["p_value"] < 1e-4
    assert first["score"] == pytest.approx(-np.log10(first["p_value"]))
    assert first["reason"].startswith("emission at H-alpha: +")
    assert first["finder"].count(" ") == 5
    line = deviations_of(db, "gaia_xp", 1000 + ODD)[0]
    assert line.low < 6564.6 < line.high
    assert line.feature in first["reason"]
    strong = db.sql("SELECT spectrum_id, feature FROM deviations ORDER BY significance DESC LIMIT 1").rows.to_pylist()[0]
    assert strong == {"spectrum_id": 1000 + ODD, "feature": line.feature}
    assert {"knn_distance", "knn_distance_p", "feature", "feature_p", "ra", "dec", "magnitude"} <= set(first)


def test_the_same_again_is_not_computed_again_and_gives_the_same(db: Database) -> None:
    run_anomalies(db, "gaia_xp", FAST)
    before = anomaly_table(db, "gaia_xp")
    assert run_anomalies(db, "gaia_xp", FAST).reused
    other = AnomalySettings(methods=FAST.methods, combination="highest")
    assert not run_anomalies(db, "gaia_xp", other).reused
    run_anomalies(db, "gaia_xp", FAST)
    assert anomaly_table(db, "gaia_xp").equals(before)
    assert db.store.tables("scratch") == []


def test_an_interrupted_run_goes_on(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whole = Survey.part

    def part(self: Survey, number: int, first: int) -> Iterator[Block]:
        seen.append(number)
        if dying and seen.count(1) > calls_before_scores:
            raise KeyboardInterrupt
        return whole(self, number, first)

    monkeypatch.setattr(Survey, "part", part)
    # The sample reads both parts once; the second time round scores are computed.
    dying, calls_before_scores = True, 1
    with pytest.raises(KeyboardInterrupt):
        run_anomalies(db, "gaia_xp", FAST)
    assert len(db.store.tables("scratch")) == 1
    dying = False
    seen.clear()
    run_anomalies(db, "gaia_xp", FAST)
    assert anomaly_list(db, "gaia_xp", 1).rows["spectrum_id"].to_pylist() == [1000 + ODD]


def test_scores_that_lack_something_say_what(db: Database) -> None:
    wanted = AnomalySettings(methods=("knn_distance", "pair_disagreement", "translation_residual", "catalogue_disagreement"))
    skipped = run_anomalies(db, "gaia_xp", wanted).skipped
    assert skipped["pair_disagreement"] == "the database has no modality but gaia_xp"
    assert skipped["translation_residual"] == "the database has no modality but gaia_xp"
    assert skipped["catalogue_disagreement"] == "there are no predictions; `specdb heads predict` makes them"


def test_predictions_that_contradict_a_catalogue_are_found(db: Database, tmp_path: Path) -> None:
    ids = pa.array(1000 + np.arange(N))
    rng = np.random.default_rng(3)
    truth = rng.normal(5500, 500, N)
    predicted = truth + rng.normal(0, 100, N)
    predicted[5] += 3000
    pq.write_table(pa.table({"name": ids, "teff": truth}), tmp_path / "cat.parquet")
    add_labels(db.store, tmp_path / "cat.parquet", "cat", id="name")
    with db.store.writing() as writer:
        columns = {"spectrum_id": ids, "teff": predicted, "teff_sigma": np.full(N, 100.0)}
        writer.put("predictions/head.parquet", pa.table(columns), {})
    run_anomalies(db, "gaia_xp", AnomalySettings(methods=("catalogue_disagreement",)))
    assert anomaly_list(db, "gaia_xp", 1).rows["spectrum_id"].to_pylist() == [1005]


def test_deleted_spectra_are_not_scored(db: Database) -> None:
    with db.store.writing() as writer:
        writer.mark_deleted("gaia_xp", np.array([1000 + ODD]))
    done = run_anomalies(db, "gaia_xp", FAST)
    assert done.rows == N - 1
    assert 1000 + ODD not in anomaly_table(db, "gaia_xp")["spectrum_id"].to_pylist()


def test_marks_are_kept_and_teach(db: Database) -> None:
    run_anomalies(db, "gaia_xp", FAST)
    add_marks(db, "gaia_xp", [Mark(1000 + ODD, "accept", "nice line"), Mark(1001, "reject")])
    assert add_marks(db, "gaia_xp", [Mark(1001, "unsure")]) == "reviews/gaia_xp-00001.parquet"
    assert read_marks(db, "gaia_xp").num_rows == 3
    assert latest_marks(db, "gaia_xp")[1001].mark == "unsure"
    add_marks(db, "gaia_xp", [Mark(1002, "reject"), Mark(1003, "reject")])
    ranked = rerank(db, "gaia_xp").to_pylist()
    assert ranked[ODD]["interest"] > 0.5 > ranked[2]["interest"]
    assert ranked[ODD]["uncertainty"] == ranked[2]["uncertainty"] == -1
    assert anomaly_list(db, "gaia_xp", N).rows.num_rows == N - 2  # the rejected ones
    assert anomaly_list(db, "gaia_xp", N, rejected=True).rows.num_rows == N
    assert anomaly_list(db, "gaia_xp", 1, by_review=True).rows["mark"].to_pylist() == ["accept"]


def test_command_line(db: Database, tmp_path: Path) -> None:
    root, out = db.store.root, tmp_path / "list.ecsv"
    methods = [part for name in FAST.methods for part in ("--method", name)]
    code, text = run("anomalies", "gaia-xp", "--top", 3, "-o", out, "--db", root, *methods)
    assert code == 0, text
    assert Table.read(out)["spectrum_id"][0] == 1000 + ODD
    code, text = run("anomalies", "--db", root, "gaia-xp", "--top", 3, *methods)
    assert code == 0
    assert "emission at H-alpha" in text
    assert run("anomalies", "review", "gaia-xp", "--db", root, "--mark", 1001, "reject", "--note", "dull")[0] == 0
    code, text = run("anomalies", "review", "gaia-xp", "--db", root, "-o", tmp_path / "marks.csv")
    assert code == 0, text
    assert run("anomalies", "review", "gaia-xp", "--db", root, "--from", tmp_path / "marks.csv")[0] == 0
    assert read_marks(db, "gaia_xp").num_rows == 2
    code, text = run("anomalies", "review", "gaia-xp", "--db", root, "--next", 2, "--csv")
    assert text.splitlines()[1].startswith(str(1000 + ODD))


def test_bad_requests_are_clear_errors(db: Database, tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="gaia_xp has no anomaly scores yet"):
        anomaly_list(db, "gaia_xp")
    with pytest.raises(QueryError, match="no modality 'lamost_lrs'; it has gaia_xp"):
        run_anomalies(db, "lamost_lrs")
    with pytest.raises(InputError, match="no anomaly score is called 'magic'; scores are knn_distance"):
        run_anomalies(db, "gaia_xp", AnomalySettings(methods=("magic",)))
    with pytest.raises(InputError, match="no combination is called 'sum'"):
        run_anomalies(db, "gaia_xp", AnomalySettings(combination="sum"))
    with pytest.raises(QueryError, match="top is 0"):
        anomaly_list(db, "gaia_xp", 0)
    with pytest.raises(InputError, match="'great' is no mark; use one of accept, reject, unsure"):
        add_marks(db, "gaia_xp", [Mark(1001, "great")])
    with pytest.raises(QueryError, match="gaia_xp has no spectrum with the id 7; nothing was stored"):
        add_marks(db, "gaia_xp", [Mark(7, "accept")])
    with pytest.raises(InputError, match="there are no marks"):
        add_marks(db, "gaia_xp", [])
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    for arguments, message in (
        (("--mark", "x", "accept"), "'x' is no spectrum_id"),
        (("--note", "x"), "--note belongs to a --mark"),
        (("--from", tmp_path / "bad.csv"), "has no rows with the columns spectrum_id and mark"),
    ):
        code, text = run("anomalies", "review", "gaia-xp", "--db", db.store.root, *arguments)
        assert code != 0
        assert message in text


def test_every_score_describes_itself() -> None:
    for name, score in SCORES.items():
        assert score.name == name
        assert score.title
        assert set(score.needs) <= {"embedding", "spectra", "decoder", "pairs", "predictions"}
