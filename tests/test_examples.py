"""The examples run, on one small simulated database."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from astropy.table import Table

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory):
    """A database that all examples share, with a catalogue `lasp`."""
    module = load("playground")
    with module.database(None, stars=150) as (db, truth):
        from specdb.catalog.labels import add_labels

        add_labels(db.store, truth, "lasp", id="spectrum_id")
        yield db.store.root
    sys.modules.pop("playground")


def test_stars_like_this_one(playground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("stars_like_this_one").main(["--db", str(playground), "--out", str(tmp_path), "-k", "3"])
    assert (tmp_path / "stars_like_this_one.png").stat().st_size > 20_000
    assert "recall" in capsys.readouterr().out


def test_metal_poor_candidates(playground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("metal_poor_candidates").main(["--db", str(playground), "--out", str(tmp_path), "--limit", "0.5"])
    found = Table.read(tmp_path / "metal_poor.ecsv")
    assert len(found) > 10 and (found["feh"] + 2 * found["feh_sigma"] < 0.5).all()
    assert "68 % interval holds" in capsys.readouterr().out


def test_unusual_spectra(playground: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("unusual_spectra").main(["--db", str(playground), "--out", str(tmp_path), "--top", "5"])
    assert len(Table.read(tmp_path / "unusual.vot")) == 5
    assert "p = " in capsys.readouterr().out


def test_without_a_database_one_is_made_and_removed() -> None:
    with load("playground").database(None, stars=10) as (db, truth):
        root = db.store.root
        assert isinstance(db.sql("SELECT count(*) AS n FROM spectra").to_arrow(), pa.Table)
        assert truth.exists()
    assert not root.exists()
