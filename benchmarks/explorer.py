"""The explorer on a large database in a real browser: time to the map, a click to the neighbours, the server's memory.

    python benchmarks/explorer.py [--n 1000000] [--repeats 7] [--sessions 4] [--db DIR]

The database is simulated (clusters of embeddings on a map, XP-like spectra, labels, an index) and built through the same
commits as a real one, 4096 spectra a part. With --db it is kept there and used again. Needs chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import machine, write_results

import specdb
from indexer.indexing import update_index
from specdb.catalog import add_labels
from specdb.encoders import load_encoder
from specdb.spectra import get_modality, metadata_table
from specdb.store import REJECTED, Batch, Store, embedding_table, spectra_table

XP = get_modality("gaia_xp")
ENCODER, DIMENSION, PART = "specclip-mini", 128, 4096
CLUSTERS = 300
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]

#: The map is there once its points are drawn and nothing is left to come from the server.
DRAWN = """() => document.querySelector('.stPlotlyChart .gl-container canvas') && document.querySelector('.nsewdrag')
  && document.querySelector('[data-testid="stApp"]').dataset.testScriptState === 'notRunning'"""
#: Middles of some of the map's squares, in pixels of the window.
PLACES = """(count) => {
  const plot = document.querySelector('.js-plotly-plot'), layout = plot._fullLayout, box = plot.getBoundingClientRect();
  const points = plot._fullData[0], step = Math.floor(points.x.length / (count + 1));
  return Array.from({length: count}, (_, i) => (i + 1) * step).map(i => [
    box.left + layout.xaxis._offset + layout.xaxis.l2p(points.x[i]),
    box.top + layout.yaxis._offset + layout.yaxis.l2p(points.y[i])]);
}"""
#: The panel shows another spectrum with its neighbours.
ANOTHER = """(before) => {
  const title = [...document.querySelectorAll('h3')].map(e => e.innerText.trim()).find(t => /^-?\\d+$/.test(t));
  return title && title !== before && document.querySelectorAll('.stPlotlyChart .nsewdrag').length > 1
    && [...document.querySelectorAll('p')].some(e => e.innerText.startsWith('nearest neighbours')) ? title : false;
}"""


def build(folder: Path, n: int) -> dict[str, float]:
    """Build the database part by part, and return how long each step took (s)."""
    took: dict[str, float] = {}
    begin = time.perf_counter()
    store = Store.create(folder, ENCODER)
    weights = load_encoder(ENCODER).weight_hash
    shape = np.random.default_rng(0)
    centres, basis = shape.standard_normal((CLUSTERS, 12)), shape.standard_normal((12, DIMENSION))
    places = 20 * shape.standard_normal((CLUSTERS, 2))
    modes = np.array([np.sin((k + 1) * np.linspace(0, 3, len(XP.wavelength))) for k in range(12)])
    layout, labels = [], []
    with store.writing() as writer:
        for number, first in enumerate(range(0, n, PART)):
            rng = np.random.default_rng(number + 1)
            count = min(PART, n - first)
            ids = first + np.arange(count)
            cluster = rng.integers(0, CLUSTERS, count)
            latent = centres[cluster] + 0.5 * rng.standard_normal((count, 12))
            vectors = latent @ basis + 0.7 * rng.standard_normal((count, DIMENSION))
            vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
            flux = (1 + 0.05 * latent @ modes).astype(np.float32)
            ivar = np.full(flux.shape, 1e4, np.float32)
            snr = rng.lognormal(4, 0.7, count).astype(np.float32)
            ra, dec = rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))
            metadata = metadata_table(
                {"spectrum_id": ids, "ra": ra, "dec": dec, "survey": ["simulated"] * count}, XP.columns
            )
            zeros = np.zeros(count, np.int32)
            prepared = {"flux": flux, "ivar": ivar, "snr": snr, "quality": zeros, "n_repaired": zeros}
            table = spectra_table(XP, metadata, prepared)
            embedded = embedding_table(ids, {"shared": vectors}, {})
            made_by = (ENCODER, embedded, {"weight_hash": weights})
            writer.commit_ingest(XP, Batch(number, count), table, REJECTED.empty_table(), {}, made_by)
            layout.append((places[cluster] + 2 * latent[:, :2] + rng.standard_normal((count, 2))).astype(np.float32))
            labels.append(5500 + 400 * latent[:, 2])
        took["spectra and embeddings"] = time.perf_counter() - begin
        begin = time.perf_counter()
        update_index(writer, "gaia_xp", encoder=ENCODER, weight_hash=weights)
        took["index"] = time.perf_counter() - begin
        begin = time.perf_counter()
        x, y = np.concatenate(layout).T
        placed = pa.table({"spectrum_id": np.arange(n), "x": x, "y": y})
        writer.put(f"maps/{ENCODER}/gaia_xp.parquet", placed, {"made_by": "benchmark", "sample": n})
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "labels.parquet"
        pq.write_table(pa.table({"spectrum_id": np.arange(n), "teff": np.concatenate(labels)}), file)
        add_labels(store, file, "simulated", id="spectrum_id")
    took["map and labels"] = time.perf_counter() - begin
    return took


def memory_mib(pid: int) -> tuple[float, float]:
    """Return what a process holds, MiB: all of it, and what is no file mapped into memory."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) / 1024, int(fields["RssAnon"].split()[0]) / 1024


