"""Answers in the forms astronomers want."""

from __future__ import annotations

import sys

import pyarrow as pa
import pytest

from specdb.errors import DependencyError
from specdb.rows import Rows
from specdb.spectra import metadata_table


@pytest.fixture
def answer() -> Rows:
    ids = [2**53 + 1, 7]
    table = metadata_table({"spectrum_id": ids, "ra": [10.5, None], "object_name": ["a", None], "gaia_source_id": [None, 5]})
    return Rows(table.append_column("flux", pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))))


def test_astropy_table_keeps_units_ids_and_nulls(answer: Rows) -> None:
    table = answer.to_table()
    assert table["spectrum_id"].tolist() == [2**53 + 1, 7]
    assert str(table["ra"].unit) == "deg"
    assert "ICRS" in table["ra"].description
    assert table["ra"].mask.tolist() == [False, True]
    assert table["gaia_source_id"].mask.tolist() == [True, False]
    assert table["object_name"].mask.tolist() == [False, True]
    assert table["flux"].shape == (2, 2)
    assert table["flux"][0].tolist() == [1.0, 2.0]
    assert table["flux"].mask.tolist() == [[False, False], [True, True]]


def test_rows_can_be_counted_and_walked_through(answer: Rows) -> None:
    assert len(answer) == 2
    assert [row["spectrum_id"] for row in answer] == answer.to_arrow()["spectrum_id"].to_pylist()


def test_pandas_is_named_where_it_is_missing(answer: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(DependencyError, match="pip install pandas"):
        answer.to_pandas()


def test_what_sql_answers_with_becomes_plain_columns() -> None:
    import duckdb

    sql = (
        "SELECT sum(i) AS total, avg(i) FILTER (i > 9) AS none, true AS yes, NULL AS nothing, 1.5 AS fraction, "
        "10::HUGEINT ** 20 AS huge, DATE '2016-01-02' AS day, TIMESTAMP '2016-01-02 03:04:05' AS moment, "
        "[1, 2] AS list, {'a': 1} AS struct, 'x'::ENUM ('x') AS word FROM range(3) t(i)"
    )
    with duckdb.connect() as connection:
        table = Rows(connection.sql(sql.replace("FILTER (i", "FILTER (WHERE i")).to_arrow_table()).to_table()
    row = {name: table[name].tolist()[0] for name in table.colnames}
    assert row == {
        "total": 3, "none": None, "yes": True, "nothing": None, "fraction": 1.5, "huge": 1e20, "day": "2016-01-02",
        "moment": "2016-01-02T03:04:05.000000", "list": "[1, 2]", "struct": '{"a": 1}', "word": "x",
    }  # fmt: skip
    assert table["total"].dtype == "i8"


def test_quantities_are_masked_only_where_something_is_missing(answer: Rows) -> None:
    from astropy import units as u

    table = answer.to_qtable()
    assert table["ra"][0] == 10.5 * u.deg
    assert table["ra"].mask.tolist() == [False, True]
    assert table["spectrum_id"].tolist() == [2**53 + 1, 7]
    first = Rows(answer.rows.slice(0, 1).select(["ra"])).to_qtable()
    assert type(first["ra"]) is u.Quantity
    assert "ICRS" in first["ra"].info.description


def test_flags_with_nulls_are_masked() -> None:
    table = Rows(pa.table({"flag": [True, None, False]})).to_table()
    assert table["flag"].tolist() == [True, None, False]
