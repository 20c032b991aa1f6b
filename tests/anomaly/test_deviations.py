"""Where spectra deviate, as rows: limits in Angstrom, words, order, and databases without any."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from specdb.anomaly import deviations_of
from specdb.anomaly.deviations import deviation_table, deviations_path
from specdb.anomaly.features import Peak
from specdb.database import open_database
from specdb.spectra import get_modality
from specdb.store import Store

GRID = get_modality("gaia_xp").wavelength


def test_features_become_rows_with_limits(tmp_path: Path) -> None:
    at = float(np.interp(6564.6, GRID, np.arange(len(GRID))))
    table = deviation_table(
        [7, 8, 9], [[Peak(5.0, 20.0, 3.0), Peak(-9.0, at, 1.5)], [], [Peak(4.5, 0.0, 3.0)]], GRID, "gaia_xp"
    )
    assert table["spectrum_id"].to_pylist() == [7, 7, 9]
    assert table.schema.field("low").metadata[b"unit"] == b"Angstrom"
    store = Store.create(tmp_path / "db", "specclip-mini")
    db = open_database(tmp_path / "db")
    assert deviations_of(db, "gaia_xp", 7) == []
    with store.writing() as writer:
        writer.put(deviations_path("gaia_xp"), table, {})
    first, second = deviations_of(db, "gaia_xp", 7)
    assert first.low < 6564.6 < first.high
    assert first.feature.startswith("absorption at H-alpha: -9 sigma")
    assert (second.low, second.significance) == (GRID[14], 5.0)
    assert deviations_of(db, "gaia_xp", 9)[0].low == GRID[0]  # a feature at the edge ends there
    assert deviations_of(db, "gaia_xp", 8) == []
