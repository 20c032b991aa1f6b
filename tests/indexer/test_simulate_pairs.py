"""Pairs: both instruments see one star, spectra can be prepared, and draws do not depend on how many are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.simulate import draw_pairs
from indexer.simulate.anomalies import carbon_bands, quasar, white_dwarf
from indexer.simulate.emulator import Emulator
from indexer.simulate.instrument import LRS_WAVELENGTH
from indexer.simulate.light import extinction_law, lrs_pixels, starlight
from indexer.simulate.pairs import BATCH_PAIRS, PAIR_ANOMALIES, Pairs, PairSimulator, draw_magnitude
from indexer.simulate.xp_instrument import XpStatistics, binned, colour, g_magnitude, merged_basis, observe_xp, smoothing
from specdb.errors import InputError
from specdb.spectra import get_modality

SUN = np.array([[5772.0, 4.44, 0.0]])


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator.load()


@pytest.fixture(scope="module")
def statistics() -> XpStatistics:
    return XpStatistics.load()


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return draw_pairs(300, seed=3)


def test_dust_reddens_and_velocity_shifts(emulator: Emulator) -> None:
    nm = emulator.wavelength / 10
    clear, dusty, moving = starlight(emulator, np.repeat(SUN, 3, axis=0), np.array([0, 0, 300.0]), np.array([0, 0.5, 0]))
    dimming = (clear - dusty) / (0.4 * np.log(10) * 0.5)
    v = np.interp(549.0, nm, dimming)
    assert v == pytest.approx(3.1, abs=0.1)
    assert np.interp(440.0, nm, dimming) - v == pytest.approx(1.0, abs=0.07)  # that is what E(B-V) means
    np.testing.assert_allclose(dimming, extinction_law(emulator), atol=1e-3)
    line = (nm > 655) & (nm < 658)
    assert nm[line][moving[line].argmin()] - nm[line][clear[line].argmin()] == pytest.approx(656.46 * 1e-3, abs=0.1)
    np.testing.assert_allclose(emulator.wavelength[lrs_pixels(emulator)], LRS_WAVELENGTH, rtol=1e-9)


def test_smoothing_keeps_a_flat_spectrum_and_has_the_width_it_says(emulator: Emulator, statistics: XpStatistics) -> None:
    matrix = smoothing(emulator, statistics.fwhm_nm)
    np.testing.assert_allclose(np.ones((1, len(matrix))) @ matrix, 1, rtol=1e-5)
    line = np.exp(-0.5 * ((emulator.wavelength / 10 - 500) / 0.1) ** 2)[None]
    seen = (binned(line) @ matrix)[0]
    nm = np.arange(336, 1021, 2.0)
    width = np.sqrt((seen * (nm - 500) ** 2).sum() / seen.sum()) * np.sqrt(8 * np.log(2))
    assert width == pytest.approx(np.interp(500, nm, statistics.fwhm_nm), rel=0.15)


def test_observed_magnitude_is_what_was_asked_and_noise_agrees_with_the_errors(
    emulator: Emulator, statistics: XpStatistics
) -> None:
    flux = binned(np.exp(starlight(emulator, np.repeat(SUN, 400, axis=0), np.zeros(400), np.zeros(400))))
    flux = flux @ smoothing(emulator, statistics.fwhm_nm)
    for magnitude in (11.0, 16.0):
        observed = observe_xp(flux, np.full(400, magnitude), np.random.default_rng(1), statistics)
        samples, error = observed.sampled()
        assert np.median(g_magnitude(samples, statistics.band)) == pytest.approx(magnitude, abs=0.02)
        assert samples.shape == error.shape == (400, 343)
    scatter = np.median(np.abs(samples - np.median(samples, axis=0)), axis=0) * 1.4826
    assert 0.8 < np.median(scatter / np.median(error, axis=0)) < 1.6  # systematic deviations come on top
    np.testing.assert_allclose(
        np.concatenate([observed.bp.coefficients, observed.rp.coefficients], axis=1) @ merged_basis(), samples, rtol=1e-9
    )


def test_fainter_stars_are_noisier(pairs: Pairs) -> None:
    snr = np.median(pairs.xp_flux / pairs.xp_error, axis=1)
    bright, faint = pairs.truth.magnitude < 13, pairs.truth.magnitude > 16
    assert np.median(snr[bright]) > 3 * np.median(snr[faint])
    assert np.corrcoef(draw_magnitude(pairs.truth.snr_g, np.random.default_rng(0)), np.log(pairs.truth.snr_g))[0, 1] < -0.5


def test_pairs_can_be_prepared_and_nothing_is_lost(pairs: Pairs) -> None:
    assert len(pairs) == len(pairs.truth) == len(pairs.lrs) == len(pairs.xp) == 300
    assert np.array_equal(pairs.truth.star, np.arange(300))
    xp = get_modality("gaia_xp").preparation([pairs.xp])
    assert len(xp) == 300
    assert not xp.rejections
    lrs = get_modality("lamost_lrs").preparation([pairs.lrs])
    assert len(lrs) + len(lrs.rejections) == 300
    assert len(lrs) > 285  # a stretch of an arm may be lost
    assert np.isfinite(xp.flux).all()


def test_both_spectra_are_of_one_star(pairs: Pairs) -> None:
    blue, red = (np.abs(LRS_WAVELENGTH - centre) < 150 for centre in (4500, 7500))
    low, high = (np.median(pairs.lrs.flux[:, band], axis=1) for band in (blue, red))
    both = (low > 0) & (high > 0)  # a stretch of an arm may be lost
    lrs = np.log(np.where(both, low, 1) / np.where(both, high, 1))
    assert np.corrcoef(lrs[both], colour(pairs.xp_flux)[both])[0, 1] > 0.8
    hot, cool = pairs.truth.labels[:, 0] > 7000, pairs.truth.labels[:, 0] < 5000
    assert np.median(colour(pairs.xp_flux)[hot]) > np.median(colour(pairs.xp_flux)[cool]) + 0.6


def test_draws_depend_on_seed_and_place_alone(pairs: Pairs) -> None:
    again, other = draw_pairs(40, seed=3), draw_pairs(40, seed=4)
    assert np.array_equal(again.lrs.flux, pairs.lrs.flux[:40])
    assert np.array_equal(again.xp_flux, pairs.xp_flux[:40])
    assert np.array_equal(again.truth.labels, pairs.truth.labels[:40])
    assert not np.array_equal(other.xp_flux, again.xp_flux)
    late = next(PairSimulator(3).stream(44, first_batch=1))
    assert np.array_equal(late.xp_error, pairs.xp_error[BATCH_PAIRS:])
    assert np.array_equal(late.truth.star, np.arange(BATCH_PAIRS, 300))


def test_repeat_visits_are_of_the_same_star_and_share_its_xp_spectrum(pairs: Pairs) -> None:
    repeated = draw_pairs(300, seed=3, repeat_fraction=0.5)
    truth = repeated.truth
    assert np.array_equal(truth.number, np.arange(300))
    first, again = np.flatnonzero(truth.visit == 0), np.flatnonzero(truth.visit > 0)
    assert len(again) > 60
    assert np.array_equal(truth.star[again], truth.star[again - 1])
    assert np.array_equal(repeated.xp_flux[again], repeated.xp_flux[again - 1])
    assert np.array_equal(truth.labels[again], truth.labels[again - 1])
    assert (repeated.lrs.flux[again] != repeated.lrs.flux[again - 1]).any(axis=1).all()
    assert (truth.snr_g[again] != truth.snr_g[again - 1]).all()
    rows = first[first < BATCH_PAIRS]  # the stars are those of a draw without repeats
    assert np.array_equal(truth.labels[rows], pairs.truth.labels[truth.star[rows]])
    assert np.array_equal(repeated.xp_flux[rows], pairs.xp_flux[truth.star[rows]])
    assert np.array_equal(draw_pairs(20, seed=3, repeat_fraction=0.5).lrs.flux, repeated.lrs.flux[:20])


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="draw at least one pair"):
        draw_pairs(0)
    with pytest.raises(InputError, match="seeds are not negative"):
        draw_pairs(1, seed=-1)
    with pytest.raises(InputError, match="anomalies is 2; a share lies from 0 to 1"):
        draw_pairs(1, anomalies=2)
    with pytest.raises(InputError, match="repeat_fraction is -1; a share lies from 0 to 1"):
        draw_pairs(1, repeat_fraction=-1)


def test_wrong_weight_files_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "wrong.npz", other=np.zeros(3))
    with pytest.raises(InputError, match="holds no XP statistics"):
        XpStatistics.load(tmp_path / "wrong.npz")


def test_saved_statistics_are_the_same(statistics: XpStatistics, tmp_path: Path) -> None:
    statistics.save(tmp_path / "again.npz")
    again = XpStatistics.load(tmp_path / "again.npz")
    assert np.array_equal(again.gain, statistics.gain)
    assert again.card == statistics.card
    assert statistics.card["stars_systematic"] > 300


def test_anomalies_show_in_both_instruments_and_leave_the_others_alone(pairs: Pairs) -> None:
    odd = draw_pairs(BATCH_PAIRS, seed=3, anomalies=0.5)
    ordinary = odd.truth.anomaly == ""
    assert {*odd.truth.anomaly} == {*PAIR_ANOMALIES, ""}
    assert 0.4 < ordinary.mean() < 0.6
    assert np.array_equal(odd.truth.labels, pairs.truth.labels[:BATCH_PAIRS])
    plain_xp = pairs.xp_flux[:BATCH_PAIRS]
    np.testing.assert_allclose(odd.xp_flux[ordinary], plain_xp[ordinary], rtol=1e-3, atol=1e-3 * np.median(plain_xp))
    emission = odd.truth.anomaly == "emission"
    nm = odd.xp_wavelength_nm
    line, beside = np.abs(nm - 656.5) < 4, np.abs(np.abs(nm - 656.5) - 30) < 8

    def height(flux: np.ndarray) -> np.ndarray:
        return flux[:, line].mean(axis=1) / flux[:, beside].mean(axis=1)

    assert np.median(height(odd.xp_flux[emission]) / height(plain_xp[emission])) > 1.03
    wrong = np.flatnonzero(odd.truth.anomaly == "wrong_pair")
    assert not np.allclose(colour(odd.xp_flux[wrong]), colour(plain_xp[wrong]), atol=0.05)
    for name in ("white_dwarf", "qso", "galaxy", "carbon", "composite"):
        assert np.isfinite(odd.xp_flux[odd.truth.anomaly == name]).all()
    assert len(get_modality("gaia_xp").preparation([odd.xp])) == BATCH_PAIRS
    distant = np.isin(odd.truth.anomaly, ["qso", "galaxy"])
    assert np.array_equal(odd.truth.redshift > 0, distant)
    sky = (LRS_WAVELENGTH > 5574) & (LRS_WAVELENGTH < 5582)
    error = np.abs(odd.lrs.flux[:, sky] / np.median(odd.lrs.flux, axis=1, keepdims=True) - 1).max(axis=1)
    assert np.median(error[odd.truth.anomaly == "bad_sky"]) > 3 * np.median(error[ordinary])


def test_laws_of_unusual_objects() -> None:
    wavelength = np.geomspace(3300, 10500, 3000)
    dwarf = white_dwarf(wavelength, np.array([12000.0]))[0]
    beta, beside = np.abs(wavelength - 4862.7).argmin(), np.abs(wavelength - 5200).argmin()
    assert dwarf[beta] < dwarf[beside] - 0.4
    bands = carbon_bands(wavelength, np.array([1.0]))[0]
    assert bands[np.abs(wavelength - 5155).argmin()] < -0.6
    assert bands[np.abs(wavelength - 5200).argmin()] > -0.2
    quasars = quasar(wavelength, np.array([0.5, 2.0]), np.array([-1.5, -1.5]))
    assert abs(wavelength[(quasars[1] + 1.5 * np.log(wavelength)).argmax()] / 3 - 1215.7) < 10
