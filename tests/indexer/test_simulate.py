"""The simulated survey: spectra that follow their labels, files that the reader takes, the same bytes for one seed."""

from __future__ import annotations

import csv
import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from indexer.simulate import Emulator, LamostSurvey, simulate_lamost, write_lamost
from indexer.simulate.emulator import DLOG10, features
from indexer.simulate.instrument import (
    LRS_COEFF0,
    LRS_PIX,
    LRS_WAVELENGTH,
    LrsStatistics,
    band,
    band_snr,
    observe_lrs,
    shift_to_observer,
)
from indexer.simulate.lrs_files import KEYWORDS, encode_lamost
from indexer.simulate.population import binary_companions, draw_snr, draw_stars, radius, spectral_type
from indexer.simulate.survey import ANOMALIES, FIRST_OBSID
from specdb.errors import InputError
from specdb.spectra import Source, Spectra, get_modality
from specdb.spectra.readers.registry import read_source

SUN = np.array([[5772.0, 4.44, 0.0]])


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator.load()


@pytest.fixture(scope="module")
def statistics() -> LrsStatistics:
    return LrsStatistics.load()


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> LamostSurvey:
    return simulate_lamost(tmp_path_factory.mktemp("survey") / "sim", n_stars=40, seed=7, anomalies=0.2, broken=4)


def depth(emulator: Emulator, labels: np.ndarray, line: float, side: float = 60.0) -> np.ndarray:
    """Depth of a line (vacuum Angstrom) below the mean of two windows beside it."""
    wave, flux = emulator.wavelength, np.exp(emulator.log_flux(labels))
    core = np.abs(wave - line) < 2
    continuum = (np.abs(wave - line) > side - 15) & (np.abs(wave - line) < side + 15)
    return 1 - flux[:, core].mean(axis=1) / flux[:, continuum].mean(axis=1)


def test_features_are_finite_and_a_partition_of_unity_in_temperature() -> None:
    labels = np.column_stack([np.geomspace(2000, 30000, 50), np.full(50, 3.5), np.full(50, -0.3)])
    phi = features(labels)
    assert np.isfinite(phi).all()
    np.testing.assert_allclose(phi.sum(axis=1), 1, atol=1e-12)


def test_lines_sit_at_vacuum_wavelengths_and_follow_the_labels(emulator: Emulator) -> None:
    wave = emulator.wavelength
    for line in (4862.69, 6564.61, 8544.44):
        near = np.abs(wave - line) < 8
        assert abs(wave[near][emulator.log_flux(SUN)[0, near].argmin()] - line) < 1.5
    hot, cool = np.array([[9500.0, 4.1, 0.0]]), np.array([[4300.0, 4.6, 0.0]])
    assert depth(emulator, hot, 4862.7) > depth(emulator, SUN, 4862.7) > depth(emulator, cool, 4862.7)
    metals = depth(emulator, np.array([[5000, 2.5, feh] for feh in (-2.0, -1.0, 0.0)]), 5270.9)
    assert (np.diff(metals) > 0.02).all()
    dwarf, giant = np.array([[4600.0, 4.6, 0.0]]), np.array([[4600.0, 2.0, 0.0]])
    assert depth(emulator, dwarf, 5176.0) > depth(emulator, giant, 5176.0) + 0.05  # the magnesium triplet


def test_emulator_is_normalised_and_stays_sane_in_its_range(emulator: Emulator) -> None:
    stars = draw_stars(500, np.random.default_rng(1))
    log_flux = emulator.log_flux(stars.labels)
    window = (emulator.wavelength > 5450) & (emulator.wavelength < 5550)
    np.testing.assert_allclose(log_flux[:, window].mean(axis=1), 0, atol=0.02)
    assert np.isfinite(log_flux).all()
    assert log_flux.max() < 3
    assert emulator.log_flux_5500(np.array([[9000, 4, 0], [4500, 4.6, 0]])) @ [1, -1] > 2


def test_emulator_card_states_sources_and_held_out_errors(emulator: Emulator) -> None:
    assert any("MILES" in source for source in emulator.card["sources"])
    assert emulator.card["held_out"]["rms_lines_median"] < 0.02


def test_saved_emulator_is_the_same_model(emulator: Emulator, tmp_path: Path) -> None:
    emulator.save(tmp_path / "again.npz")
    again = Emulator.load(tmp_path / "again.npz")
    labels = draw_stars(50, np.random.default_rng(2)).labels
    np.testing.assert_allclose(again.log_flux(labels), emulator.log_flux(labels), atol=3e-3)


