"""A small simulated survey, made once for all tests of the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from indexer.simulate import LamostSurvey, simulate_lamost


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> LamostSurvey:
    """Forty simulated stars, some observed repeatedly, and one damaged file of each kind."""
    folder: Path = tmp_path_factory.mktemp("simulated")
    return simulate_lamost(folder, n_stars=40, repeat_fraction=0.5, anomalies=0, broken=4)
