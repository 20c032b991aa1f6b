"""Rows written to files of every format, and read back by astropy, pyarrow and pandas."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io.votable import parse_single_table
from astropy.table import Table

from specdb.errors import DatabaseError, InputError
from specdb.export import files, save_rows, suffixes

ID = 5853498713190525696  # has digits that float64 would lose


@pytest.fixture
def rows() -> pa.Table:
    schema = pa.schema(
        [
            pa.field("spectrum_id", pa.int64(), metadata={"description": "identifier", "ucd": "meta.id;meta.main"}),
            pa.field("ra", pa.float64(), metadata={"unit": "deg", "ucd": "pos.eq.ra", "description": "right ascension"}),
            pa.field("teff", pa.float32(), metadata={"unit": "K"}),
            pa.field("gaia_source_id", pa.int64()),
            pa.field("name", pa.string()),
            pa.field("flux", pa.list_(pa.float32(), 2)),
        ]
    )
    columns = {
        "spectrum_id": [ID, ID + 1],
        "ra": [10.25, None],
        "teff": [5777.0, None],
        "gaia_source_id": [None, ID],
        "name": ["a, b", None],
        "flux": [[1.0, 2.0], [3.0, 4.0]],
    }
    return pa.table(columns, schema=schema)


@pytest.mark.parametrize("suffix", [".fits", ".fits.gz", ".ecsv", ".vot", ".votable", ".xml"])
def test_astropy_reads_back_ids_units_nulls_and_vectors(rows: pa.Table, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    assert save_rows(rows, path, {"query": "a long question", "k": 3}) == 2
    table = Table.read(path)
    assert table["spectrum_id"].tolist() == [ID, ID + 1]
    assert str(table["ra"].unit) == "deg" and str(table["teff"].unit) == "K"
    assert table["gaia_source_id"].mask.tolist() == [True, False]
    assert table["gaia_source_id"][1] == ID
    assert np.ma.getmaskarray(table["teff"]).tolist() == [False, True] or np.isnan(table["teff"][1])
    assert table["name"][0] == "a, b"
    np.testing.assert_array_equal(table["flux"], [[1, 2], [3, 4]])


def test_ucds_arrive_in_votables_and_fits_headers(rows: pa.Table, tmp_path: Path) -> None:
    save_rows(rows, tmp_path / "list.vot")
    field = parse_single_table(tmp_path / "list.vot").get_field_by_id_or_name("ra")
    assert field.ucd == "pos.eq.ra" and field.description == "right ascension"
    save_rows(rows, tmp_path / "list.fits")
    assert Table.read(tmp_path / "list.fits").meta["TUCD2"] == "pos.eq.ra"


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".json"])
def test_streamed_and_plain_formats(rows: pa.Table, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"list{suffix}"
    reader = pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=1))
    assert save_rows(reader, path, {"query": "q"}) == 2
    if suffix == ".parquet":
        table = pq.read_table(path)
        assert table.schema.field("ra").metadata[b"unit"] == b"deg"
        assert table.schema.metadata[b"query"] == b"q"
        assert table.to_pylist() == rows.to_pylist()
    elif suffix == ".csv":
        first, second, third = path.read_text().splitlines()
        assert first.replace('"', "") == ",".join(rows.column_names)
        assert second.replace('"', "") == f"{ID},10.25,5777,,a, b,[1.0, 2.0]"
        assert third.startswith(f"{ID + 1},,,{ID},,")
    else:
        found = json.loads(path.read_text())["rows"] if suffix == ".json" else map(json.loads, path.read_text().splitlines())
        assert list(found) == rows.to_pylist()


def test_an_empty_answer_is_a_file_with_columns(rows: pa.Table, tmp_path: Path) -> None:
    for suffix in suffixes():
        path = tmp_path / f"empty{suffix}"
        assert save_rows(rows.slice(0, 0), path) == 0
        assert path.exists()
    assert Table.read(tmp_path / "empty.vot").colnames == rows.column_names


def test_an_unknown_ending_names_the_known_ones(rows: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"list\.doc: the ending says no format; use one of \.parquet, \.ecsv"):
        save_rows(rows, tmp_path / "list.doc")


def test_what_astropy_cannot_hold_is_refused_and_leaves_nothing(
    rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "HELD_LIMIT", 1)
    with pytest.raises(InputError, match=r"more than 1 rows do not go into \.vot; write \.parquet or \.csv"):
        save_rows(rows, tmp_path / "list.vot")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_said(rows: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DatabaseError, match="cannot write"):
        save_rows(rows, tmp_path / "file" / "list.csv")