def child_of(pid: int) -> int:
    """Return the process that `specdb ui` has started."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def timed(do: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long something takes (s), and what it gives."""
    begin = time.perf_counter()
    out = do()
    return time.perf_counter() - begin, out


def visit(browser: Any, base: str, clicks: int) -> tuple[float, list[float], Any]:
    """Open the map in a new session of a browser and click on some squares; return the times (s) and the page."""
    page = browser.new_page()
    page.set_default_timeout(120_000)

    def arrive() -> None:
        page.goto(f"{base}/explore?modality=gaia_xp&colour=snr")
        page.wait_for_function(DRAWN)

    paint, _ = timed(arrive)
    times, before = [], ""
    for x, y in page.evaluate(PLACES, clicks) if clicks else []:
        page.mouse.move(x, y)
        page.wait_for_timeout(300)

        def click(x: float = x, y: float = y, before: str = before) -> str:
            page.mouse.click(x, y)
            return page.wait_for_function(ANOTHER, arg=before).json_value()

        seconds, before = timed(click)
        times.append(seconds)
        page.wait_for_timeout(500)
    return paint, times, page


def bare(browser: Any, base: str) -> float:
    """Open a page without a map in a new session; what it takes (s) is the share of the browser and of Streamlit."""
    page = browser.new_page()
    page.set_default_timeout(120_000)

    def arrive() -> None:
        page.goto(f"{base}/home")
        page.get_by_role("heading").first.wait_for()
        page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]')

    seconds, _ = timed(arrive)
    page.close()
    return seconds


def measure(db: Path, repeats: int, sessions: int) -> list[dict[str, Any]]:
    """Serve the database and look at it in a browser."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "specdb", "ui", "--db", str(db), "--port", str(port), "--headless"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{base}/_stcore/health", timeout=1)
                break
            except OSError:
                time.sleep(0.2)
        pid = child_of(server.pid)
        started = memory_mib(pid)
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            # Sessions share what the browser keeps of the page's own code, as tabs of one astronomer do.
            browser = chromium.new_context(viewport={"width": 1400, "height": 1000})
            cold, first_clicks, page = visit(browser, base, 2)
            page.close()
            paints, clicks = [], []
            for _ in range(repeats):
                paint, times, page = visit(browser, base, 3)
                paints.append(paint)
                clicks += times
                page.close()
            bares = [bare(browser, base) for _ in range(repeats)]
            one = memory_mib(pid)
            pages = [visit(browser, base, 2)[2] for _ in range(sessions)]
            several = memory_mib(pid)
            for page in pages:
                page.close()
            chromium.close()
    finally:
        server.terminate()
        server.wait(30)

    def row(what: str, value: float, goal: str = "", more: str = "") -> dict[str, Any]:
        return {"what": what, "value": round(value, 2), "goal": goal, "remark": more}

    worst = f"slowest {max(paints):.2f}, {repeats} fresh sessions"
    return [
        row("first visit after the start of the server, s", cold, more="reads map and colours"),
        row("first click after the start of the server, s", first_clicks[0], more="opens the index"),
        row("map drawn, warm, median s", float(np.median(paints)), "<= 3", worst),
        row(
            "a page without a map drawn, warm, median s", float(np.median(bares)), more="what the browser and Streamlit take"
        ),
        row("click to neighbours, median s", float(np.median(clicks)), "<= 1", f"slowest {max(clicks):.2f}, {len(clicks)}"),
        row("memory of the server, nobody there, MiB", started[0], more=f"{started[1]:.0f} beyond mapped files"),
        row("memory after these sessions, MiB", one[0], more=f"{one[1]:.0f} beyond mapped files"),
        row(f"memory with {sessions} sessions open, MiB", several[0], more=f"{several[1]:.0f} beyond mapped files"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7, help="Warm visits.")
    parser.add_argument("--sessions", type=int, default=4, help="Open at once, for the memory.")
    parser.add_argument("--db", type=Path, help="Keep the database there, or use the one that is.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="specdb-explorer-") as scratch:
        folder = arguments.db or Path(scratch) / "db"
        took = {} if (folder / "specdb.toml").exists() else build(folder, arguments.n)
        print(json.dumps(took), flush=True)
        n = specdb.open(folder).counts()["gaia_xp"]
        index = specdb.open(folder).index("gaia_xp").card
        rows = measure(folder, arguments.repeats, arguments.sessions)
    facts = machine() | {"load": round(os.getloadavg()[0], 1), "embeddings": f"{n:,} x {DIMENSION}", "index": index.kind}
    facts |= {f"built: {name}": f"{seconds:.0f} s" for name, seconds in took.items()}
    write_results("explorer", f"The explorer on {n:,} embeddings, in chromium", rows, facts)


if __name__ == "__main__":
    main()
