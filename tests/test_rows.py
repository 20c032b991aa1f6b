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
