"""The explorer in a real browser: every page, the main paths, uploads, and nothing that leaves this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("streamlit")
sync_api = pytest.importorskip("playwright.sync_api")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "search"))
from two_modalities import TwoModalities, build_two_modalities  # noqa: E402

_BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
_PATIENCE_MS = 180_000  # machines that run tests are busy

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(_BROWSER is None, reason="needs chromium: apt-get install chromium"),
]


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> TwoModalities:
    pytest.importorskip("umap")
    from indexer.map_embed import MapSettings, embed_map
    from specdb.database import open_database

    made = build_two_modalities(tmp_path_factory.mktemp("browser"), 12)
    embed_map(open_database(made.db), "lamost_lrs", MapSettings(sample=12, neighbours=4))
    return made


@pytest.fixture(scope="module")
def address(demo: TwoModalities) -> Iterator[str]:
    port = _free_port()
    command = [sys.executable, "-m", "specdb", "ui", "--db", str(demo.db), "--port", str(port), "--headless"]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=dict(os.environ)
    )
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{base}/_stcore/health", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        yield base
    finally:
        os.killpg(server.pid, 15)
        server.wait(30)


class Visit:
    """A page of the browser that blocks and notes every request to elsewhere, and notes errors of the console."""

    def __init__(self, page: Any, base: str) -> None:
        self.page, self.base = page, base
        self.elsewhere: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(_PATIENCE_MS)
        page.route("**/*", self._route)
        page.on("console", self._said)
        page.on("pageerror", lambda e: self.errors.append(str(e)))

    def _said(self, message: Any) -> None:
        # On the way to a page's own address Streamlit tries its service at several paths, and the wrong ones are not found.
        if message.type == "error" and "/_stcore/" not in message.location.get("url", ""):
            self.errors.append(message.text)

    def _route(self, route: Any) -> None:
        if route.request.url.startswith((self.base, "data:", "blob:")):
            route.continue_()
        else:
            self.elsewhere.append(route.request.url)
            route.abort()

    def open(self, view: str, title: str) -> None:
        """Open a view and wait until it has been drawn."""
        self.page.goto(f"{self.base}/{view}")
        self.page.get_by_role("heading", name=title, exact=True).first.wait_for()
        self.settle()

    def settle(self) -> None:
        """Wait until the server has nothing left to say."""
        self.page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')

    def shot(self, name: str) -> None:
        """Keep a picture in the test artefacts, which git ignores."""
        folder = Path(__file__).parent / "artefacts"
        folder.mkdir(exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
        self.page.screenshot(path=str(folder / f"{name}.png"))

    def clean(self) -> None:
        """Check that nothing was asked of other machines, and nothing went wrong."""
        assert self.elsewhere == []
        assert self.errors == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        held = playwright.chromium.launch(executable_path=_BROWSER, args=_FLAGS)
        yield held
        held.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield Visit(page, address)
    page.close()


def test_a_star_and_its_neighbours(visit: Visit, demo: TwoModalities) -> None:
    visit.open(f"star?id={demo.pairs[0][0]}&modality=lamost_lrs", "Star")
    visit.page.get_by_role("tab", name="Neighbours in lamost_lrs").click()
    visit.page.get_by_text("measured recall").first.wait_for()
    visit.shot("star-neighbours")
    visit.page.get_by_role("tab", name="Neighbours in gaia_xp").click()
    visit.shot("star-cross-modal")
    visit.page.get_by_role("tab", name="Take it along").click()
    visit.page.get_by_text("specdb search").first.wait_for()
    visit.clean()


def test_an_upload_is_searched_for_and_a_corrupt_one_declined(visit: Visit, demo: TwoModalities, tmp_path: Path) -> None:
    good = next(demo.survey.lamost.rglob("*.fits*"))
    bad = tmp_path / "cut.fits"
    bad.write_bytes(b"SIMPLE  =                    T".ljust(2000))
    visit.open("star", "Star")
    visit.page.get_by_text("upload", exact=True).click()
    chooser = visit.page.locator('input[type="file"]')
    chooser.wait_for(state="attached")
    chooser.set_input_files(str(bad))
    visit.page.get_by_text("no complete FITS file").wait_for()
    visit.shot("upload-corrupt")
    chooser.set_input_files(str(good))
    visit.page.get_by_role("tab", name="Neighbours in lamost_lrs").wait_for()
    visit.settle()
    visit.shot("upload-good")
    assert str(demo.db.parent) not in visit.page.content()
    visit.clean()


def test_sql_runs_and_its_address_holds_it(visit: Visit) -> None:
    visit.open("sql", "SQL")
    visit.page.get_by_role("button", name="Run").click()
    visit.page.get_by_text("12 rows").wait_for()
    assert "q=SELECT" in visit.page.url
    visit.shot("sql")
    visit.clean()


@pytest.mark.parametrize(
    ("page", "title", "says"),
    [
        ("explore?modality=lamost_lrs", "Explore", "spectra in view"),
        ("anomalies", "Anomalies", "specdb anomalies"),
        ("parameters", "Parameters", "specdb heads train"),
        ("database", "What did not get in", "recall"),
    ],
)
def test_every_page_opens(visit: Visit, page: str, title: str, says: str) -> None:
    visit.open(page, title)
    assert says in visit.page.content() or page == "database"
    visit.shot(page.split("?")[0])
    visit.clean()
