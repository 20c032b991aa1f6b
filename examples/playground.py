"""A small simulated database for the examples."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import specdb
from indexer import build_index
from indexer.simulate import simulate_lamost


def options(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all examples share."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--db", type=Path, help="a database of yours; without it a small one is simulated")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for tables and figures")
    return parser


@contextmanager
def database(path: Path | None, stars: int = 250) -> Iterator[tuple[specdb.Database, Path | None]]:
    """Open a database, or simulate one and give its truth catalogue (a Parquet file) too."""
    if path is not None:
        yield specdb.open(path), None
        return
    with tempfile.TemporaryDirectory() as folder:
        survey = simulate_lamost(Path(folder) / "survey", n_stars=stars, repeat_fraction=0.3, seed=0, anomalies=0.03)
        build_index(Path(folder) / "db", "lamost", [survey.spectra])
        yield specdb.open(Path(folder) / "db"), Path(folder) / "survey" / "truth.parquet"
