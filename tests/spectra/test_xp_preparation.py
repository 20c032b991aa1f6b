"""Preparation of Gaia XP: the reference's numbers, repairs, and every reason to reject."""

import numpy as np
import pytest

from specdb.errors import PreparationError
from specdb.spectra import Quality, Spectra
from specdb.spectra.xp_preparation import XP_GRID, XpPreparation

GRID_NM = np.arange(336.0, 1021.0, 2.0)


def spectra(n=3, wavelength_nm=GRID_NM, seed=0, snr=50.0):
    """Smooth positive spectra in W m-2 nm-1 with noise of a given S/N."""
    x = (np.asarray(wavelength_nm) - 700) / 350
    shape = 1 + 0.5 * np.sin(3 * x) + np.outer(np.random.default_rng(seed).uniform(0.1, 0.3, n), x)
    flux = 1e-17 * shape
    return Spectra(np.asarray(wavelength_nm) * 10, flux, (snr / flux) ** 2)


def only_rejection(batch, **settings):
    prepared = XpPreparation(**settings)([batch])
    assert len(prepared) == 0 and len(prepared.rejections) == len(batch)
    return prepared.rejections[0]


@pytest.mark.shared
def test_equals_the_reference(golden):
    reference = np.load(golden / "preprocess_xp.npz")
    prepared = XpPreparation()([Spectra(reference["wavelength_nm"] * 10, reference["flux_raw"])])
    np.testing.assert_array_equal(prepared.flux, reference["flux_norm_343"].astype(np.float32))
    assert (prepared.quality == Quality.NO_ERRORS).all() and np.isnan(prepared.snr).all() and not prepared.ivar.any()


def test_equals_linear_interpolation_in_wavelength():
    grid = np.geomspace(330, 1050, 720)
    batch = spectra(wavelength_nm=grid)
    expected = np.stack([np.interp(GRID_NM, grid, flux) for flux in batch.flux])
    prepared = XpPreparation()([batch])
    np.testing.assert_array_equal(prepared.flux, (expected / expected[:, [107]]).astype(np.float32))
    assert (prepared.flux[:, 107] == 1).all() and (prepared.quality == 0).all()


def test_ivar_on_the_grid_scales_with_the_flux_at_550_nm():
    batch = spectra()
    prepared = XpPreparation()([batch])
    np.testing.assert_allclose(prepared.ivar, batch.ivar * batch.flux[:, [107]] ** 2, rtol=1e-6)
    np.testing.assert_allclose(prepared.snr, 50, rtol=1e-5)


def test_ivar_between_pixels_is_that_of_the_weighted_mean():
    batch = spectra(wavelength_nm=np.arange(335.0, 1022.0, 2.0))
    prepared = XpPreparation()([batch])
    variance = 0.25 / batch.ivar[:, :-1] + 0.25 / batch.ivar[:, 1:]
    pivot = (batch.flux[:, [107]] + batch.flux[:, [108]]) / 2
    np.testing.assert_allclose(prepared.ivar, pivot**2 / variance, rtol=1e-6)


def test_bad_pixels_inside_are_bridged_flagged_and_counted():
    batch = spectra()
    whole = XpPreparation()([batch]).flux
    batch.flux[0, 50:53] = np.nan
    batch.ivar[1, 200] = 0
    prepared = XpPreparation()([batch])
    assert prepared.n_repaired.tolist() == [3, 1, 0]
    assert prepared.quality.tolist() == [Quality.REPAIRED, Quality.REPAIRED, 0]
    assert not prepared.ivar[0, 50:53].any() and prepared.ivar[1, 200] == 0
    np.testing.assert_allclose(prepared.flux, whole, rtol=2e-3)
    np.testing.assert_array_equal(prepared.flux[2], whole[2])


def test_missing_ends_take_the_nearest_value():
    prepared = XpPreparation()([spectra(wavelength_nm=GRID_NM[10:-5])])
    assert (prepared.n_repaired == 15).all()
    assert (prepared.quality == Quality.LATE_START | Quality.EARLY_END).all()
    assert (prepared.flux[:, :10] == prepared.flux[:, [10]]).all() and (
        prepared.flux[:, -5:] == prepared.flux[:, [-6]]
    ).all()
    assert not prepared.ivar[:, :10].any() and (prepared.ivar[:, 10:-5] > 0).all()


def test_masked_ends_are_flagged_like_missing_ends():
    batch = spectra()
    batch.ivar[0, :4], batch.ivar[1, -4:] = 0, 0
    prepared = XpPreparation()([batch])
    assert prepared.quality.tolist() == [Quality.LATE_START, Quality.EARLY_END, 0]
    assert (prepared.flux[0, :4] == prepared.flux[0, 4]).all()


def test_half_a_step_beyond_the_data_counts_as_covered():
    prepared = XpPreparation()([spectra(wavelength_nm=np.linspace(336.9, 1019.2, 343))])
    assert len(prepared) == 3 and not prepared.quality.any() and not prepared.n_repaired.any()


