"""The explorer in a real browser: the main path of every page on simulated pairs and on what `specdb demo` makes."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

pytest.importorskip("streamlit")
pytest.importorskip("playwright.sync_api")

from browsing import BROWSER, Visit, served
from click.testing import CliRunner
from two_modalities import TwoModalities, build_two_modalities

from specdb.anomaly import latest_marks
from specdb.anomaly.deviations import deviation_table, deviations_path
from specdb.anomaly.features import Peak
from specdb.catalog.crossmatch import pairs_path
from specdb.catalog.saved import saved_queries
from specdb.database import open_database
from specdb.spectra import get_modality

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TwoModalities:
    """Two modalities with maps, a pair, and scores whose strongest has an explained feature."""
    pytest.importorskip("umap")
    from indexer.map_embed import MapSettings, embed_map

    made = build_two_modalities(tmp_path_factory.mktemp("browser"), 12)
    db = open_database(made.db)
    embed_map(db, "lamost_lrs", MapSettings(sample=12, neighbours=4))
    ids = db.store.ids("gaia_xp")
    p = np.linspace(0.001, 0.9, len(ids))
    scores = {"spectrum_id": ids, "score": -np.log10(p), "p_value": p, "knn_distance": 1 - p, "knn_distance_p": p}
    reasons = pa.array(["emission at H-alpha: +14 sigma", *[None] * (len(ids) - 1)], pa.string())
    pair = {
        "lamost_lrs": [made.pairs[0][0]],
        "gaia_xp": [made.pairs[0][1]],
        "separation_arcsec": [0.1],
        "method": ["position"],
    }
    grid = get_modality("gaia_xp").wavelength
    peak = Peak(14.0, float(np.interp(6564.6, grid, np.arange(len(grid)))), 3.0)
    with db.store.writing() as writer:
        writer.put("anomalies/gaia_xp.parquet", pa.table(scores).append_column("reason", reasons), {"made_by": "test"})
        writer.put(deviations_path("gaia_xp"), deviation_table([int(ids[0])], [[peak]], grid, "gaia_xp"), {})
        writer.put(pairs_path("lamost_lrs", "gaia_xp"), pa.table(pair), {})
    return made


@pytest.fixture(scope="module")
def address(made: TwoModalities) -> Iterator[str]:
    with served(made.db) as base:
        yield base


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield Visit(page, address)
    page.close()


def test_a_click_on_the_map_leads_to_the_star(visit: Visit) -> None:
    visit.open("explore?modality=lamost_lrs", "Explore")
    visit.see("Click a point")
    visit.click_the_map(3)
    visit.see("nearest neighbours")
    visit.shot("explore")
    star = visit.page.url.split("star=")[1].split("&")[0]
    visit.press("open the star's page")
    visit.page.get_by_role("heading", name="Star", exact=True).wait_for()
    visit.page.get_by_role("tab", name="Neighbours in lamost_lrs").wait_for()
    assert f"id={star}" in visit.page.url
    visit.clean()


def test_a_star_from_tab_to_tab(visit: Visit, made: TwoModalities) -> None:
    obsid, source = made.pairs[0]
    visit.open(f"star?id={obsid}&modality=lamost_lrs", "Star")
    visit.tab("Neighbours in lamost_lrs")
    visit.see("measured recall")
    visit.shot("star-neighbours")
    visit.tab("Neighbours in gaia_xp")
    visit.see(f"The star itself was observed here ({source})")
    visit.shot("star-observed-and-translated")
    visit.tab("Sky")
    visit.see("HEALPix cells")
    visit.shot("star-sky")
    visit.tab("Take it along")
    visit.see(f"specdb search {obsid}")
    assert visit.download("gaia_xp as VOTable").startswith(b"<?xml")
    assert visit.download("lamost_lrs as CSV").startswith(b'"rank","score","spectrum_id"')
    visit.page.get_by_text("make the card").click()
    assert visit.download("card as PNG").startswith(b"\x89PNG")
    assert visit.download("card as PDF").startswith(b"%PDF")
    visit.press("send to TOPCAT")
    visit.see("no SAMP hub is running")
    visit.clean()


def test_an_upload_is_searched_for_and_a_corrupt_one_declined(visit: Visit, made: TwoModalities, tmp_path: Path) -> None:
    good = next(made.survey.lamost.rglob("*.fits*"))
    bad = tmp_path / "cut.fits"
    bad.write_bytes(b"SIMPLE  =                    T".ljust(2000))
    visit.open("star", "Star")
    visit.page.get_by_text("upload", exact=True).click()
    visit.upload(bad)
    visit.see("no complete FITS file")
    visit.shot("upload-corrupt")
    visit.upload(good)
    visit.page.get_by_role("tab", name="Neighbours in lamost_lrs").wait_for()
    visit.settle()
    visit.shot("upload-good")
    assert str(made.db.parent) not in visit.page.content()
    visit.clean()


def test_anomalies_are_judged_by_key(visit: Visit, made: TwoModalities) -> None:
    db = open_database(made.db)
    first, second = (int(i) for i in db.store.ids("gaia_xp")[:2])
    visit.open("anomalies?modality=gaia_xp", "Anomalies")
    visit.see(f"1 of 12: {first}")
    visit.see("shaded, as it is not what similar spectra show")
    visit.shot("anomalies")
    visit.page.get_by_label("note").fill("odd indeed")
    visit.page.keyboard.press("Tab")  # a key is a letter while one writes, and a verdict after
    visit.settle()
    visit.page.get_by_role("heading", name="Anomalies").click()
    visit.page.keyboard.press("a")
    visit.see(f"1 of 11: {second}")
    visit.settle()
    visit.page.keyboard.press("x")
    visit.see("1 of 10:")
    found = latest_marks(db, "gaia_xp")
    assert (found[first].mark, found[first].note) == ("accept", "odd indeed")
    assert found[second].mark == "reject"
    assert visit.download("queue as VOTable").startswith(b"<?xml")
    visit.clean()


def test_sql_runs_is_saved_drawn_and_shown_on_the_map(visit: Visit, made: TwoModalities) -> None:
    visit.open("sql?q=SELECT+spectrum_id,ra,dec,snr,mjd+FROM+lamost_lrs+ORDER+BY+snr+LIMIT+5", "SQL")
    visit.see("5 rows")
    visit.page.get_by_label("save as").fill("low S/N")
    visit.page.keyboard.press("Tab")
    visit.settle()
    visit.press("Save")
    visit.see("saved questions (1)")
    assert "LIMIT 5" in saved_queries(open_database(made.db).store)["low S/N"]
    for kind in ("histogram", "scatter", "sky"):
        visit.page.get_by_role("radiogroup").get_by_text(kind, exact=True).click()
        visit.settle()
        visit.page.locator("img[alt^='map of the sky'], .js-plotly-plot").first.wait_for()
        visit.shot(f"sql-{kind}")
    visit.press("show on the map of lamost_lrs")
    visit.see("only what this question found")
    visit.click_the_map(2, trace=1)
    visit.see("nearest neighbours")
    assert visit.page.get_by_test_id("stMetricValue").inner_text() == "5"
    visit.shot("explore-of-sql")
    visit.clean()


def test_other_sites_cannot_use_a_visitors_browser(address: str) -> None:
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Origin": "https://evil.example",
    }
    for method, path, headers in (
        ("GET", "/_stcore/stream", handshake),
        ("PUT", "/_stcore/upload_file/session/file", {}),  # without the token that guards against forged requests
    ):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
        connection.request(method, path, headers=headers)
        assert connection.getresponse().status == 403
        connection.close()


def test_every_page_can_be_reached_by_keyboard(visit: Visit) -> None:
    visit.open("database", "What did not get in")
    reached = set()
    for _ in range(12):
        visit.page.keyboard.press("Tab")
        reached.add(visit.page.evaluate("document.activeElement.innerText"))
    assert {"Explore", "Star", "Anomalies", "SQL", "Parameters"} <= {text.strip().split("\n")[-1] for text in reached}
    visit.clean()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `specdb demo` makes, served."""
    from specdb.cli import cli

    folder = tmp_path_factory.mktemp("demo")
    run = CliRunner().invoke(cli, ["demo", str(folder), "--stars", "30"])
    assert run.exit_code == 0, run.output
    with served(folder / "db") as base:
        yield base


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_opens_on_the_demo(browser: Any, demo: str, theme: str) -> None:
    page = browser.new_context(viewport={"width": 1400, "height": 1000}, color_scheme=theme).new_page()
    visit = Visit(page, demo)
    for view, title, says in (
        ("", "specdb · db", "lamost_lrs spectra"),
        ("explore", "Explore", "specdb map embed"),
        ("star", "Star", "begin with one of these"),
        ("anomalies", "Anomalies", "specdb anomalies"),
        ("sql", "SQL", "tables and columns"),
        ("parameters", "Parameters", "specdb heads train"),
        ("database", "What did not get in", "embedded"),
    ):
        visit.open(view, title)
        visit.see(says)
        visit.shot(f"demo-{view or 'home'}-{theme}")
    if theme == "light":
        visit.open("star", "Star")
        page.get_by_role("button").filter(has_text="0").first.click()
        visit.tab("Neighbours in lamost_lrs")
        visit.see("measured recall")
        visit.open("sql", "SQL")
        visit.press("Run")
        visit.see("rows")
    visit.clean()
    page.close()
