"""Catalogues in: every format, sentinels, keys, duplicates; and matched with spectra that come later."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table

from specdb.catalog import add_labels, describe_labels, files, rematch, remove_labels, run_sql
from specdb.errors import InputError, QueryError
from specdb.store import Store, sha256_file, verify_store
from tests.catalog.small_store import N, gaia_id, sky

IDS = np.arange(1001, 1001 + N)


def table(n: int = N) -> Table:
    """Labels of the first n LAMOST spectra, in another order."""
    ids = IDS[:n][::-1]
    out = Table(
        {"obsid": ids, "Teff": (4000.0 + ids).astype(np.float32), "class": [f"G{i % 10}" for i in ids], "n": ids % 7}
    )
    out["Teff"].unit, out["Teff"].description = "K", "effective temperature"
    out["Teff"].info.meta = {"ucd": "phys.temperature.effective"}
    return out


def write(kind: str, folder: Path) -> Path:
    path = folder / f"lasp.{kind}"
    if kind == "parquet":
        t = table()
        fields = [pa.field(c, pa.array(np.asarray(t[c])).type) for c in t.colnames]
        metadata = {"unit": "K", "description": "effective temperature", "ucd": "phys.temperature.effective"}
        fields[1] = fields[1].with_metadata(metadata)
        pq.write_table(
            pa.Table.from_arrays([pa.array(np.asarray(t[c])) for c in t.colnames], schema=pa.schema(fields)), path
        )
    elif kind.startswith("fits"):
        columns = table()
        columns.meta["TUCD2"], columns.meta["TCOMM2"] = "phys.temperature.effective", "effective temperature"
        columns["Teff"].description = None
        columns.write(path)
    elif kind == "ecsv":
        table().write(path)
    elif kind == "vot":
        table().write(path, format="votable")
    elif kind == "csv.gz":
        table().write(folder / "plain.csv")
        path.write_bytes(gzip.compress((folder / "plain.csv").read_bytes()))
    else:
        delimiter = "|" if kind == "txt" else ","
        table().write(path, format="ascii.csv", delimiter=delimiter)
    return path


@pytest.mark.parametrize("kind", ["parquet", "fits", "fits.gz", "ecsv", "vot", "csv", "csv.gz", "txt"])
def test_every_format_goes_in_with_its_units(fresh: Store, tmp_path: Path, kind: str) -> None:
    path = write(kind, tmp_path)
    report = add_labels(fresh, path, "lasp", id="OBSID")
    assert (report.card.rows, report.card.stored, report.matched.rows, report.matched.spectra) == (N, N, N, N)
    assert report.card.sha256 == sha256_file(path)
    rows = run_sql(fresh, "SELECT spectrum_id, Teff, class, n FROM lasp ORDER BY 1")
    assert rows["spectrum_id"].to_pylist() == IDS.tolist()
    np.testing.assert_array_equal(rows["Teff"].to_numpy(), 4000 + IDS)
    assert rows["class"].to_pylist() == [f"G{i % 10}" for i in IDS]
    if kind not in ("csv", "csv.gz", "txt"):
        note = rows.schema.field("Teff").metadata
        assert note[b"unit"] == b"K"
        assert note[b"description"] == b"effective temperature"
        assert note[b"ucd"] == b"phys.temperature.effective"
    assert verify_store(fresh) == []


def test_fits_is_read_in_blocks_with_its_nulls(fresh: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BLOCK_ROWS", 7)
    columns = [
        fits.Column("obsid", "K", array=IDS),
        fits.Column("flag", "I", null=-1, array=np.where(IDS % 2, -1, 5)),
        fits.Column("unsigned", "I", bzero=1 << 15, array=IDS.astype(np.uint16)),
        fits.Column("bands", "3E", array=np.tile([1, 2, 3], (N, 1))),
        fits.Column("list", "PE()", array=np.array([np.ones(2)] * N, dtype=object)),
        fits.Column("good", "L", array=IDS % 2 == 0),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "f.fits")
    report = add_labels(fresh, tmp_path / "f.fits", "f", id="obsid")
    assert report.card.left_out == ("list",)
    rows = run_sql(fresh, "SELECT * FROM f ORDER BY spectrum_id")
    assert rows["flag"].null_count == N // 2
    np.testing.assert_array_equal(rows["unsigned"].to_numpy(), IDS)
    assert rows["bands"][3].as_py() == [1, 2, 3]
    assert rows["good"][1].as_py() is True


def test_masked_votable_cells_are_null(fresh: Store, tmp_path: Path) -> None:
    t = Table({"obsid": IDS, "feh": MaskedColumn(np.zeros(N), mask=IDS % 2 == 0), "name": ["x"] * N})
    t.write(tmp_path / "t.vot", format="votable")
    add_labels(fresh, tmp_path / "t.vot", "t", id="obsid")
    assert run_sql(fresh, "SELECT feh FROM t")["feh"].null_count == N // 2


# -- sentinels ---------------------------------------------------------------------------------------------------------


def csv(folder: Path, name: str = "c.csv", **columns: Any) -> Path:
    path = folder / name
    names = list(columns)
    lines = [",".join(names), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_sentinels_become_null_by_the_stated_rule(fresh: Store, tmp_path: Path) -> None:
    many = np.arange(N, dtype=float)
    path = csv(
        tmp_path,
        obsid=IDS,
        rv=np.where(many < 3, -9999.0, many - 20),  # certain
        mag=np.where(many < 4, 99.0, 15 + many / 10),  # stands apart
        once=np.where(many == 5, 99.0, 15.0),  # once, without nines behind the point: a value
        once_nines=np.where(many == 5, 99.99, 15.0),
        snr=np.where(many < 4, 99.0, 60 + many),  # in the range of the others: a value
        ra=np.linspace(0, 99, N),
        teff=np.where(many < 2, 9999, 5000 + many.astype(int)),  # 5000 is above half of 9999
        err=np.where(many < 2, -999.0, 50.0),
        text=np.where(many < 6, "N/A", "G5"),
        own=np.where(many < 5, 7.25, 1.0),
    )
    report = add_labels(fresh, path, "c", id="obsid", nulls=["7.25"])
    assert report.card.sentinels == {
        "rv": {"-9999.0": 3},
        "mag": {"99.0": 4},
        "once_nines": {"99.99": 1},
        "err": {"-999.0": 2},
        "own": {"7.25": 5},
    }
    nulls = run_sql(fresh, "SELECT * FROM c_all")
    counts = {name: nulls[name].null_count for name in nulls.column_names}
    assert counts == {
        "obsid": 0, "rv": 3, "mag": 4, "once": 0, "once_nines": 1, "snr": 0, "ra": 0, "teff": 0, "err": 2, "text": 6,
        "own": 5,
    }  # fmt: skip
    kept = add_labels(fresh, path, "c", id="obsid", keep_sentinels=True, replace=True)
    assert kept.card.sentinels == {}
    assert run_sql(fresh, "SELECT min(rv) AS m FROM c")["m"][0].as_py() == -9999


# -- keys --------------------------------------------------------------------------------------------------------------


def test_ids_are_recognised_for_what_they_are(fresh: Store, tmp_path: Path) -> None:
    gaia = [gaia_id(i) for i in range(N)]
    for name, column, on, spectra in (
        ("by_gaia", gaia, "spectrum_id", N),
        ("by_file", [f"spec-56000-A_sp01-{i}.fits" for i in IDS], "source_file", N),
        ("by_dr2", [gaia_id(i + 500) for i in range(N)], "input_name", N),
    ):
        report = add_labels(fresh, csv(tmp_path, f"{name}.csv", key=column, x=range(N)), name, id="key")
        assert report.card.key.on == on
        assert report.matched.spectra == spectra
        assert (
            run_sql(fresh, f"SELECT count(*) AS n FROM {name} JOIN spectra USING (spectrum_id)")["n"][0].as_py() == spectra
        )
    report = add_labels(fresh, tmp_path / "by_gaia.csv", "stars", id="key", on="gaia_source_id")
    assert run_sql(fresh, "SELECT count(*) AS n FROM stars")["n"][0].as_py() == N + 3 == report.matched.spectra


def test_rows_without_a_spectrum_wait_for_it(fresh: Store, tmp_path: Path, more_spectra: Callable) -> None:
    names = [f"spec-56000-A_sp01-{i}.fits" for i in range(1001, 1001 + 2 * N)]
    report = add_labels(fresh, csv(tmp_path, filename=names, x=range(2 * N)), "dr1", id="filename")
    assert report.matched.rows == N
    more_spectra(fresh, 1001 + N)
    assert describe_labels(fresh, "dr1")[0].matched.rows == 2 * N
    assert run_sql(fresh, "SELECT sum(x) AS s FROM dr1")["s"][0].as_py() == sum(range(2 * N))
    assert run_sql(fresh, "SELECT count(*) AS n FROM dr1_all")["n"][0].as_py() == 2 * N


def test_positions_match_spectra_that_come_later(fresh: Store, tmp_path: Path, more_spectra: Callable) -> None:
    ra, dec = sky()
    path = csv(tmp_path, ra=ra, dec=dec - np.where(dec < -80, -1, 1) * 0.2 / 3600, mag=range(N))
    report = add_labels(fresh, path, "phot", position=("RA", "DEC"), radius_arcsec=0.4)
    # Two Gaia spectra near the poles lie within it, too; the two stars at RA 0 are 0.07 arcsec apart.
    assert (report.matched.spectra, report.ambiguous) == (N + 2, 2)
    rows = run_sql(fresh, "SELECT * FROM phot ORDER BY spectrum_id")
    assert "catalogue_row" not in rows.column_names
    np.testing.assert_allclose(rows["separation_arcsec"].to_numpy()[3:N], 0.2, rtol=1e-4)
    assert rows.schema.field("separation_arcsec").metadata[b"unit"] == b"arcsec"
    more_spectra(fresh, 5001)
    assert run_sql(fresh, "SELECT count(*) AS n FROM phot")["n"][0].as_py() == 2 * N + 2
    [again] = rematch(fresh)
    assert again.matched.spectra == 2 * N + 2
    assert run_sql(fresh, "SELECT count(*) AS n FROM phot")["n"][0].as_py() == 2 * N + 2
    assert verify_store(fresh) == []


def test_proper_motions_bring_positions_to_the_spectra(fresh: Store, tmp_path: Path) -> None:
    ra, dec = sky()
    usual = np.abs(dec) < 80
    moved = dec + 16 * 0.5 / 3600  # half an arcsecond a year, 2000 to 2016
    path = csv(tmp_path, ra=ra[usual], dec=moved[usual], pmra=np.zeros(usual.sum()), pmdec=np.full(usual.sum(), 500.0))
    still = add_labels(fresh, path, "still", position=("ra", "dec"), radius_arcsec=0.1)
    assert still.matched.rows == 0
    key = {"position": ("ra", "dec"), "pm": ("pmra", "pmdec"), "epoch": 2016.0, "radius_arcsec": 0.1}
    assert add_labels(fresh, path, "moving", **key).matched.rows >= usual.sum() - 2


@pytest.mark.parametrize("nearby", [False, True])
def test_unknown_proper_motions_move_nothing(fresh: Store, tmp_path: Path, nearby: bool) -> None:
    ra, dec = sky()
    path = csv(tmp_path, ra=ra, dec=dec, pmra=np.full(N, -9999), pmdec=np.full(N, -9999), epoch=np.full(N, 2016.0))
    key: dict[str, Any] = {"position": ("ra", "dec"), "pm": ("pmra", "pmdec"), "epoch": "epoch", "radius_arcsec": 0.1}
    report = add_labels(fresh, path, "c", nearby=nearby, **key)
    assert report.matched.rows == N
    assert report.card.sentinels["pmra"] == {"-9999.0": N}


def test_each_row_moves_from_its_own_epoch(fresh: Store, tmp_path: Path) -> None:
    ra, dec = sky()
    usual = np.flatnonzero(np.abs(dec) < 80)
    years = np.linspace(1990, 2020, len(usual))  # the LAMOST positions are of 2000
    moved = dec[usual] + (years - 2000) * 0.5 / 3600
    columns = {"pmra": np.zeros(len(usual)), "pmdec": np.full(len(usual), 500.0), "year": years}
    path = csv(tmp_path, ra=ra[usual], dec=moved, **columns)
    key: dict[str, Any] = {"position": ("ra", "dec"), "pm": ("pmra", "pmdec"), "epoch": "year", "radius_arcsec": 0.1}
    add_labels(fresh, path, "c", **key)
    assert run_sql(fresh, "SELECT count(*) AS n FROM c WHERE spectrum_id < 2000")["n"][0].as_py() >= len(usual) - 2


def test_proper_motions_in_other_units_are_refused(fresh: Store, tmp_path: Path) -> None:
    ra, dec = sky()
    stars = Table({"ra": ra, "dec": dec, "pmra": np.full(N, 0.001), "pmdec": np.full(N, 0.001)})
    stars["pmra"].unit = "arcsec/yr"
    stars.write(tmp_path / "c.ecsv")
    with pytest.raises(InputError, match="a proper motion is in 'arcsec / yr', they must be in mas/yr"):
        add_labels(fresh, tmp_path / "c.ecsv", "c", position=("ra", "dec"), pm=("pmra", "pmdec"), epoch=2016.0)
    stars["pmra"].unit = stars["pmdec"].unit = "mas/yr"
    stars.write(tmp_path / "c.ecsv", overwrite=True)
    assert add_labels(
        fresh, tmp_path / "c.ecsv", "c", position=("ra", "dec"), pm=("pmra", "pmdec"), epoch=2016.0
    ).matched.rows


def test_labels_view_holds_everything_with_its_unit(fresh: Store, tmp_path: Path) -> None:
    add_labels(fresh, write("ecsv", tmp_path), "lasp", id="obsid")
    add_labels(fresh, csv(tmp_path, obsid=IDS, feh=np.linspace(-2, 0, N)), "other", id="obsid")
    rows = run_sql(fresh, "SELECT * FROM labels WHERE spectrum_id = 1001 ORDER BY catalogue, label").to_pylist()
    assert [(r["catalogue"], r["label"], r["value"], r["text"], r["unit"]) for r in rows] == [
        ("lasp", "Teff", 5001.0, None, "K"),
        ("lasp", "class", None, "G1", None),
        ("lasp", "n", 0.0, None, None),
        ("other", "feh", -2.0, None, None),
    ]
    remove_labels(fresh, "other")
    assert [report.card.name for report in describe_labels(fresh)] == ["lasp"]
    assert run_sql(fresh, "SELECT DISTINCT catalogue FROM labels")["catalogue"].to_pylist() == ["lasp"]
    with pytest.raises(QueryError, match="there is no catalogue 'other'; there are lasp"):
        remove_labels(fresh, "other")


def test_counts_add_up(fresh: Store, tmp_path: Path) -> None:
    ids: list[Any] = [*IDS[:10], *IDS[:3], "", 999_999]
    path = csv(tmp_path, obsid=ids, x=range(15))
    with pytest.raises(
        InputError, match=r"3 rows repeat a key in obsid that occurred before, first 1001; .*--duplicates first"
    ):
        add_labels(fresh, path, "c", id="obsid")
    assert fresh.tables("labels") == []
    facts = add_labels(fresh, path, "c", id="obsid", duplicates="first").facts()
    assert (facts["rows"], facts["stored"], facts["duplicates"], facts["without_key"]) == (15, 12, 3, 1)
    assert (facts["matched_rows"], facts["unmatched_rows"], facts["matched_spectra"]) == (10, 2, 10)
    assert run_sql(fresh, "SELECT max(x) AS x FROM c WHERE spectrum_id = 1001")["x"][0].as_py() == 0


# -- what cannot be used -----------------------------------------------------------------------------------------------

BIG = [gaia_id(i, pixel=150_000_000) for i in range(0, 40)]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": IDS}, {"id": "obsid"}, "c.csv has no column 'obsid'; it has a"),
        ({"obsid": IDS}, {}, "say how the catalogue belongs to spectra: by --id COLUMN, or by --position RA DEC"),
        ({"obsid": [float(b) for b in BIG]}, {"id": "obsid"}, "floating-point numbers lose digits|which have lost digits"),
        ({"obsid": [int(float(b)) for b in BIG]}, {"id": "obsid"}, "were floating-point numbers once and have lost digits"),
        ({"obsid": [f"{b:.5e}A"[:-1] for b in BIG[:1]] + ["x"]}, {"id": "obsid"}, "ids like '.*', which have lost digits"),
        ({"obsid": [1.5, 2.0]}, {"id": "obsid"}, "obsid holds fractions, first 1.5; an id is a whole number"),
        ({"obsid": [5, 6]}, {"id": "obsid"}, r"no id in obsid \(such as 5\) is one of a spectrum in the database"),
        ({"obsid": ["true", "false"]}, {"id": "obsid"}, "obsid is bool; a key is a whole number or text"),
        (
            {"ra": ["x", "y"], "dec": [1, 2]},
            {"position": ("ra", "dec")},
            "the column ra is string, positions must be numbers",
        ),
        ({"ra": [400, 1], "dec": [1, 2]}, {"position": ("ra", "dec")}, "1 of 2 values of right ascension are outside"),
        (
            {"ra": [10, 11], "dec": [1, 2], "a": [12_000, 1], "b": [1, 1]},
            {"position": ("ra", "dec"), "pm": ("a", "b"), "epoch": 2016.0},
            "1 proper motions are above 11000 mas/yr, first 12000, and no star is as fast",
        ),
        (
            {"ra": [10, 11], "dec": [1, 2], "a": [1, 1]},
            {"position": ("ra", "dec"), "pm": ("a", "a"), "epoch": 57388.0},
            "57388 is no epoch; give Julian years such as 2016.0",
        ),
        (
            {"ra": [10, 11], "dec": [1, 2], "a": [1, 1]},
            {"position": ("ra", "dec"), "pm": ("a", "a")},
            "--pm needs --epoch, the year of the catalogue's positions",
        ),
        ({"catalogue_row": [1]}, {"id": "catalogue_row"}, "the column name catalogue_row is used by specdb"),
        ({"obsid": []}, {"id": "obsid"}, "c.csv has no rows"),
    ],
)
def test_catalogues_that_cannot_be_used(fresh: Store, tmp_path: Path, columns: dict, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        add_labels(fresh, csv(tmp_path, **columns), "c", **options)
    assert fresh.tables("labels") == []


def test_ids_above_2_to_60_that_are_whole_go_in(fresh: Store, tmp_path: Path) -> None:
    assert add_labels(fresh, csv(tmp_path, obsid=BIG), "c", id="obsid", on="spectrum_id").card.stored == len(BIG)


def test_mixed_types_name_the_row(fresh: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CSV_BLOCK_BYTES", 256)
    snr: list[Any] = [*range(N - 1), "bad"]
    with pytest.raises(InputError, match=r"after row \d+: .*'bad'.*the rows before were of another type"):
        add_labels(fresh, csv(tmp_path, obsid=IDS, snr=snr), "c", id="obsid")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; a catalogue has a header and rows"),
        (b"# only\n# comments\n", "has no header line"),
        (b"\x00\x01\x02" * 50, "is of no format that catalogues come in"),
        (b"PAR1 broken", "cannot be read as parquet"),
        (b"\x1f\x8b\x08broken", "cannot be read"),
        (b"<?xml version='1.0'?><VOTABLE>", "cannot be read as votable"),
        (b"a,b\n1,2\n1,2,3\n", "cannot be read as csv"),
    ],
)
def test_files_that_are_no_catalogue(fresh: Store, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        add_labels(fresh, tmp_path / "x", "c", id="a")
    with pytest.raises(InputError, match="cannot be read"):
        add_labels(fresh, tmp_path / "missing", "c", id="a")


def test_a_fits_file_without_a_table_and_a_large_votable(
    fresh: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits.PrimaryHDU(np.ones(4)).writeto(tmp_path / "image.fits")
    with pytest.raises(InputError, match="holds no FITS table; spectra go in with `specdb build-index`"):
        add_labels(fresh, tmp_path / "image.fits", "c", id="a")
    monkeypatch.setattr(files, "VOTABLE_LIMIT", 10)
    with pytest.raises(InputError, match="VOTables are read up to 10: convert it to Parquet or FITS"):
        add_labels(fresh, write("vot", tmp_path), "c", id="obsid")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spectra", "the name 'spectra' has a meaning in SQL here"),
        ("gaia_xp", "has a meaning in SQL"),
        ("select", "has a meaning in SQL"),
        ("lasp_all", "has a meaning in SQL"),
        ("../x", "cannot be the name of a catalogue: use letters, digits"),
        ("LASP", "there is a catalogue 'lasp' already; --replace replaces it"),
    ],
)
def test_names(fresh: Store, tmp_path: Path, name: str, message: str) -> None:
    path = write("csv", tmp_path)
    add_labels(fresh, path, "lasp", id="obsid")
    with pytest.raises(InputError, match=message):
        add_labels(fresh, path, name, id="obsid", replace=name == "LASP")
    add_labels(fresh, path, "lasp", id="obsid", replace=True)


def test_only_matched_rows_are_in_the_view(fresh: Store, tmp_path: Path, more_spectra: Callable) -> None:
    add_labels(fresh, csv(tmp_path, obsid=[*IDS, 1001 + N], x=range(N + 1)), "lasp", id="obsid")
    add_labels(fresh, csv(tmp_path, "every.csv", obsid=IDS, x=range(N)), "every", id="obsid")
    counts = (
        "SELECT (SELECT count(*) FROM lasp) AS s, (SELECT count(*) FROM lasp_all) AS a, (SELECT count(*) FROM every) AS e"
    )
    assert run_sql(fresh, counts).to_pylist() == [{"s": N, "a": N + 1, "e": N}]
    more_spectra(fresh, 1001 + N)
    assert run_sql(fresh, counts).to_pylist() == [{"s": N + 1, "a": N + 1, "e": N}]
