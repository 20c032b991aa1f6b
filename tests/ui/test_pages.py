"""The pages' logic without a browser, by Streamlit's AppTest."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("streamlit")
from streamlit.testing.v1 import AppTest

from specdb.database import open_database
from specdb.store import Store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "search"))
from two_modalities import TwoModalities, build_two_modalities

PAGES = ("explore", "star", "anomalies", "sql", "parameters", "database")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> TwoModalities:
    return build_two_modalities(tmp_path_factory.mktemp("ui"), 12)


def _page(name: str, db: Path, monkeypatch: pytest.MonkeyPatch, **query: str) -> AppTest:
    """Run one page as the app does, without the navigation, which AppTest does not follow."""
    monkeypatch.setenv("SPECDB_UI_DB", str(db))

    def script(page: str) -> None:
        import importlib

        from ui.shell import guarded

        function = {"sql": "sql_page", "database": "database_page"}.get(page, page)
        guarded(getattr(importlib.import_module(f"ui.views.{page}"), function))()

    app = AppTest.from_function(script, args=(name,), default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    return app.run()


def _text(app: AppTest) -> str:
    return " ".join(str(e.value) for kind in (app.info, app.error, app.warning, app.caption, app.markdown) for e in kind)


@pytest.mark.parametrize("name", PAGES)
def test_an_empty_database_says_which_command_fills_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.create(tmp_path / "db", "specclip-mini")
    app = _page(name, tmp_path / "db", monkeypatch)
    assert not app.exception
    assert "specdb " in _text(app)


@pytest.mark.parametrize(
    ("name", "command"),
    [("explore", "specdb map embed"), ("anomalies", "specdb anomalies"), ("parameters", "specdb heads train")],
)
def test_what_is_missing_names_its_command(
    name: str, command: str, demo: TwoModalities, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = _page(name, demo.db, monkeypatch)
    assert not app.exception
    assert command in _text(app)
    assert str(demo.db.parent) not in _text(app)


def test_a_star_shows_neighbours_in_both_modalities(demo: TwoModalities, monkeypatch: pytest.MonkeyPatch) -> None:
    obsid = demo.pairs[0][0]
    app = _page("star", demo.db, monkeypatch, id=str(obsid), modality="lamost_lrs")
    assert not app.exception
    assert not app.error, _text(app)
    tabs = [tab.label for tab in app.tabs]
    assert "Neighbours in lamost_lrs" in tabs
    assert "Neighbours in gaia_xp" in tabs
    assert f"specdb search {obsid}" in app.code[0].value


def test_an_unknown_star_is_one_line(demo: TwoModalities, monkeypatch: pytest.MonkeyPatch) -> None:
    app = _page("star", demo.db, monkeypatch, id="999999", modality="lamost_lrs")
    assert not app.exception
    assert "999999" in app.error[0].value


def test_sql_answers_and_refuses_files(demo: TwoModalities, monkeypatch: pytest.MonkeyPatch) -> None:
    app = _page("sql", demo.db, monkeypatch, q="SELECT spectrum_id, ra, dec, snr FROM lamost_lrs")
    assert not app.exception
    assert not app.error, _text(app)
    assert "12 rows" in _text(app)
    app = _page("sql", demo.db, monkeypatch, q="SELECT * FROM read_csv('/etc/passwd')")
    assert len(app.error) == 1
    assert "root:" not in _text(app)


def test_the_database_page_shows_certificates(demo: TwoModalities, monkeypatch: pytest.MonkeyPatch) -> None:
    app = _page("database", demo.db, monkeypatch)
    assert not app.exception
    assert any("recall" in str(frame.value) for frame in app.dataframe)
    assert str(demo.db.parent) not in _text(app)


def test_a_shared_explorer_asks_for_its_token(demo: TwoModalities, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECDB_UI_DB", str(demo.db))
    monkeypatch.setenv("SPECDB_UI_TOKEN", "right")
    entry = Path(__file__).resolve().parents[2] / "ui" / "app.py"
    app = AppTest.from_file(str(entry), default_timeout=120)
    app.query_params["token"] = "wrong"
    assert "token" in app.run().error[0].value
    app = AppTest.from_file(str(entry), default_timeout=120)
    app.query_params["token"] = "right"
    app.run()
    assert not app.exception
    assert not app.error


def test_the_map_is_repeatable_and_shown(demo: TwoModalities, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("umap")
    from indexer.map_embed import MapSettings, embed_map
    from ui.maps import read_map

    db = open_database(demo.db)
    settings = MapSettings(sample=10, neighbours=4)
    assert embed_map(db, "lamost_lrs", settings) == 12
    first = read_map(db, "lamost_lrs")
    embed_map(db, "lamost_lrs", settings)
    second = read_map(db, "lamost_lrs")
    assert (first.x == second.x).all() and (first.y == second.y).all()
    app = _page("explore", demo.db, monkeypatch, modality="lamost_lrs")
    assert not app.exception
    assert not app.error, _text(app)
    assert app.metric[0].value == "12"


def test_the_map_shows_a_choice_and_a_spectrum(demo: TwoModalities, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("umap")
    from indexer.map_embed import MapSettings, embed_map

    embed_map(open_database(demo.db), "lamost_lrs", MapSettings(sample=12, neighbours=4))
    star = demo.pairs[0][0]
    question = f"SELECT spectrum_id FROM lamost_lrs WHERE spectrum_id <> {star} LIMIT 7"
    app = _page("explore", demo.db, monkeypatch, modality="lamost_lrs", q=question, star=str(star))
    assert not app.exception
    assert not app.error, _text(app)
    assert app.metric[0].value == "7"
    assert any(str(star) == title.value for title in app.subheader)
    assert "nearest neighbours" in _text(app)
    next(b for b in app.button if b.label == "show the others, too").click()
    assert app.run().metric[0].value == "12"
    app = _page("explore", demo.db, monkeypatch, modality="lamost_lrs", where="snr > 1e9")
    assert "Nothing in view" in _text(app)
    app = _page("explore", demo.db, monkeypatch, modality="lamost_lrs", where="pg_sleep(9)")
    assert "comparisons" in app.error[0].value
    app = _page("explore", demo.db, monkeypatch, modality="lamost_lrs", q="SELECT 1 AS one", window="nan,1,2,3", range="x")
    assert "no column spectrum_id" in app.error[0].value


def test_questions_are_saved_used_and_forgotten(demo: TwoModalities, monkeypatch: pytest.MonkeyPatch) -> None:
    app = _page("sql", demo.db, monkeypatch, q="SELECT count(*) AS n FROM spectra")
    next(field for field in app.text_input if field.label == "save as").set_value("how many").run()
    next(button for button in app.button if button.label == "Save").click()
    assert not app.run().error, _text(app)
    app = _page("sql", demo.db, monkeypatch)
    assert "how many" in _text(app)
    app.button(key="use-how many").click()
    app.run()
    assert "1 rows" in _text(app)
    app.button(key="forget-how many").click()
    app.run()
    assert "how many" not in _text(_page("sql", demo.db, monkeypatch))


def test_two_heads_and_two_reports_stand_side_by_side(demo: TwoModalities, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from specdb.database import Database
    from specdb.heads import HeadEvaluation

    def judged(db: Database, name: str) -> HeadEvaluation:
        rng = np.random.default_rng(len(name))
        truth = np.linspace(4000, 9000, 40)[:, None]
        mean, sigma = truth + 100 * rng.normal(size=truth.shape), np.full(truth.shape, 100.0)
        pit = rng.uniform(size=truth.shape)
        ids = np.arange(40) + (name == "other")  # one spectrum of each is not among the other's
        return HeadEvaluation(name, "40 stars", ("teff",), ids, truth, mean, sigma, np.full(40, 50.0), pit)

    monkeypatch.setattr("ui.views.parameters.list_heads", lambda store: ["one", "other"])
    monkeypatch.setattr(Database, "evaluate_head", judged)
    folder = demo.db / "evaluations" / "mine"
    folder.mkdir(parents=True)
    report = {
        "encoder": "tiny",
        "sections": {"labels": {"tiny": {"teff": {"sigma": 90.5}}, "pixels": {"teff": {"sigma": 200}}}},
    }
    (folder / "evaluation.json").write_text(json.dumps(report))
    app = _page("parameters", demo.db, monkeypatch, head="one", **{"with": "other"})
    assert not app.exception
    assert not app.error, _text(app)
    assert any(title.value == "teff by one and other, on the same 39 spectra" for title in app.subheader)
    figures = next(frame.value for frame in app.dataframe if "one" in frame.value.columns)
    assert "scatter (biweight)" in figures["figure"].tolist()
    assert any("mine" in frame.value.columns and frame.value["mine"].tolist() == [90.5] for frame in app.dataframe)


def test_marks_are_kept_and_the_queue_goes_on(demo: TwoModalities, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np
    import pyarrow as pa

    from specdb.anomaly import latest_marks

    db = open_database(demo.db)
    ids = db.store.ids("gaia_xp")
    p = np.linspace(0.001, 0.9, len(ids))
    table = pa.table(
        {"spectrum_id": ids, "score": -np.log10(p), "p_value": p, "knn_distance": 1 - p, "knn_distance_p": p,
         "reason": pa.array([None] * len(ids), pa.string())}
    )  # fmt: skip
    with db.store.writing() as writer:
        writer.put("anomalies/gaia_xp.parquet", table, {"made_by": "test"})
    app = _page("anomalies", demo.db, monkeypatch, modality="gaia_xp")
    assert not app.exception
    assert not app.error, _text(app)
    assert f"1 of {len(ids)}: {ids[0]}" in app.subheader[0].value
    next(field for field in app.text_input if field.label == "note").set_value("odd")
    next(button for button in app.button if button.label == "accept").click()
    app.run()
    assert not app.error, _text(app)
    assert f"1 of {len(ids) - 1}" in app.subheader[0].value
    mark = latest_marks(db, "gaia_xp")[int(ids[0])]
    assert (mark.mark, mark.note) == ("accept", "odd")