@pytest.mark.parametrize(("cls", "message"), [(Emulator, "is no emulator"), (LrsStatistics, "holds no LRS statistics")])
def test_wrong_weight_files_are_refused(cls: type, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, other=np.zeros(3))
    with pytest.raises(InputError, match=message):
        cls.load(path)


def test_velocity_shifts_by_whole_and_by_parts_of_pixels(emulator: Emulator) -> None:
    three_pixels = 299792.458 * (10 ** (3 * DLOG10) - 1)
    rest, shifted = shift_to_observer(emulator, np.repeat(SUN, 2, axis=0), np.array([0.0, three_pixels]))
    np.testing.assert_allclose(shifted[3:], rest[:-3], atol=1e-4)
    first = round((LRS_COEFF0 - emulator.log10_start) / DLOG10)
    np.testing.assert_allclose(rest, emulator.log_flux(SUN, slice(first, first + LRS_PIX))[0], atol=1e-5)
    speeds = np.array([-437.0, -20.0, 33.3, 250.0])
    log_flux = shift_to_observer(emulator, np.repeat(SUN, 4, axis=0), speeds)
    direct = [
        np.interp(LRS_WAVELENGTH / (1 + v / 299792.458), emulator.wavelength, emulator.log_flux(SUN)[0]) for v in speeds
    ]
    assert np.abs(log_flux - direct).max() < 0.08  # linear interpolation flattens line cores by this much
    assert np.sqrt(np.mean((log_flux - direct) ** 2)) < 0.006


def test_noise_agrees_with_ivar_and_snr_is_what_was_asked(emulator: Emulator, statistics: LrsStatistics) -> None:
    log_flux = np.repeat(shift_to_observer(emulator, SUN, np.zeros(1)), 120, axis=0)
    asked = np.geomspace(10, 300, 120)
    observed = observe_lrs(log_flux, asked, np.random.default_rng(3), statistics)
    assert np.isclose(observed.snr[:, 1], asked, rtol=0.2).mean() > 0.97  # a stretch of an arm may be lost
    assert np.array_equal(observed.snr, band_snr(observed.flux, observed.ivar))
    good = observed.ivar[:, band("g")] > 0
    flux, sigma = observed.flux[:, band("g")], 1 / np.sqrt(np.where(good, observed.ivar[:, band("g")], 1))
    high_pass = (flux[:, 1:-1] - (flux[:, :-2] + flux[:, 2:]) / 2)[:25] / sigma[:25, 1:-1] / np.sqrt(1.5)
    scatter = np.median(np.abs(high_pass), axis=1) * 1.4826
    assert 0.6 < np.median(scatter) < 1.0  # resampling correlates neighbours; in the real files it is 0.77


def test_errors_show_sky_lines_and_the_overlap_of_the_arms(emulator: Emulator, statistics: LrsStatistics) -> None:
    log_flux = np.repeat(shift_to_observer(emulator, SUN, np.zeros(1)), 40, axis=0)
    ivar = observe_lrs(log_flux, np.full(40, 50.0), np.random.default_rng(4), statistics).ivar
    typical = np.median(ivar, axis=0)

    def at(wavelength: float) -> float:
        return float(typical[np.abs(LRS_WAVELENGTH - wavelength).argmin()])

    assert at(5578.9) < 0.5 * at(5530)
    assert at(6200) > 1.3 * at(5850)
    assert at(3750) < 0.3 * at(5000)


def test_bad_pixels_have_no_information_and_masks_lie_inside_them(emulator: Emulator, statistics: LrsStatistics) -> None:
    log_flux = np.repeat(shift_to_observer(emulator, SUN, np.zeros(1)), 200, axis=0)
    observed = observe_lrs(log_flux, np.full(200, 50.0), np.random.default_rng(5), statistics)
    assert (observed.ivar[observed.or_mask] == 0).all()
    assert observed.or_mask[observed.and_mask].all()
    share = (observed.ivar == 0).mean()
    assert 0.005 < share < 0.04  # 0.016 in the real files
    assert 0.2 < observed.or_mask.sum() / (observed.ivar == 0).sum() < 0.9


