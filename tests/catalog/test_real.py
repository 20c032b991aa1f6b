"""Real catalogues and real pairs."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import specdb
from indexer import build_index
from indexer.build import ingest_survey
from specdb.catalog import add_labels, crossmatch
from specdb.database import Database
from specdb.errors import InputError

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Database:
    path = tmp_path_factory.mktemp("real") / "db"
    build_index(
        path, "lamost", [shared / "lamost_dr10_afg" / "fits", shared / "lamost_dr1_classes", shared / "lamost_dr8_repeat"]
    )
    ingest_survey(path, "gaia-xp", [shared / "gaia_xp_field2000" / "xp_continuous.fits"])
    return specdb.open(path)


def count(db: Database, sql: str) -> int:
    return db.sql(sql).rows.column(0)[0].as_py()


def test_catalogues_join_their_embeddings_in_one_statement(real: Database, shared: Path) -> None:
    dr10 = add_labels(real.store, shared / "lamost_dr10_afg" / "labels.csv", "dr10", id="obsid")
    dr1 = add_labels(real.store, shared / "lamost_dr1_classes" / "catalogue.csv.gz", "dr1", id="filename")
    assert dr10.facts()["matched_rows"] == 90
    assert dr1.facts()["matched_rows"] == 97
    assert dr1.card.sentinels["mag2"] == {"99.0": 179}
    for name, n in (("dr10", 90), ("dr1", 97)):
        sql = f"SELECT count(shared) FROM embeddings JOIN {name} USING (spectrum_id) WHERE teff BETWEEN 3000 AND 15000"
        assert count(real, sql) == n
    near = "SELECT abs(a.teff - b.teff) AS d FROM dr10 a, knn(a.spectrum_id, k := 1) n, dr10 b "
    near += "WHERE b.spectrum_id = n.spectrum_id"
    assert 0 < count(real, f"SELECT median(d) FROM ({near})") < 600


def test_gaia_dr2_ids_are_those_of_the_headers(real: Database, shared: Path) -> None:
    path = shared / "lamost_dr10_afg" / "labels.csv"
    report = add_labels(real.store, path, "dr2", id="gaia_dr2_source_id", duplicates="first")
    assert report.card.key.on == "input_name"
    assert report.matched.spectra == 10
    # The same star: the catalogue's own obsid agrees, where it is not another visit.
    assert count(real, "SELECT count(*) FROM dr2 WHERE spectrum_id = obsid") >= 9


def test_real_gaia_ids_that_went_through_floats_are_refused(real: Database, shared: Path, tmp_path: Path) -> None:
    with (shared / "lamost_dr10_afg" / "labels.csv").open() as lines:
        ids = [int(row["gaia_dr2_source_id"]) for row in csv.DictReader(lines) if row["gaia_dr2_source_id"]]
    damaged = {
        "floats": pa.array(np.array(ids, np.float64)),
        "integers": pa.array(np.array(ids, np.float64).astype(np.int64)),
        "text": pa.array([f"{float(one):.11e}" for one in ids]),
    }
    assert (damaged["integers"].to_numpy() != np.array(ids)).mean() > 0.5
    for kind, column in damaged.items():
        pq.write_table(pa.table({"source_id": column, "teff": np.full(len(ids), 5000.0)}), tmp_path / f"{kind}.parquet")
        with pytest.raises(InputError, match=r"los[et] digits"):
            add_labels(real.store, tmp_path / f"{kind}.parquet", kind, id="source_id", duplicates="first")
    pq.write_table(pa.table({"source_id": ids, "teff": np.full(len(ids), 5000.0)}), tmp_path / "whole.parquet")
    assert (
        add_labels(real.store, tmp_path / "whole.parquet", "whole", id="source_id", duplicates="first").matched.spectra == 10
    )


def test_the_three_real_pairs_are_found_by_position(real: Database, shared: Path) -> None:
    quality = crossmatch(real.store, "lamost_lrs", "gaia_xp", radius_arcsec=45)
    with (shared / "pairs" / "lamost_gaia_xp_pairs.csv").open() as lines:
        truth = {(int(row["lamost_obsid"]), int(row["xp_source_id"])) for row in csv.DictReader(lines)}
    found = real.sql("SELECT lamost_lrs, gaia_xp FROM pairs").rows
    assert set(zip(found["lamost_lrs"].to_pylist(), found["gaia_xp"].to_pylist(), strict=True)) == truth
    assert quality.separation_arcsec["max"] < 30
    assert "100% of the gaia_xp positions are HEALPix centres" in quality.notes[0]
    assert crossmatch(real.store, "lamost_lrs", "gaia_xp").notes[0].endswith("mind its chance matches")
