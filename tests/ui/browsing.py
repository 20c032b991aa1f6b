"""What browser tests share: the explorer served for real, and visits that note errors and every request."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 180_000  # machines that run tests are busy


@contextmanager
def served(db: Path) -> Iterator[str]:
    """Serve a database by `specdb ui`, and yield the address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "specdb", "ui", "--db", str(db), "--port", str(port), "--headless"]
    # No hub of a desktop on the tester's machine may be spoken to.
    environment = dict(os.environ) | {"SAMP_HUB": f"std-lockurl:file://{db}/no-hub"}
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, env=environment
    )
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(900):
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
        page.set_default_timeout(PATIENCE_MS)
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

    def see(self, text: str) -> None:
        """Wait for a text where it can be seen: tabs that are not open hold text, too."""
        self.page.get_by_text(text).locator("visible=true").first.wait_for()

    def tab(self, name: str) -> None:
        """Go to a tab."""
        self.page.get_by_role("tab", name=name).click()

    def press(self, name: str) -> None:
        """Press a button."""
        self.page.get_by_role("button", name=name).first.click()

    def upload(self, path: Path) -> None:
        """Hand a file to the first uploader of the page."""
        chooser = self.page.locator('input[type="file"]').first
        chooser.wait_for(state="attached")
        chooser.set_input_files(str(path))

    def download(self, name: str) -> bytes:
        """Press a download button, and return what comes."""
        with self.page.expect_download() as waiting:
            self.press(name)
        return Path(waiting.value.path()).read_bytes()

    def click_the_map(self, point: int = 0, trace: int = 0) -> None:
        """Click on one of the map's points; with a grey ground they are the second trace."""
        self.page.wait_for_selector(".stPlotlyChart .nsewdrag")
        self.page.wait_for_timeout(500)
        x, y = self.page.evaluate(
            """([i, trace]) => {
              const plot = document.querySelector('.js-plotly-plot'), box = plot.getBoundingClientRect();
              const {xaxis, yaxis} = plot._fullLayout, points = plot._fullData[trace];
              return [box.left + xaxis._offset + xaxis.l2p(points.x[i]), box.top + yaxis._offset + yaxis.l2p(points.y[i])];
            }""",
            [point, trace],
        )
        self.page.mouse.move(x, y)
        self.page.wait_for_timeout(400)
        self.page.mouse.click(x, y)

    def shot(self, name: str) -> None:
        """Keep a picture in the test artefacts, which git ignores."""
        folder = Path(__file__).parent / "artefacts"
        folder.mkdir(exist_ok=True)
        (folder / ".gitignore").write_text("*\n")
        self.page.screenshot(path=str(folder / f"{name}.png"))

    def clean(self) -> None:
        """Check that nothing was asked of other machines, and nothing went wrong."""
        assert self.page.get_by_text("This did not work").count() == 0
        assert self.elsewhere == []
        assert self.errors == []
