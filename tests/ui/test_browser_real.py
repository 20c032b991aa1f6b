"""The explorer on real spectra in a real browser: uploads of every layout, and each page's main path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit")
pytest.importorskip("playwright.sync_api")
pytest.importorskip("umap")

from browsing import BROWSER, Visit, served

from indexer import IngestSettings, build_index
from indexer.map_embed import MapSettings, embed_map
from specdb.anomaly import AnomalySettings, run_anomalies
from specdb.database import open_database

pytestmark = [
    pytest.mark.browser,
    pytest.mark.shared,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium"),
]

LABELS = "SELECT spectrum_id, teff, logg FROM lasp"


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety stars of LAMOST DR10 with labels, two heads, scores and a map; symbiotic stars as Gaia saw them."""
    folder = tmp_path_factory.mktemp("real") / "db"
    settings = IngestSettings(workers=0)
    build_index(folder, "lamost", [shared / "lamost_dr10_afg" / "fits"], ingest_settings=settings)
    build_index(folder, "gaia-xp", [shared / "gaia_xp_pn_symbiotic" / "symbiotic.npz"], ingest_settings=settings)
    db = open_database(folder)
    db.add_labels(shared / "lamost_dr10_afg" / "labels.csv", "lasp", id="obsid")
    for name, inputs in (("one", "shared"), ("other", "both")):
        db.train_head(name, LABELS, kind="ridge", inputs=inputs)
    run_anomalies(db, "lamost_lrs", AnomalySettings(methods=("knn_distance", "neighbour_residual", "feature")))
    embed_map(db, "lamost_lrs", MapSettings(sample=90, neighbours=10))
    return folder


@pytest.fixture(scope="module")
def address(real: Path) -> Iterator[str]:
    with served(real) as base:
        yield base


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield Visit(page, address)
    page.close()


#: Where a file of each layout lies, and the tab that shows it has been understood.
LAYOUTS = {
    "LAMOST A": ("lamost_dr1_classes/*.fits.gz", "lamost_lrs"),
    "LAMOST B": ("lamost_dr8_repeat/*.fits.gz", "lamost_lrs"),
    "LAMOST C": ("lamost_dr10_afg/fits/type_F/*.fits.gz", "lamost_lrs"),
    "Gaia XP": ("gaia_xp_pn_symbiotic/raw_examples/*.csv", "gaia_xp"),
    "SDSS": ("sdss_stellar/*", "lamost_lrs"),
}


def test_a_file_of_each_layout_can_be_dropped_in(visit: Visit, shared: Path, tmp_path: Path) -> None:
    visit.open("star", "Star")
    visit.page.get_by_text("upload", exact=True).click()
    for layout, (pattern, modality) in LAYOUTS.items():
        file = sorted(shared.glob(pattern))[0]
        visit.upload(file)
        visit.page.get_by_role("heading", name=file.name).wait_for()
        visit.tab(f"Neighbours in {modality}")
        visit.see("measured recall")
        visit.settle()
        visit.shot(f"real-upload-{layout.replace(' ', '-')}")
    cut = tmp_path / "cut.fits.gz"
    cut.write_bytes(sorted(shared.glob("lamost_dr8_repeat/*.fits.gz"))[0].read_bytes()[:9000])
    visit.upload(cut)
    visit.see("cut off")
    visit.upload(sorted(shared.glob("lamost_misc/mrs/*"))[0])
    visit.page.get_by_test_id("stAlert").first.wait_for()
    visit.clean()


def test_each_page_on_real_spectra(visit: Visit, real: Path) -> None:
    visit.open("explore?modality=lamost_lrs&colour=lasp: teff", "Explore")
    visit.click_the_map(40)
    visit.see("nearest neighbours")
    visit.shot("real-explore")
    visit.press("open the star's page")
    visit.tab("Neighbours in gaia_xp")
    visit.see("measured recall")
    visit.shot("real-cross-modal")
    visit.tab("Labels and scores")
    visit.see("how unusual it is")
    visit.shot("real-labels")
    visit.open("anomalies?modality=lamost_lrs", "Anomalies")
    visit.see("1 of 90")
    visit.shot("real-anomalies")
    visit.open("parameters?head=one&with=other&label=teff", "Parameters")
    visit.see("on the same")
    visit.shot("real-parameters")
    visit.tab("Encoders")
    report = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "evaluation" / "evaluation.json"
    visit.upload(report)
    visit.page.get_by_role("heading", name="retrieval").wait_for()
    visit.shot("real-encoders")
    visit.open(
        "sql?q=SELECT+lamost_lrs.subclass,count(*)+AS+n,median(teff)+AS+teff+FROM+lamost_lrs+JOIN+lasp+USING+(spectrum_id)+GROUP+BY+ALL",
        "SQL",
    )
    visit.see("rows")
    visit.open("database", "What did not get in")
    visit.see("embedded")
    visit.shot("real-database")
    assert str(real.parent) not in visit.page.content()
    visit.clean()
