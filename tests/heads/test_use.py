"""Predictions in use: as SQL tables, in conditions, as map values, against catalogues."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

import specdb
from specdb.catalog import add_labels
from specdb.catalog.selection import select_ids, select_values
from specdb.cli.map import map_
from specdb.errors import QueryError
from specdb.export import save_rows
from specdb.heads import HeadConfig, load_head, predict_survey, train_head
from specdb.store import Store
from tests.heads.conftest import label_table, make_database


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, stars: dict) -> Store:
    """A database with a catalogue of one label and the predictions of two heads."""
    folder = tmp_path_factory.mktemp("use")
    store = make_database(folder / "db", stars)
    save_rows(label_table(stars).select(["spectrum_id", "feh"]), folder / "lasp.parquet")
    add_labels(store, folder / "lasp.parquet", "lasp", id="spectrum_id")
    for name, kind, columns in (("atm", "ridge", ["spectrum_id", "teff", "feh"]), ("near", "knn", ["spectrum_id", "logg"])):
        head = train_head(store, label_table(stars).select(columns), name, HeadConfig("both", kind))
        predict_survey(store, head)
    return store


def test_each_head_is_a_table(used: Store) -> None:
    db = specdb.open(used.root)
    rows = db.sql("SELECT spectrum_id, teff, teff_sigma, flags FROM atm WHERE teff < 5500").to_arrow()
    assert 0 < rows.num_rows < 400 and rows.schema.field("teff").metadata[b"unit"] == b"K"
    assert db.sql("SELECT count(*) AS n FROM predictions WHERE head = 'near'").to_arrow()["n"].to_pylist() == [400]
    beside = db.sql("SELECT corr(a.feh, l.feh) AS r FROM atm a JOIN lasp l USING (spectrum_id)").to_arrow()
    assert beside["r"][0].as_py() > 0.8


def test_conditions_take_predictions(used: Store) -> None:
    plain = select_ids(used, "toy", "teff < 5500 AND logg > 4")
    named = select_ids(used, "toy", "atm.teff < 5500 AND near.logg > 4")
    np.testing.assert_array_equal(plain, named)
    assert 0 < len(plain) < 400
    assert len(select_ids(used, "toy", "abs(atm.feh - lasp.feh) < 3 * feh_sigma")) > 300
    assert len(select_ids(used, "toy", "predictions.teff < 5500")) > 0
    with pytest.raises(QueryError, match=r"2 catalogues have a column 'feh'; write atm.feh or lasp.feh"):
        select_ids(used, "toy", "feh < -1")


def test_predictions_can_be_mapped(used: Store, tmp_path: Path) -> None:
    values = select_values(used, "toy", {"v": "atm.feh"}, "atm.flags = 0")
    assert 300 < values.num_rows <= 400
    done = CliRunner().invoke(map_, ["--value", "atm.feh", "-o", str(tmp_path / "m.png"), "--db", str(used.root)])
    assert done.exit_code == 0, done.output
    plane = ["plane", "teff", "near.logg", "-o", str(tmp_path / "p.png"), "--db", str(used.root)]
    assert CliRunner().invoke(map_, plane).exit_code == 0


def test_a_name_that_is_taken_stays_what_it_was(tmp_path: Path, stars: dict) -> None:
    store = make_database(tmp_path / "db", stars)
    predict_survey(store, train_head(store, label_table(stars), "toy", HeadConfig("both", "ridge")))
    assert "flux" in specdb.open(store.root).sql("SELECT * FROM toy LIMIT 1").to_arrow().column_names
    assert len(select_ids(store, "toy", "teff < 5500")) > 0


def test_catalogues_are_compared_with_predictions(tmp_path: Path, stars: dict) -> None:
    from specdb.anomaly.scores.catalogue import CatalogueDisagreement
    from specdb.anomaly.survey import Block

    store = make_database(tmp_path / "db", stars)
    table = label_table(stars)
    predict_survey(store, train_head(store, table, "atm", HeadConfig("both", "ridge")))
    wrong = table["feh"].to_numpy().copy()
    wrong[7] += 5
    save_rows(pa.table({"spectrum_id": table["spectrum_id"], "feh": wrong}), tmp_path / "lasp.parquet")
    add_labels(store, tmp_path / "lasp.parquet", "lasp", id="spectrum_id")

    class Survey:
        db = specdb.open(store.root)
        modality = "toy"
        ids = stars["ids"]

        def __len__(self) -> int:
            return len(self.ids)

    score = CatalogueDisagreement().fit(Survey())  # type: ignore[arg-type]
    found = score(Block(np.arange(400), *[None] * (len(Block.__dataclass_fields__) - 1)))
    assert int(np.nanargmax(found)) == 7


def test_heads_are_named_in_the_schema(used: Store) -> None:
    assert load_head(used, "atm").label_names == ("teff", "feh")
    done = specdb.open(used.root).sql("SHOW TABLES").to_arrow()["name"].to_pylist()
    assert {"atm", "near", "lasp", "predictions"} <= set(done)
