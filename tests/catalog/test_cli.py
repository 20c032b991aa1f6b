"""`sql`, `labels` and `crossmatch` on the command line."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from specdb.cli import cli
from specdb.store import Store
from tests.catalog.small_store import N, sky


def run(store: Store, *arguments: object) -> Result:
    result = CliRunner().invoke(cli, [*map(str, arguments), "--db", str(store.root)])
    assert result.exit_code == 0, result.output
    return result


def test_labels_from_adding_to_removing(fresh: Store, tmp_path: Path) -> None:
    path = tmp_path / "lasp.csv"
    path.write_text("obsid,teff,mag\n" + "".join(f"{1001 + i},{5000 + i},{99.99 if i < 4 else 15.5}\n" for i in range(30)))
    said = run(fresh, "labels", "add", path, "--name", "lasp", "--id", "obsid").output
    assert "30 rows in lasp.csv, 30 stored, 0 duplicates left out, 0 without a key" in said
    assert f"matched by obsid = spectrum_id: 30 rows with 30 of {2 * N} spectra, 0 rows unmatched" in said
    assert "mag: 99.99 (4 times) became null" in said
    assert "lasp" in run(fresh, "labels", "list").output
    assert '"sha256"' in run(fresh, "labels", "show", "lasp").output
    assert run(fresh, "labels", "rematch").output == ""
    assert "lasp removed" in run(fresh, "labels", "remove", "lasp").output
    result = CliRunner().invoke(cli, ["labels", "show", "lasp", "--db", str(fresh.root)])
    assert "there is no catalogue 'lasp'; there are none yet" in result.output


def test_sql_answers_describes_and_writes(store: Store, tmp_path: Path) -> None:
    assert str(2 * N) in run(store, "sql", "SELECT count(*) FROM spectra").output
    assert "right ascension, ICRS" in run(store, "sql", "--schema", "gaia_xp").output
    assert run(store, "sql", "SELECT rank, score FROM knn(1001, k := 3)", "--csv").output.count("\n") == 4
    out = tmp_path / "hits.vot"
    assert f"{N} rows written" in run(store, "sql", "SELECT spectrum_id, ra FROM gaia_xp", "-o", out).stderr
    assert out.exists()
    result = CliRunner().invoke(cli, ["sql", "--db", str(store.root)])
    assert "give either a query or --schema" in result.output


def test_positions_say_how_good_the_match_is(fresh: Store, tmp_path: Path) -> None:
    path = tmp_path / "phot.csv"
    path.write_text(
        "ra,dec,g,E(BP-RP)\n" + "".join(f"{ra},{dec},{15 + dec / 90},0.1\n" for ra, dec in zip(*sky(), strict=True))
    )
    said = run(fresh, "labels", "add", path, "--name", "phot", "--position", "ra", "dec", "--nearby").output
    assert f"{N} rows in phot.csv, {N} stored, 0 duplicates left out, 0 far from all spectra left out" in said
    assert "separation in arcsec: min 0, " in said
    assert f"expected by chance: 0 of the {2 * N} matched spectra" in said


def test_any_expression_over_labels_can_be_mapped(fresh: Store, tmp_path: Path) -> None:
    path = tmp_path / "red.csv"
    path.write_text("obsid,E(BP-RP),feh\n" + "".join(f"{1001 + i},{i / 100},{-i / 10}\n" for i in range(N)))
    run(fresh, "labels", "add", path, "--name", "red", "--id", "obsid")
    figure = tmp_path / "map.png"
    common = ["map", "--modality", "lamost_lrs", "--level", "2", "-o", figure]
    said = run(fresh, *common, "--value", '3.1 * red."E(BP-RP)"', "--statistic", "median")
    assert f"{N} of {N} stars" in said.stderr
    said = run(fresh, *common, "--statistic", "density", "--where", "feh < -3")
    assert f"{N - 31} of {N - 31} stars" in said.stderr
    assert figure.stat().st_size > 10_000


def test_the_schema_reads_well(fresh: Store, tmp_path: Path) -> None:
    lines = run(fresh, "sql", "--schema", "lamost_lrs").output.splitlines()
    assert lines[0].split() == ["table", "column", "type", "unit", "ucd", "description"]
    [ra] = [line for line in lines if line.split()[1:2] == ["ra"]]
    assert ra.split(maxsplit=5) == ["lamost_lrs", "ra", "DOUBLE", "deg", "pos.eq.ra;meta.main", "right ascension, ICRS"]
    assert all(len(line) < 160 for line in lines)


def test_crossmatch_says_how_good_it_is(fresh: Store) -> None:
    said = run(fresh, "crossmatch", "lamost_lrs", "gaia_xp").output
    assert f"{N} pairs: 3 by id, {N - 3} by position within 2 arcsec (best)" in said
    assert "expected by chance: 0 (0.0%)" in said
    assert '"false_fraction": 0.0' in run(fresh, "crossmatch", "lamost_lrs", "gaia_xp", "--json").output