def test_a_gap_in_the_wavelengths_counts_as_repaired():
    prepared = XpPreparation()([spectra(wavelength_nm=np.delete(GRID_NM, np.arange(60, 70)))])
    assert (prepared.n_repaired == 10).all() and (prepared.quality == Quality.REPAIRED).all()


def test_many_repaired_pixels_are_flagged_where_the_limit_lets_them_in():
    batch = spectra()
    batch.flux[:, 200:240] = np.nan
    prepared = XpPreparation(min_coverage=0.5)([batch])
    assert (prepared.quality == Quality.REPAIRED | Quality.MANY_REPAIRED).all()
    why = only_rejection(batch)
    assert why.reason == "low_coverage" and "88.3% of the grid" in why.detail


@pytest.mark.parametrize(("pixels", "arm"), [(slice(0, 150), "BP"), (slice(154, None), "RP")])
def test_missing_arm_is_rejected(pixels, arm):
    batch = spectra()
    batch.flux[:, pixels] = np.nan
    why = only_rejection(batch)
    assert why.reason == "missing_flux" and why.detail.startswith(f"{arm} is missing")


def test_bad_numbers_are_rejected_with_a_reason():
    batch = spectra(n=7)
    flux, ivar = batch.flux, batch.ivar
    flux[0] = np.nan
    ivar[1] = 0
    flux[2, 107] = -1e-18
    flux[3] = 1e-17
    ivar[4] /= 1e4
    flux[5] = np.inf
    prepared = XpPreparation()([batch])
    assert prepared.rows.tolist() == [6]
    reasons = ["bad_flux", "no_valid_pixels", "bad_flux", "bad_flux", "low_snr", "bad_flux"]
    assert [(why.row, why.reason) for why in prepared.rejections] == list(enumerate(reasons))
    details = [why.detail for why in prepared.rejections]
    assert "no flux is finite" in details[0] and "positive inverse variance" in details[1]
    assert "550 nm is -1e-18; it must be positive" in details[2] and "flat" in details[3]
    assert details[4] == "the median S/N per pixel is 0.50; the limit is 1"


def test_flux_of_next_to_nothing_at_550_nm_is_rejected():
    batch = spectra()
    batch.flux[:, 107] = 1e-40
    why = only_rejection(batch)
    assert why.reason == "bad_flux" and "next to nothing" in why.detail


@pytest.mark.parametrize(
    ("wavelength_nm", "detail"),
    [
        (GRID_NM[::-1], "must increase strictly"),
        (np.where(GRID_NM == 500, np.nan, GRID_NM), "1 of 343 wavelengths are not finite"),
        (GRID_NM[:1], "at least 2 are needed"),
    ],
)
def test_bad_wavelengths_are_rejected(wavelength_nm, detail):
    n = len(wavelength_nm)
    why = only_rejection(Spectra(wavelength_nm * 10, np.ones((2, n)), None))
    assert why.reason == "bad_wavelength" and detail in why.detail


def test_rows_are_numbered_through_all_batches_and_nothing_is_lost():
    first, second, third = spectra(n=3), spectra(n=2, wavelength_nm=GRID_NM[::-1]), spectra(n=4, wavelength_nm=GRID_NM - 1)
    first.flux[1] = np.nan
    prepared = XpPreparation()([first, second, third])
    assert prepared.rows.tolist() == [0, 2, 5, 6, 7, 8]
    assert [why.row for why in prepared.rejections] == [1, 3, 4]
    alone = XpPreparation()([third])
    np.testing.assert_array_equal(alone.flux, prepared.flux[2:])
    assert len(XpPreparation()([])) == 0


def test_random_damage_never_crashes_and_count_in_is_count_out():
    rng = np.random.default_rng(5)
    batch = spectra(n=300)
    damage = rng.choice([np.nan, np.inf, -np.inf, 0.0, -1e-17, 1e300], size=batch.flux.shape)
    hit = rng.random(batch.flux.shape) < rng.choice([0, 1e-3, 0.05, 0.5, 1], size=(300, 1))
    batch.flux[hit] = damage[hit]
    batch.ivar[rng.random(batch.flux.shape) < rng.choice([0, 0.01, 1], size=(300, 1))] = rng.choice([0, np.nan, np.inf, -1])
    prepared = XpPreparation()([batch])
    assert sorted([*prepared.rows, *(why.row for why in prepared.rejections)]) == list(range(300))
    assert np.isfinite(prepared.flux).all() and np.isfinite(prepared.ivar).all() and (prepared.ivar >= 0).all()
    assert len(prepared) and prepared.rejections


def test_settings_are_checked_and_stated():
    assert XpPreparation(min_snr=3).settings() == {"min_coverage": 0.9, "min_snr": 3}
    assert (XpPreparation().name, XpPreparation().version, XP_GRID[107]) == ("specclip-xp", 1, 5500)
    with pytest.raises(PreparationError, match="min_coverage is 2"):
        XpPreparation(min_coverage=2)
    with pytest.raises(PreparationError, match="min_snr is -1"):
        XpPreparation(min_snr=-1)
