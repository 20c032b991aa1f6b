"""One browser for all tests that need one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "search"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, without its calls home."""
    from browsing import BROWSER, FLAGS

    sync_api = pytest.importorskip("playwright.sync_api")
    if BROWSER is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        held = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield held
        held.close()
