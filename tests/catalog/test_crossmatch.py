"""The same star in two modalities: by id, by position, with counts of chance matches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from specdb.catalog import add_labels, crossmatch, run_sql
from specdb.errors import InputError, QueryError
from specdb.spectra import get_modality
from specdb.store import Store, read_table, verify_store
from tests.catalog.small_store import N, commit, gaia_id, rows


def test_ids_count_first_then_positions(fresh: Store) -> None:
    quality = crossmatch(fresh, "lamost_lrs", "gaia_xp")
    assert (quality.pairs, quality.by_id, quality.by_position) == (N, 3, N - 3)
    assert quality.matched == (N, N)
    assert quality.separation_arcsec["median"] == pytest.approx(0.5, abs=1e-3)
    assert quality.expected_false == 0
    assert quality.false_fraction == 0
    table = read_table(fresh.root / "pairs" / "lamost_lrs-gaia_xp.parquet")
    assert table.column_names == ["lamost_lrs", "gaia_xp", "separation_arcsec", "method"]
    assert table["lamost_lrs"].to_pylist() == list(range(1001, 1001 + N))
    assert table["gaia_xp"].to_pylist() == [gaia_id(i) for i in range(N)]
    assert table["method"].to_pylist()[:4] == ["gaia_source_id"] * 3 + ["position"]
    np.testing.assert_allclose(table["separation_arcsec"].to_numpy(), 0.5, atol=1e-3)
    assert fresh.provenance("pairs/lamost_lrs-gaia_xp.parquet")["quality"]["by_position"] == N - 3
    sql = "SELECT count(*) AS n FROM pairs JOIN lamost_lrs l ON l.spectrum_id = pairs.lamost_lrs"
    assert run_sql(fresh, sql)["n"][0].as_py() == N
    assert verify_store(fresh) == []


def test_modes(fresh: Store) -> None:
    # At 60 arcsec the two stars at RA 0 see both of each other's counterparts.
    counts = {mode: crossmatch(fresh, "lamost_lrs", "gaia_xp", method="position", mode=mode, radius_arcsec=60).pairs
              for mode in ("best", "all", "symmetric")}  # fmt: skip
    assert counts == {"best": N, "all": N + 2, "symmetric": N}
    quality = crossmatch(fresh, "lamost_lrs", "gaia_xp", method="position", radius_arcsec=0.1)
    assert quality.pairs == 0
    assert run_sql(fresh, "SELECT * FROM pairs").num_rows == 0
    assert crossmatch(fresh, "lamost_lrs", "gaia_xp", method="id").pairs == 3


def test_ids_from_a_catalogue(fresh: Store, tmp_path: Path) -> None:
    lines = [f"{1001 + i},{gaia_id(i)}" for i in range(5, 25)]
    (tmp_path / "c.csv").write_text("obsid,dr2\n" + "\n".join(lines) + "\n")
    add_labels(fresh, tmp_path / "c.csv", "known", id="obsid")
    quality = crossmatch(fresh, "lamost_lrs", "gaia_xp", method="id", id="known.dr2")
    assert quality.pairs == 20
    assert set(run_sql(fresh, "SELECT DISTINCT method FROM pairs")["method"].to_pylist()) == {"known.dr2"}
    with pytest.raises(InputError, match=r"--id is 'known'; give CATALOGUE.COLUMN"):
        crossmatch(fresh, "lamost_lrs", "gaia_xp", id="known")
    with pytest.raises(QueryError, match="there is no table 'nope'"):
        crossmatch(fresh, "lamost_lrs", "gaia_xp", id="nope.dr2")


def test_proper_motion_brings_partners_back(fresh: Store, tmp_path: Path) -> None:
    # 0.5 arcsec north in 16 years, for the stars away from the poles.
    lines = [f"{gaia_id(i)},0,{500 / 16}" for i in range(5, N)]
    (tmp_path / "pm.csv").write_text("source_id,pmra,pmdec\n" + "\n".join(lines) + "\n")
    add_labels(fresh, tmp_path / "pm.csv", "motions", id="source_id", on="spectrum_id")
    quality = crossmatch(fresh, "lamost_lrs", "gaia_xp", method="position", pm="motions", radius_arcsec=0.01)
    assert quality.pairs == N - 5
    assert quality.separation_arcsec["max"] < 0.001
    (tmp_path / "other.csv").write_text("source_id,pmra,pmdec\n7,0,1\n")
    add_labels(fresh, tmp_path / "other.csv", "others", id="source_id", on="spectrum_id")
    with pytest.raises(QueryError, match="the catalogue others has no spectrum of the second modality"):
        crossmatch(fresh, "lamost_lrs", "gaia_xp", pm="others")


def test_chance_matches_are_counted(fresh: Store) -> None:
    quality = crossmatch(fresh, "lamost_lrs", "gaia_xp", method="position", radius_arcsec=3600, mode="all")
    assert quality.ambiguous >= 2
    # Shifted by five degrees, hardly any of the 40 stars has a neighbour within one degree.
    assert quality.expected_false < 3


def test_the_number_of_chance_matches_is_right(fresh: Store, tmp_path: Path) -> None:
    # A crowded random field: every match is chance, and their expected number is known.
    rng = np.random.default_rng(0)
    n, side = 3000, 0.5
    modality = get_modality("lamost_lrs")
    stars = {"ra": 100 + rng.uniform(0, side, n), "dec": rng.uniform(0, side, n), "epoch": np.full(n, 2016.0)}
    commit(fresh, modality, rows(modality, np.arange(10_000, 10_000 + n), **stars), 5)
    m = 20_000
    field = pa.table({"ra": 100 + rng.uniform(0, side, m), "dec": rng.uniform(0, side, m)})
    pq.write_table(field, tmp_path / "field.parquet")
    per_star = m / (side * 3600) ** 2 * np.pi * 3.0**2
    truth = n * (1 - np.exp(-per_star))
    for nearby in (False, True):
        report = add_labels(
            fresh,
            tmp_path / "field.parquet",
            "field",
            position=("ra", "dec"),
            radius_arcsec=3.0,
            nearby=nearby,
            replace=nearby,
        )
        assert report.expected_false == pytest.approx(truth, rel=0.1)
        assert report.matched.spectra == pytest.approx(truth, rel=0.15)


@pytest.mark.parametrize(
    ("first", "second", "options", "error", "message"),
    [
        ("lamost_lrs", "lamost_lrs", {}, InputError, "lamost_lrs is matched with itself"),
        ("lamost_lrs", "sdss", {}, QueryError, "no spectra of 'sdss'; it has gaia_xp, lamost_lrs"),
        ("lamost_lrs", "gaia_xp", {"radius_arcsec": 0.0}, InputError, "the radius is 0 arcsec"),
    ],
)
def test_errors(store: Store, first: str, second: str, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        crossmatch(store, first, second, **options)
