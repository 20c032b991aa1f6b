"""Rows written to files of every format, and read back by astropy, pyarrow and pandas."""

from __future__ import annotations

import datetime
import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io.votable import parse, parse_single_table, validate
from astropy.io.votable.tree import Info
from astropy.table import Table

from specdb.catalog.files import open_catalogue, parquet_schema
from specdb.errors import DatabaseError, InputError
from specdb.export import files, save_rows, suffixes
from specdb.export.votable import VOPARQUET_CONTENT, VOPARQUET_VERSION

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


# -- what SQL may answer with ------------------------------------------------------------------------------------------


@pytest.fixture
def odd() -> pa.Table:
    """Columns of types that VOTable or FITS lack, each with a null."""
    schema = pa.schema(
        [
            pa.field("flag", pa.bool_()), pa.field("tiny", pa.int8()), pa.field("word", pa.uint16()),
            pa.field("text", pa.string()), pa.field("day", pa.date32()), pa.field("list", pa.list_(pa.int64())),
            pa.field("sum", pa.decimal128(38, 0)), pa.field("nothing", pa.null()),
            pa.field("log", pa.float32(), metadata={"unit": "log(cm.s**-2)", "description": "surface gravité"}),
        ]
    )  # fmt: skip
    columns = [
        [True, None], [-3, None], [65535, None], ["Bé", None], [datetime.date(2016, 1, 2), None], [[1, 2], None], [7, None],
        [None, None], [4.5, None],
    ]  # fmt: skip
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


@pytest.mark.filterwarnings("ignore:'log:astropy.units.UnitsWarning")
@pytest.mark.parametrize("suffix", [".vot", ".fits", ".ecsv"])
def test_every_type_goes_into_every_format(odd: pa.Table, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"odd{suffix}"
    assert save_rows(odd, path, {"query": "é"}) == 2
    table = Table.read(path)
    row = {name: table[name].tolist()[0] for name in table.colnames}
    text = "B?" if suffix == ".fits" else "Bé"
    assert row["text"] in (text, text.encode())
    assert (row["flag"], row["tiny"], row["word"], row["sum"], row["log"]) == (True, -3, 65535, 7, 4.5)
    assert str(row["day"]) == "2016-01-02" and str(row["list"]) == "[1, 2]"
    for name in ("flag", "tiny", "word", "sum"):
        assert table[name].mask.tolist() == [False, True]


def test_no_integer_is_taken_for_a_missing_one(tmp_path: Path) -> None:
    values = [999999, -999999, 0, None, 2**63 - 1]
    save_rows(pa.table({"id": pa.array(values)}), tmp_path / "ids.fits")
    assert Table.read(tmp_path / "ids.fits")["id"].tolist() == values


# -- the Virtual Observatory -------------------------------------------------------------------------------------------


def test_votables_say_where_they_come_from(rows: pa.Table, tmp_path: Path) -> None:
    save_rows(rows, tmp_path / "list.vot", {"title": "twins", "query": "SELECT 1 < 2", "k": 3})
    document = parse(tmp_path / "list.vot")
    infos = {info.name: info.value for info in document.resources[0].infos}
    assert infos.items() >= {"query": "SELECT 1 < 2", "k": "3"}.items()
    assert infos["creator"].startswith("specdb ")
    assert document.get_first_table().description == "twins"


def test_the_votable_is_valid(rows: pa.Table, odd: pa.Table, tmp_path: Path) -> None:
    for number, table in enumerate((rows, odd.drop_columns("log"))):
        save_rows(table, tmp_path / f"{number}.vot", {"query": "q"})
        out = io.StringIO()
        assert validate(tmp_path / f"{number}.vot", output=out), out.getvalue()


def test_pyvo_reads_units_and_ucds(rows: pa.Table, tmp_path: Path) -> None:
    results = pytest.importorskip("pyvo.dal.query")
    save_rows(rows, tmp_path / "list.vot", {"query": "q"})
    document = parse(tmp_path / "list.vot")
    document.resources[0].infos.append(Info(name="QUERY_STATUS", value="OK"))  # what a service adds
    found = results.DALResults(document)
    assert found.fieldname_with_ucd("pos.eq.ra") == "ra"
    assert str(found.getdesc("ra").unit) == "deg"
    assert found["spectrum_id"].tolist() == [ID, ID + 1]


def test_parquet_carries_a_votable(rows: pa.Table, odd: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    save_rows(rows, path, {"query": "q"})
    metadata = pq.read_schema(path).metadata
    assert metadata[VOPARQUET_VERSION] == b"1.0"
    fields = parse_single_table(io.BytesIO(metadata[VOPARQUET_CONTENT])).fields
    assert [field.name for field in fields] == rows.column_names
    assert (fields[1].ucd, str(fields[1].unit), fields[1].description) == ("pos.eq.ra", "deg", "right ascension")
    assert b"<DATA" not in metadata[VOPARQUET_CONTENT]
    full = rows.slice(0, 1).select(["spectrum_id", "ra", "teff"])  # astropy's reader stops at text of any length
    save_rows(full, path)
    table = Table.read(path, format="parquet.votable")
    assert str(table["ra"].unit) == "deg" and table["spectrum_id"].tolist() == [ID]
    assert save_rows(odd, path) == 2


def test_units_of_others_voparquet_are_read(rows: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    save_rows(rows, path)
    table = pq.read_table(path)
    bare = pa.schema([f.remove_metadata() for f in table.schema], metadata=table.schema.metadata)
    pq.write_table(table.cast(bare), path)
    schema = open_catalogue(path).schema
    assert schema.field("ra").metadata == {b"unit": b"deg", b"ucd": b"pos.eq.ra", b"description": b"right ascension"}
    assert not schema.field("name").metadata
    for broken in (b"", b"<VOTABLE", b"<VOTABLE></VOTABLE>"):
        assert parquet_schema(bare.with_metadata({VOPARQUET_CONTENT: broken})) == bare


@pytest.mark.skipif(shutil.which("stilts") is None, reason="STILTS is not installed (Debian: apt install stilts)")
def test_stilts_finds_nothing_wrong_and_reads_units(rows: pa.Table, odd: pa.Table, tmp_path: Path) -> None:
    def stilts(*arguments: object) -> str:
        done = subprocess.run(["stilts", *map(str, arguments)], capture_output=True, text=True, check=True, timeout=120)
        assert "ERROR" not in done.stderr and "Exception" not in done.stderr
        return done.stdout

    for number, table in enumerate((rows, odd)):
        path = tmp_path / f"{number}.vot"
        save_rows(table, path, {"query": "SELECT 1 < 2 & 'x'"})
        assert stilts("votlint", path).strip() == ""
    for suffix in (".vot", ".fits"):
        path = tmp_path / f"list{suffix}"
        save_rows(rows, path)
        facts = stilts("tpipe", f"in={path}", "cmd=meta Name Units UCD Description", "ofmt=csv").splitlines()
        assert "ra,deg,pos.eq.ra,right ascension" in [line.replace('"', "") for line in facts]
        cells = stilts("tpipe", f"in={path}", "cmd=keepcols 'spectrum_id ra gaia_source_id'", "ofmt=csv").splitlines()
        assert cells[1:] == [f"{ID},10.25,", f"{ID + 1},,{ID}"]
