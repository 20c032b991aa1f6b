"""HATS catalogues that lsdb opens."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from specdb.errors import DependencyError, InputError
from specdb.export.hats import save_hats

N = 300


def table() -> pa.Table:
    rng = np.random.default_rng(0)
    ra = np.concatenate([[0.0, 360 - 1e-4, 10.0], rng.uniform(0, 360, N - 3)])
    dec = np.concatenate([[0.0, 0.0, 89.9999], np.degrees(np.arcsin(rng.uniform(-1, 1, N - 3)))])
    ids = 2**60 + np.arange(N)
    return pa.table({"spectrum_id": ids, "ra": ra, "dec": dec, "gaia_source_id": pa.array([None, *ids[1:].tolist()])})


@pytest.mark.slow
def test_lsdb_opens_it_and_searches_a_cone(tmp_path: Path) -> None:
    lsdb = pytest.importorskip("lsdb")
    rows = table()
    assert save_hats(rows, tmp_path / "hats", "twins", partition_rows=100) == N
    catalogue = lsdb.open_catalog(tmp_path / "hats")
    found = catalogue.cone_search(0.0, 0.0, 10.0).compute()
    assert sorted(found["spectrum_id"].tolist()) == [2**60, 2**60 + 1]  # on both sides of RA 0
    everything = catalogue.compute().sort_values("spectrum_id")
    assert everything["spectrum_id"].tolist() == rows["spectrum_id"].to_pylist()
    assert everything["gaia_source_id"].isna().sum() == 1
    with pytest.raises(InputError, match="is not empty"):
        save_hats(rows, tmp_path / "hats", "twins")


def test_rows_without_positions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the rows have no column ra"):
        save_hats(table().drop_columns("ra"), tmp_path / "x", "x")
    with pytest.raises(InputError, match="1 of 2 rows have no position on the sky"):
        save_hats(pa.table({"ra": [1.0, None], "dec": [2.0, 3.0]}), tmp_path / "x", "x")
    with pytest.raises(InputError, match="no rows"):
        save_hats(table().slice(0, 0), tmp_path / "x", "x")
    assert list(tmp_path.iterdir()) == []


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lsdb", None)
    with pytest.raises(DependencyError, match=r'pip install "specdb\[vo\]"'):
        save_hats(table(), tmp_path / "x", "x")
