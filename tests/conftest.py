"""Fixtures shared by all tests, and the rules for skipping what this machine cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = pytest.mark.skip(reason="needs the real spectra in ../shared, which is not here")
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    cuda = None
    for item in items:
        if "shared" in item.keywords and not SHARED.is_dir():
            item.add_marker(missing)
        if "gpu" in item.keywords:
            if cuda is None:
                import torch

                cuda = torch.cuda.is_available()
            if not cuda:
                item.add_marker(no_gpu)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real spectra; mark tests that use it with ``@pytest.mark.shared``."""
    return SHARED / "data"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference inputs and outputs; mark tests that use it with ``@pytest.mark.shared``."""
    return SHARED / "golden"
