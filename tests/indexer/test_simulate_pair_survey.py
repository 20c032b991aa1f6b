"""The survey of pairs on disk: specdb's own readers take every file for what it says, and the pairs are the right ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from click.testing import CliRunner

from indexer.simulate import PairSurvey, draw_pairs, simulate_pairs
from indexer.simulate.pair_survey import FIRST_PAIR_OBSID
from indexer.simulate.xp_files import SOLUTION_ID, is_simulated, simulated_source_ids
from specdb.cli import cli
from specdb.errors import InputError
from specdb.spectra import Source, Spectra, get_modality
from specdb.spectra.readers.registry import read_source

N = 262  # more than one batch


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> PairSurvey:
    return simulate_pairs(tmp_path_factory.mktemp("pairs") / "sim", n_stars=N, seed=11)


def read(folder: Path, reader: str) -> list[Spectra]:
    return [batch for path in sorted(folder.glob("*.fits")) for batch in read_source(Source(path), (reader,))]


def test_xp_files_are_read_and_prepared_without_rejection(survey: PairSurvey) -> None:
    truth = pq.read_table(survey.truth)
    preparation = get_modality("gaia_xp").preparation
    prepared = []
    for folder, reader in ((survey.xp_continuous, "gaia_xp_continuous"), (survey.xp_sampled, "gaia_xp_sampled")):
        batches = read(folder, reader)
        ids = np.concatenate([batch.metadata["gaia_source_id"].to_numpy() for batch in batches])
        assert np.array_equal(ids, truth["gaia_source_id"].to_numpy())
        result = preparation(batches)
        assert len(result) == N
        assert not result.rejections
        prepared.append(result)
    np.testing.assert_allclose(prepared[0].flux, prepared[1].flux, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(prepared[0].snr, prepared[1].snr, rtol=1e-2)


def test_files_hold_what_draw_pairs_gives(survey: PairSurvey) -> None:
    truth, pairs = pq.read_table(survey.truth), draw_pairs(N, seed=11)
    assert np.array_equal(truth["teff"].to_numpy(), pairs.truth.labels[:, 0])
    batches = read(survey.xp_sampled, "gaia_xp_sampled")
    np.testing.assert_allclose(np.concatenate([batch.flux for batch in batches]), pairs.xp_flux, rtol=1e-6)
    row = N - 1
    (spectrum,) = read_source(Source(survey.lamost / truth["source_file"][row].as_py()), ("lamost",))
    assert np.array_equal(spectrum.flux[0], pairs.lrs.flux[row])
    assert spectrum.metadata["spectrum_id"][0].as_py() == truth["lamost_obsid"][row].as_py()


def test_ids_are_unmistakable_and_positions_right(survey: PairSurvey) -> None:
    truth = pq.read_table(survey.truth)
    source_id, dec = truth["gaia_source_id"].to_numpy(), truth["dec"].to_numpy()
    assert source_id.dtype == np.int64
    assert (source_id > 0).all()
    assert len(np.unique(source_id)) == len(np.unique(truth["lamost_obsid"].to_numpy())) == N
    assert is_simulated(source_id).all()
    assert not is_simulated(np.array([349511554371328, 120435178731136, 5853498713190525696])).any()
    assert truth["lamost_obsid"].to_numpy().min() >= FIRST_PAIR_OBSID
    metadata = [batch.metadata for batch in read(survey.xp_continuous, "gaia_xp_continuous")]
    coarse_ra, coarse_dec = (np.concatenate([m[name].to_numpy() for m in metadata]) for name in ("ra", "dec"))
    assert np.abs(coarse_dec - dec).max() < 0.02
    assert (np.abs(coarse_ra - truth["ra"].to_numpy()) * np.cos(np.radians(dec))).max() < 0.03
    pole = simulated_source_ids(np.array([0.0, 359.999]), np.array([90.0, -90.0]), np.array([0, 2**25 + 1]))
    assert is_simulated(pole).all()
    assert (pole // 34359738368 < 12 * 4**12).all()


def test_tables_say_that_they_are_simulated(survey: PairSurvey) -> None:
    with fits.open(survey.xp_continuous / "xp_continuous_0000.fits") as hdus:
        assert hdus[1].header["ORIGIN"] == "specdb simulate"
        assert (hdus[1].data["solution_id"] == SOLUTION_ID).all()
        assert hdus[1].data["bp_coefficient_correlations"].shape == (256, 1485)
        assert hdus[1].data["bp_n_relevant_bases"].min() >= 2
    pairs, truth = pq.read_table(survey.pairs), pq.read_table(survey.truth)
    assert pairs.column_names == ["lamost_obsid", "gaia_source_id"]
    assert len(pairs) == len(truth) == len(list(survey.lamost.rglob("*.fits.gz"))) == N
    assert truth.schema.field("ebv").metadata[b"unit"] == b"mag"


def test_an_interrupted_simulation_goes_on_and_others_are_left_alone(survey: PairSurvey, tmp_path: Path) -> None:
    directory = survey.truth.parent
    path = survey.xp_sampled / "xp_sampled_0001.fits"
    before = path.read_bytes()
    path.unlink()
    survey.pairs.unlink()
    assert simulate_pairs(directory, N, 11) == survey
    assert path.read_bytes() == before
    with pytest.raises(InputError, match="holds another simulation"):
        simulate_pairs(directory, N, 12)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty and holds no simulation"):
        simulate_pairs(tmp_path, 3)
    with pytest.raises(InputError, match="1 to 1000000 stars"):
        simulate_pairs(tmp_path / "new", 0)


def test_visits_share_the_source_and_galaxies_are_called_so(tmp_path: Path) -> None:
    made = simulate_pairs(tmp_path / "sim", 60, 5, anomalies=0.5, repeat_fraction=0.5)
    truth = pq.read_table(made.truth).to_pandas()
    assert len(truth) == len(list(made.lamost.rglob("*.fits.gz"))) == 60
    assert truth["visit"].max() >= 1
    assert (truth.groupby("star")["gaia_source_id"].nunique() == 1).all()
    (xp,) = read(made.xp_sampled, "gaia_xp_sampled")
    assert sorted(xp.metadata["gaia_source_id"].to_pylist()) == sorted(truth["gaia_source_id"].unique())
    assert truth["alpha"].between(-0.1, 0.5).all()
    for name, header_class in (("qso", "QSO"), ("galaxy", "GALAXY"), ("", "STAR")):
        row = truth[truth["anomaly"] == name].iloc[0]
        with fits.open(made.lamost / row["source_file"]) as hdus:
            assert hdus[0].header["CLASS"] == header_class
            z = row["redshift"] if name else row["rv"] / 299792.458
            assert hdus[0].header["Z"] == pytest.approx(z, abs=4e-4)
    with pytest.raises(InputError, match="holds another simulation"):
        simulate_pairs(tmp_path / "sim", 60, 5, anomalies=0.5)


def test_the_command_writes_pairs(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["simulate", "pairs", str(tmp_path / "sim"), "--stars", "2", "--seed", "5"])
    assert done.exit_code == 0, done.output
    assert "2 simulated pairs" in done.output
    assert len(pq.read_table(tmp_path / "sim" / "pairs.parquet")) == 2
