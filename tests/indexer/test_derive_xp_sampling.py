"""The shipped calibration of Gaia XP is what its script derives."""

import json
from pathlib import Path

import numpy as np
import pytest

from specdb.spectra.xp_sampling import load_xp_sampling


def test_script_reproduces_the_shipped_table(tmp_path: Path):
    pytest.importorskip("gaiaxpy")
    from indexer.derive.xp_sampling import main

    main([str(tmp_path / "table.npz")])
    with np.load(tmp_path / "table.npz", allow_pickle=False) as table:
        shipped = load_xp_sampling()
        for name in ("bp", "rp", "bp_weight"):
            expected = getattr(shipped, name)
            np.testing.assert_allclose(table[name], expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        assert "derived_by" in json.loads(table["provenance"].item())


def test_other_samplings_can_be_derived():
    pytest.importorskip("gaiaxpy")
    from indexer.derive.xp_sampling import derive

    table = derive(np.array([350.0, 500.0, 640.0, 900.0]))  # compares itself with GaiaXPy
    assert table["bp"].shape == (55, 4) and table["bp_weight"].tolist() == [1, 1, 0.375, 0]
