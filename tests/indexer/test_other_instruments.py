"""SDSS and DESI from files to answers: simulated coadds, the encoder of LAMOST, searches across instruments."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from click.testing import CliRunner

from indexer import build_index
from indexer.simulate import desi_files, simulate_desi, simulate_lamost
from indexer.simulate.desi_like import draw_desi_like
from specdb.cli import cli
from specdb.database import Database
from specdb.errors import InputError, QueryError
from specdb.spectra import Source, Spectra, get_modality
from specdb.spectra.readers import read_source
from specdb.store import Store, matrix

N = 110


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> desi_files.DesiSurvey:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desi_files, "_FIBRES", 70)
        return simulate_desi(tmp_path_factory.mktemp("survey") / "made", N, seed=4)


@pytest.fixture(scope="module")
def db(survey: desi_files.DesiSurvey, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("db") / "db"
    build_index(root, "desi", survey.spectra)
    return root


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def spec_file(path: Path, spectra: Spectra) -> Path:
    """Write the first of some spectra as an SDSS spec file, on its pixels and at its resolution."""
    loglam = 1e-4 * np.arange(35600, 39650)
    at = 10**loglam
    flux, error, sigma = (
        np.interp(at, spectra.wavelength, values)
        for values in (spectra.flux[0], spectra.ivar[0] ** -0.5, spectra.lsf_sigma[0])
    )
    columns = {"flux": flux, "loglam": loglam, "ivar": error**-2, "wdisp": sigma / (at * np.log(10) * 1e-4)}
    primary = fits.PrimaryHDU(header=fits.Header({"TELESCOP": "SDSS 2.5-M"}))
    table = [fits.Column(name, "E", array=values) for name, values in columns.items()]
    fits.HDUList([primary, fits.BinTableHDU.from_columns(table, name="COADD")]).writeto(path)
    return path


def test_files_give_back_what_was_drawn(survey: desi_files.DesiSurvey) -> None:
    files = sorted(survey.spectra.iterdir())
    assert (survey.n_files, survey.n_idle) == (len(files), 8)
    desi = get_modality("desi")
    batches = [part for path in files for part in read_source(Source(path), desi.readers)]
    assert sum(map(len, batches)) == N + 8
    drawn = draw_desi_like(N, seed=4)
    flux = np.concatenate([batch.flux[: len(batch)] for batch in batches])
    kinds = np.concatenate([batch.metadata["fiber_type"].to_numpy(zero_copy_only=False) for batch in batches])
    np.testing.assert_allclose(flux[kinds == "TGT"], drawn.native.flux, rtol=1e-5, atol=1e-6)
    prepared = desi.preparation(batches)
    assert len(prepared) == N
    assert {rejection.reason for rejection in prepared.rejections} == {"blank_fibre"}
    # The simulator matches resolutions in the same way, but knows them exactly.
    direct = get_modality("lamost_lrs").preparation([drawn.lrs])
    assert np.abs(prepared.flux - direct.flux).max() < 0.02
    np.testing.assert_allclose(prepared.ivar, direct.ivar, rtol=0.05)
    truth = pq.read_table(survey.truth)
    assert truth["teff"].to_pylist() == drawn.labels[:, 0].tolist()
    assert truth["target_id"].to_pylist()[0] == desi_files.FIRST_TARGETID


def test_a_survey_becomes_a_database(survey: desi_files.DesiSurvey, db: Path) -> None:
    database = Database(Store.open(db))
    assert database.counts() == {"desi": N}
    assert database.verify() == []
    state = database.status()["modalities"]["desi"]
    assert state["rejected"] == {"skipped: blank_fibre": 8}
    hits = database.search(desi_files.FIRST_TARGETID, k=3)
    assert len(hits.rows) == 3
    sky = database.sql("SELECT count(*) AS n FROM desi WHERE ra IS NULL OR mjd IS NULL OR fiber_type <> 'TGT'")
    assert sky.rows["n"].to_pylist() == [0]
    assert "desi: 110 spectra" in run("status", "--db", db)
    assert "8 records" not in run("build-index", "desi", survey.spectra, "--db", db)


def test_neighbours_are_alike(survey: desi_files.DesiSurvey, db: Path) -> None:
    database = Database(Store.open(db))
    truth = pq.read_table(survey.truth)
    teff = dict(zip(truth["target_id"].to_pylist(), np.log10(truth["teff"].to_numpy()), strict=True))
    own, found = [], []
    for target in list(teff)[:40]:
        hits = database.search(target, k=1)
        own.append(teff[target])
        found.append(teff[hits.rows["spectrum_id"][0].as_py()])
    assert np.corrcoef(own, found)[0, 1] > 0.8


def test_a_file_of_one_instrument_is_searched_for_in_another(
    survey: desi_files.DesiSurvey, db: Path, tmp_path: Path
) -> None:
    drawn = draw_desi_like(N, seed=4)
    brightest = int(np.argmax(drawn.snr))
    path = spec_file(tmp_path / "spec-1-2-3.fits", drawn.native.take([brightest]))
    database = Database(Store.open(db))
    hits = database.search(path, to="desi", k=5)
    assert desi_files.FIRST_TARGETID + brightest in hits.rows["spectrum_id"].to_pylist()
    assert str(desi_files.FIRST_TARGETID + brightest) in run("search", path, "--to", "desi", "-k", 5, "--db", db)
    with pytest.raises(QueryError, match="has no modality 'sdss'; it has desi: name one with --to"):
        database.search(path)
    # Arrays whose instrument is named need none of its spectra in the database, either.
    alike = database.search(drawn.native.take([brightest]), modality="desi", k=5)
    assert desi_files.FIRST_TARGETID + brightest in alike.rows["spectrum_id"].to_pylist()


def test_without_saying_where_a_file_is_looked_for_among_what_it_is_made_to_look_like(tmp_path: Path) -> None:
    drawn = draw_desi_like(30, seed=4)
    simulate_lamost(tmp_path / "lamost", 20)
    build_index(tmp_path / "db", "lamost", tmp_path / "lamost" / "spectra")
    hits = Database(Store.open(tmp_path / "db")).search(spec_file(tmp_path / "spec-1-2-3.fits", drawn.native), k=3)
    assert hits.modality == "lamost_lrs"
    assert len(hits.rows) == 3


def test_what_the_encoder_was_trained_on_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = spec_file(tmp_path / "spec-1-2-3.fits", draw_desi_like(1).native)
    with caplog.at_level(logging.WARNING):
        build_index(tmp_path / "db", "sdss", path)
    cautions = [record for record in caplog.records if "was trained on lamost_lrs, not on sdss" in record.getMessage()]
    assert len(cautions) == 1
    database = Database(Store.open(tmp_path / "db"))
    assert database.counts() == {"sdss": 1}
    parts = database.store.embedding_parts(database.store.default_encoder, "sdss")
    manifest = database.store.manifest()
    made = manifest.provenance[manifest.files[parts[0]].provenance]
    assert (made["modality"], made["preparation"]) == ("sdss", "specclip-lrs-matched")
    (row,) = database.sql("SELECT spectrum_id FROM sdss").rows["spectrum_id"].to_pylist()
    with pytest.raises(InputError, match="sdss spectra are read as lamost_lrs ones"):
        database.translate(row, "lamost_lrs")
    translated = database.translate(row, "gaia_xp")
    assert translated.flux.shape == (1, 343)
    assert np.isfinite(matrix(database.spectra([row], "sdss")["flux"])).all()


def test_a_simulation_needs_a_new_folder_and_stars(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not empty; name a new folder"):
        simulate_desi(tmp_path, 3)
    with pytest.raises(InputError, match="draw at least one star"):
        simulate_desi(tmp_path / "new", 0)
    native = draw_desi_like(1).native
    with pytest.raises(InputError, match="give 7781 pixels, inverse variances and line spread"):
        plain = Spectra(native.wavelength, native.flux)
        desi_files.write_coadd(
            tmp_path / "x.fits.gz", plain, np.ones(1, int), np.zeros(5), np.zeros(5), np.random.default_rng()
        )
