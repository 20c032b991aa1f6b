"""The command line: one line per error, exit status, output formats, quick start."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from indexer.simulate import LamostSurvey, simulate_lamost
from specdb.cli import cli
from specdb.store import FORMAT_VERSION, Store


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def error_of(result: Result) -> str:
    """Return the one line that the command ended with."""
    assert result.exit_code == 1, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert "Traceback" not in result.output
    return line


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> LamostSurvey:
    return simulate_lamost(tmp_path_factory.mktemp("survey"), n_stars=12, repeat_fraction=0.5, anomalies=0)


@pytest.fixture(scope="module")
def db(survey: LamostSurvey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("db") / "db"
    result = run("build-index", "lamost", survey.spectra, "--db", folder, "--workers", 0)
    assert result.exit_code == 0, result.output
    assert "accepted" in result.stdout
    assert "measured recall@10 1.0000" in result.stdout
    return folder


def test_help_does_not_load_heavy_packages() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from specdb.cli import cli;"
        "CliRunner().invoke(cli, ['--help']);"
        "print([m for m in ('torch', 'faiss', 'duckdb', 'astropy', 'pyarrow', 'streamlit') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_sql_does_not_load_torch(db: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from specdb.cli import cli;"
        f"r = CliRunner().invoke(cli, ['sql', 'SELECT 1', '--db', {str(db)!r}]);"
        "print(r.exit_code, [m for m in ('torch', 'faiss') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "0 []"


def test_search_by_id_and_by_file_in_all_formats(db: Path) -> None:
    store = Store.open(db)
    spectrum_id = int(store.ids("lamost_lrs")[0])
    table = run("search", spectrum_id, "-k", 3, "--db", db)
    assert table.exit_code == 0, table.output
    assert table.stdout.splitlines()[0].split()[:3] == ["rank", "score", "spectrum_id"]
    as_json = json.loads(run("search", spectrum_id, "-k", 3, "--json", "--db", db).stdout)
    as_csv = list(csv.DictReader(io.StringIO(run("search", spectrum_id, "-k", 3, "--csv", "--db", db).stdout)))
    assert [r["spectrum_id"] for r in as_json] == [int(r["spectrum_id"]) for r in as_csv]
    assert [r["rank"] for r in as_json] == [1, 2, 3]
    path = as_json[0]["source_file"]
    by_file = json.loads(run("search", path, "-k", 3, "--json", "--include-self", "--db", db).stdout)
    assert by_file[0]["source_file"] == path


def test_k_beyond_the_database_gives_all(db: Path) -> None:
    n = len(Store.open(db).ids("lamost_lrs"))
    rows = json.loads(run("search", int(Store.open(db).ids("lamost_lrs")[0]), "-k", 999, "--json", "--db", db).stdout)
    assert len(rows) == n - 1


def test_status_verify_and_repair(db: Path, tmp_path: Path) -> None:
    copy = tmp_path / "db"
    shutil.copytree(db, copy)
    assert json.loads(run("status", "--json", "--db", copy).stdout)["modalities"]["lamost_lrs"]["spectra"] > 0
    assert "encoder specclip-mini" in run("status", "--db", copy).stdout
    assert run("verify", "--db", copy).stdout.endswith("no problems\n")

    vectors = next((copy / "index").rglob("vectors-*.f32"))
    vectors.write_bytes(vectors.read_bytes()[:-4])
    embeddings = next((copy / "embeddings").rglob("part-*.parquet"))
    embeddings.unlink()
    broken = run("verify", "--repair", "--db", copy)
    assert broken.exit_code == 1
    assert "the file is missing" in broken.stdout
    assert "damaged" in broken.stdout
    assert run("embed", "lamost", "--db", copy).exit_code == 0
    assert run("index", "lamost", "--db", copy).exit_code == 0
    assert run("verify", "--db", copy).stdout.endswith("no problems\n")


def test_dry_run_writes_nothing(survey: LamostSurvey, tmp_path: Path) -> None:
    result = run("build-index", "lamost", survey.spectra, "--db", tmp_path / "db", "--dry-run")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == survey.n_spectra
    assert not (tmp_path / "db").exists()


def test_rejected_can_be_queried(survey: LamostSurvey, tmp_path: Path) -> None:
    (tmp_path / "empty.fits").touch()
    (tmp_path / "cut.fits.gz").write_bytes(next(survey.spectra.rglob("*.gz")).read_bytes()[:5000])
    (tmp_path / "garbage.fits").write_bytes(b"not a FITS file" * 500)
    result = run("build-index", "lamost", tmp_path, "--db", tmp_path / "new" / "db", "--workers", 0)
    assert result.exit_code == 0, result.output
    assert "0 accepted, 0 skipped, 3 failed" in result.stdout
    rows = json.loads(
        run("sql", "SELECT * FROM rejected ORDER BY source_file", "--json", "--db", tmp_path / "new" / "db").stdout
    )
    assert [(Path(r["source_file"]).name, r["reason"]) for r in rows] == [
        ("cut.fits.gz", "truncated"),
        ("empty.fits", "empty_file"),
        ("garbage.fits", "unknown_format"),
    ]


def test_errors_of_search(db: Path, tmp_path: Path) -> None:
    assert "k is 0; ask for at least one answer" in error_of(run("search", 9000000000000, "-k", 0, "--db", db))
    assert "no spectrum has the id 1" in error_of(run("search", 1, "--db", db))
    assert "neither a spectrum_id (a whole number) nor an existing file" in error_of(run("search", "no.fits", "--db", db))
    assert "has no modality 'gaia_xp'" in error_of(run("search", 9000000000000, "--to", "gaia_xp", "--db", db))
    assert "ids have 64 bits" in error_of(run("search", 2**70, "--db", db))
    assert "is a folder" in error_of(run("search", tmp_path, "--db", db))
    assert "has no modality 'desi'" in error_of(run("search", 9000000000000, "--modality", "desi", "--db", db))
    (tmp_path / "text.fits").write_text("nothing")
    assert "is not a spectrum of this database's modalities (lamost_lrs: " in error_of(
        run("search", tmp_path / "text.fits", "--db", db)
    )
    assert "no specdb database" in error_of(run("search", 1, "--db", tmp_path))


def test_a_missing_part_is_said(db: Path, tmp_path: Path) -> None:
    copy = tmp_path / "db"
    shutil.copytree(db, copy)
    spectrum_id = int(Store.open(db).ids("lamost_lrs")[0])
    next((copy / "spectra").rglob("part-*.parquet")).unlink()
    assert "`specdb verify` says what else is damaged" in error_of(run("search", spectrum_id, "--db", copy))
    assert "`specdb verify` says what else is damaged" in error_of(run("sql", "SELECT * FROM spectra", "--db", copy))


def test_errors_of_sql(db: Path, tmp_path: Path) -> None:
    assert "tables: embeddings, lamost_lrs, rejected, spectra" in error_of(run("sql", "SELECT * FROM stars", "--db", db))
    assert "these are 2 SQL statements; give one" in error_of(run("sql", "SELECT 1; SELECT 2", "--db", db))
    assert "these are 0 SQL statements; give one" in error_of(run("sql", "", "--db", db))
    target = tmp_path / "out.csv"
    assert "a statement of type COPY is not allowed" in run("sql", f"COPY spectra TO '{target}'", "--db", db).stderr
    assert not target.exists()


def test_errors_of_building(db: Path, survey: LamostSurvey, tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert "no survey is called 'lamots'; known surveys: desi, gaia-xp, lamost, sdss" in error_of(
        run("build-index", "lamots", tmp_path)
    )
    assert str(tmp_path / "nowhere") in error_of(run("build-index", "lamost", tmp_path / "nowhere", "--db", new))
    assert not new.exists()
    (tmp_path / "hollow").mkdir()
    assert "hollow" in error_of(run("build-index", "lamost", tmp_path / "hollow", "--db", new))
    assert "no encoder is called 'gpt'" in error_of(
        run("build-index", "lamost", survey.spectra, "--encoder", "gpt", "--db", new)
    )
    with Store.open(db).writing():
        assert "is being written by process" in error_of(run("build-index", "lamost", survey.spectra, "--db", db))
    newer = tmp_path / "newer"
    shutil.copytree(db, newer)
    settings = newer / "specdb.toml"
    settings.write_text(settings.read_text().replace(f"format_version = {FORMAT_VERSION}", "format_version = 99"))
    assert "has format version 99" in error_of(run("build-index", "lamost", survey.spectra, "--db", newer))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    assert "only in an empty or a new folder" in error_of(
        run("ingest", "lamost", survey.spectra, "--db", tmp_path / "other")
    )


def test_output_formats_exclude_one_another(db: Path) -> None:
    result = run("sql", "SELECT 1", "--json", "--csv", "--db", db)
    assert result.exit_code == 2
    assert "choose one of --table, --json and --csv" in result.stderr


def test_encoders_are_listed_and_shown(tmp_path: Path) -> None:
    names = [row["name"] for row in json.loads(run("encoders", "list", "--json").stdout)]
    assert "specclip-mini" in names
    assert json.loads(run("encoders", "show", "specclip-mini").stdout)["name"] == "specclip-mini"
    assert "no encoder is called" in error_of(run("encoders", "show", "nobody"))
    (tmp_path / "x.ckpt").write_bytes(b"junk")
    assert "x.ckpt" in error_of(run("encoders", "import", tmp_path / "x.ckpt"))
    assert "no revision is recorded for this encoder yet: give --revision" in error_of(
        run("encoders", "pull", "specclip-split")
    )


def test_doctor_runs_a_real_search() -> None:
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert "search of 64 vectors on the CPU: works" in result.stdout
    assert "default encoder: specclip-mini" in result.stdout


def test_the_demo_takes_the_whole_tour_twice(tmp_path: Path) -> None:
    first = run("demo", tmp_path / "demo", "--stars", 30)
    assert first.exit_code == 0, first.output
    assert "no problems" in first.stdout
    again = run("demo", tmp_path / "demo", "--stars", 30)
    assert again.exit_code == 0, again.output
    assert "index unchanged" in again.stdout


@pytest.mark.shared
def test_other_instruments_are_named_and_declined(shared: Path, tmp_path: Path) -> None:
    files = [*(shared / "sdss_stellar").glob("*.fits*"), *(shared / "desi_edr_format").glob("*.fits*")]
    result = run("build-index", "lamost", *files, "--db", tmp_path / "db", "--workers", 0)
    assert result.exit_code == 0, result.output
    assert f"0 accepted, {len(files)} skipped, 0 failed" in result.stdout
    rows = json.loads(run("sql", "SELECT DISTINCT reason FROM rejected", "--json", "--db", tmp_path / "db").stdout)
    assert rows == [{"reason": "other_instrument"}]