def test_population_has_dwarfs_giants_and_a_metal_poor_tail() -> None:
    stars = draw_stars(4000, np.random.default_rng(6))
    teff, logg, feh = stars.labels.T
    assert teff.min() >= 3500
    assert teff.max() <= 12000
    assert 0.2 < (logg < 3.8).mean() < 0.35
    assert 0.02 < (feh < -1).mean() < 0.1
    assert np.std(stars.rv_kms[stars.component == 2]) > 3 * np.std(stars.rv_kms[stars.component == 0])
    assert 45 < np.median(draw_snr(4000, np.random.default_rng(0))) < 55
    assert 0.8 < radius(SUN)[0] < 1.2
    assert (binary_companions(stars, np.random.default_rng(0)).labels[:, 0] <= np.maximum(teff * 0.9, 3700)).all()
    assert spectral_type(np.array([5780, 3700, 3700]), np.array([4.4, 4.7, 1.0])).tolist() == ["G2", "dM1", "gM1"]


def test_files_are_read_as_lamost_and_carry_their_truth(survey: LamostSurvey) -> None:
    truth = survey.catalogue().to_pylist()
    assert len(truth) == survey.n_spectra == len({row["spectrum_id"] for row in truth})
    assert len(list(survey.spectra.rglob("*.fits.gz"))) == survey.n_spectra + survey.n_broken
    modality = get_modality("lamost_lrs")
    sources = [Source(survey.spectra / row["source_file"]) for row in truth]
    batches = [spectra for source in sources for spectra in read_source(source, modality.readers)]
    for row, spectra in zip(truth, batches, strict=True):
        metadata = spectra.metadata.to_pylist()[0]
        assert metadata["spectrum_id"] == row["spectrum_id"]
        assert metadata["release"] == "SIMULATED"
        assert metadata["ra"] == pytest.approx(row["ra"], abs=1e-6)
        assert metadata["z"] == pytest.approx(row["redshift"] or row["rv"] / 299792.458, abs=4e-4)
        assert spectra.log10_grid is not None
    prepared = modality.preparation(batches)
    assert len(prepared) >= len(truth) - 2  # a stretch of an arm may be lost


def test_headers_say_simulated_and_obsids_cannot_be_real(survey: LamostSurvey) -> None:
    row = survey.catalogue().to_pylist()[0]
    path = survey.spectra / row["source_file"]
    with fits.open(path) as hdus:
        hdus.verify("exception")
        header, table = hdus[0].header, hdus["COADD"]
        assert header["DATA_V"] == "SIMULATED"
        assert header["ORIGIN"] == "specdb simulate"
        assert "SIMULATED" in header.comments["SIMPLE"]
        assert header["OBSID"] >= FIRST_OBSID
        assert path.name == header["FILENAME"] + ".gz"
        assert (
            path.name == f"spec-{header['LMJD']}-{header['PLANID']}_sp{header['SPID']:02d}-{header['FIBERID']:03d}.fits.gz"
        )
        names = ["FLUX", "IVAR", "WAVELENGTH", "ANDMASK", "ORMASK", "NORMALIZATION"]
        assert table.columns.names == names
        assert table.columns.formats == ["3909E"] * 6
        np.testing.assert_allclose(table.data["WAVELENGTH"][0], LRS_WAVELENGTH, rtol=1e-6)


def test_anomalies_and_repeats_are_planted(survey: LamostSurvey) -> None:
    truth = survey.catalogue().to_pylist()
    assert {row["anomaly"] for row in truth} == {*ANOMALIES, ""}
    assert max(row["visit"] for row in truth) >= 1
    assert len({row["star"] for row in truth}) == 40
    assert survey.catalogue().schema.field("teff").metadata[b"unit"] == b"K"
    emission = next(row for row in truth if row["anomaly"] == "emission")
    with fits.open(survey.spectra / emission["source_file"]) as hdus:
        flux = hdus[1].data["FLUX"][0]
    wave = LRS_WAVELENGTH / (1 + emission["rv"] / 299792.458)
    assert flux[np.abs(wave - 6564.6) < 3].max() > 1.15 * np.median(flux[(wave > 6600) & (wave < 6700)])


def test_broken_files_are_broken_each_in_its_way(survey: LamostSurvey) -> None:
    truncated, empty, nan_flux, zero_ivar = sorted(survey.spectra.glob("*P99V0/*.fits.gz"))
    with pytest.raises(EOFError):
        gzip.decompress(truncated.read_bytes())
    assert empty.stat().st_size == 0
    with fits.open(nan_flux) as hdus:
        assert np.isnan(hdus[1].data["FLUX"]).all()
    with fits.open(zero_ivar) as hdus:
        assert not hdus[1].data["IVAR"].any()


def digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_one_seed_gives_the_same_bytes_even_after_an_interruption(tmp_path: Path) -> None:
    first = simulate_lamost(tmp_path / "a", n_stars=12, seed=3)
    whole = digests(tmp_path / "a")
    simulate_lamost(tmp_path / "b", n_stars=12, seed=3)
    assert digests(tmp_path / "b") == whole
    for path in sorted(first.spectra.rglob("*.fits.gz"))[::2]:
        path.unlink()
    first.truth.unlink()
    simulate_lamost(tmp_path / "a", n_stars=12, seed=3)
    assert digests(tmp_path / "a") == whole
    other = simulate_lamost(tmp_path / "c", n_stars=12, seed=4).catalogue()
    assert not set(other["spectrum_id"].to_pylist()) & set(first.catalogue()["spectrum_id"].to_pylist())


def test_directories_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not empty and holds no simulation"):
        simulate_lamost(tmp_path, n_stars=2)
    simulate_lamost(tmp_path / "sim", n_stars=2)
    with pytest.raises(InputError, match="simulation with other settings"):
        simulate_lamost(tmp_path / "sim", n_stars=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_stars": 0}, "1 to 200000 stars"),
        ({"seed": -1}, "from 0 to 999999"),
        ({"anomalies": 2.0}, "fractions lie from 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        simulate_lamost(tmp_path / "sim", **settings)


def test_incomplete_files_are_not_written(tmp_path: Path) -> None:
    keywords: dict[str, object] = dict.fromkeys(KEYWORDS, 1)
    columns = {name: np.ones(LRS_PIX) for name in ("FLUX", "IVAR", "ANDMASK", "ORMASK", "NORMALIZATION")}
    assert len(encode_lamost(keywords, columns)) % 2880 == 0
    with pytest.raises(InputError, match="a LAMOST file needs FLUX too"):
        encode_lamost(keywords, {k: a for k, a in columns.items() if k != "FLUX"})
    with pytest.raises(InputError, match=r"have 3909 pixels; found \{'IVAR': \(5,\)\}"):
        encode_lamost(keywords, {**columns, "IVAR": np.ones(5)})
    with pytest.raises(InputError, match="damage 'burnt' is unknown"):
        write_lamost(tmp_path / "x.fits.gz", keywords, columns, damage="burnt")
    assert not list(tmp_path.iterdir())


@pytest.mark.shared
def test_simulated_spectra_resemble_real_ones_of_the_same_labels(
    shared: Path, emulator: Emulator, statistics: LrsStatistics
) -> None:
    folder = shared / "lamost_dr10_afg"
    with (folder / "labels.csv").open() as handle:
        labelled = {int(row["obsid"]): row for row in csv.DictReader(handle)}
    with np.load(folder / "packed_flux.npz") as z:
        flux, bad = z["flux_norm"].astype(np.float32), z["err_code"] == 255
        rows = [labelled[int(obsid)] for obsid in z["obsid"]]
    snr = np.array([float(row["snrg"]) for row in rows])
    keep = np.flatnonzero((snr > 60) & (snr < 300) & (bad.mean(axis=1) < 0.02) & np.isfinite(flux).all(axis=1))[:80]
    labels = np.array([[float(rows[i][k]) for k in ("teff", "logg", "feh")] for i in keep])
    rv = np.array([float(rows[i]["z"]) for i in keep]) * 299792.458
    observed = observe_lrs(shift_to_observer(emulator, labels, rv), snr[keep], np.random.default_rng(0), statistics)
    real = Spectra(LRS_WAVELENGTH, flux[keep], np.where(bad[keep], 0, 1e4).astype(np.float32))
    simulated = Spectra(LRS_WAVELENGTH, observed.flux, observed.ivar)
    preparation = get_modality("lamost_lrs").preparation
    one, two = preparation([real]), preparation([simulated])
    both = np.intersect1d(one.rows, two.rows)
    difference = one.flux[np.searchsorted(one.rows, both)] - two.flux[np.searchsorted(two.rows, both)]
    assert len(both) > 70
    assert np.median(np.sqrt((difference**2).mean(axis=1))) < 0.03  # real label neighbours differ by 0.027
