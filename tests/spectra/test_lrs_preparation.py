"""LAMOST LRS preparation: equal to the reference, finite and complete whatever comes in, independent of the batching."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdb.errors import PreparationError
from specdb.spectra import REASONS, Quality, Spectra
from specdb.spectra.lrs_preparation import LAMOST_GRID, MAX_NORMALISED, LrsPreparation
from specdb.spectra.modalities import get_modality, modality_for_survey
from specdb.spectra.modality import Preparation

COEFFS = (3.5682, 1e-4)
LAMOST = 10 ** (COEFFS[0] + COEFFS[1] * np.arange(3909))
GRID = "the grid 3999.4-5598.9 Angstrom"
FIRST = 338  # native pixel of the first grid pixel

prepare = LrsPreparation()


def lamost(flux, ivar=None, mask=None, n_pix=3909) -> list[Spectra]:
    """One batch per spectrum, as the reader gives them."""
    none = [None] * len(flux)
    ivar, mask = none if ivar is None else ivar, none if mask is None else mask
    return [
        Spectra(LAMOST[:n_pix], *(None if a is None else a[None, :n_pix] for a in one), log10_grid=COEFFS)
        for one in zip(flux, ivar, mask, strict=True)
    ]


def reasons(prepared) -> list[str]:
    return [rejection.reason for rejection in prepared.rejections]


def test_clean_spectra_equal_the_reference(stars, reference, deviation):
    flux = stars(LAMOST, 40)  # more than one block
    result = prepare(lamost(flux))
    expected = np.stack([reference.prepare_one(LAMOST, one) for one in flux])
    assert result.flux.dtype == np.float32 and result.flux.shape == (40, 1462)
    assert deviation(result.flux, expected) < 1e-7  # rounding to float32
    assert (result.quality == Quality.NO_ERRORS).all() and not result.n_repaired.any()
    assert np.isnan(result.snr).all() and not result.ivar.any()
    assert result.rows.tolist() == list(range(40)) and not result.rejections


def test_errors_and_signal_to_noise(stars, reference):
    flux = stars(LAMOST, 3)
    ivar = np.full_like(flux, 1 / 20**2)
    result = prepare(lamost(flux, ivar))
    used = slice(FIRST, FIRST + 1462)
    np.testing.assert_allclose(result.snr, np.median(flux[:, used], axis=1) / 20, rtol=1e-5)
    continua = np.stack([reference.continuum(LAMOST, one)[0][used] for one in flux])
    np.testing.assert_allclose(result.ivar, continua**2 / 400, rtol=1e-5)
    assert not result.quality.any()


def test_the_bits_do_not_depend_on_the_batching(stars):
    flux = stars(LAMOST, 70)
    rng = np.random.default_rng(1)
    ivar = np.where(rng.random(flux.shape) < 0.02, 0, 1).astype(np.float32)
    ivar[::3] = 1
    ivar[5, :600] = 0
    ways = {
        "alone": [prepare([one]) for one in lamost(flux, ivar)],
        "one batch": [prepare([Spectra(LAMOST, flux, ivar, log10_grid=COEFFS)])],
        "two threads": [LrsPreparation(threads=2)(lamost(flux, ivar))],
        "no formula": [prepare([Spectra(LAMOST, flux, ivar)])],
        "other order": [prepare(lamost(flux[::-1], ivar[::-1]))],
        "other lengths": [prepare([lamost(flux, ivar, n_pix=3909 - k)[k] for k in range(70)])],
        "big-endian": [prepare([Spectra(LAMOST.astype(">f8"), flux.astype(">f4"), ivar.astype(">f4"))])],
    }
    expected = prepare(lamost(flux, ivar))
    assert len(expected) == 70
    for way, parts in ways.items():
        step = -1 if way == "other order" else 1
        for name in ("flux", "ivar", "snr", "quality", "n_repaired"):
            found = np.concatenate([getattr(part, name) for part in parts])[::step]
            assert found.tobytes() == getattr(expected, name).tobytes(), (way, name)


def test_bad_pixels_are_bridged_flagged_and_without_weight(stars):
    flux = stars(LAMOST, 1)
    bad = FIRST + np.array([100, 101, 102, 700])
    results = []
    for junk in (0.0, 1e7, np.nan, -np.inf):
        spoiled, ivar = flux.copy(), np.ones_like(flux)
        spoiled[0, bad] = junk
        ivar[0, bad] = 0
        results.append(prepare(lamost(spoiled, ivar)))
        assert results[0].flux.tobytes() == results[-1].flux.tobytes()  # what stands there does not matter
    result, clean = results[0], prepare(lamost(flux))
    assert result.quality[0] == Quality.REPAIRED and result.n_repaired[0] == 4
    assert (np.flatnonzero(result.ivar[0] == 0) + FIRST).tolist() == bad.tolist()
    others = np.delete(np.arange(1462), bad - FIRST)
    np.testing.assert_allclose(result.flux[0, others], clean.flux[0, others], rtol=2e-3)
    masked = prepare(lamost(flux, np.ones_like(flux), np.isin(np.arange(3909), bad).astype(np.int32)[None]))
    assert masked.flux.tobytes() == result.flux.tobytes()


def test_many_bad_pixels_are_flagged_as_such(stars):
    ivar = np.ones((1, 3909), np.float32)
    ivar[0, FIRST + 300 : FIRST + 450] = 0
    result = prepare(lamost(stars(LAMOST, 1), ivar))
    assert result.quality[0] == Quality.REPAIRED | Quality.MANY_REPAIRED and result.n_repaired[0] == 150


@pytest.mark.parametrize("missing", ["absent", "ivar"])
def test_late_start_and_early_end_are_filled_with_the_continuum(stars, missing):
    flux, n_lost = stars(LAMOST, 1), 60
    for bit, part, filled in (
        (Quality.LATE_START, slice(FIRST + n_lost, None), slice(None, n_lost)),
        (Quality.EARLY_END, slice(None, FIRST + 1462 - n_lost), slice(-n_lost, None)),
    ):
        if missing == "absent":
            batch = Spectra(LAMOST[part], flux[:, part], np.ones_like(flux[:, part]))
        else:
            ivar = np.zeros_like(flux)
            ivar[:, part] = 1
            batch = Spectra(LAMOST, flux, ivar)
        result = prepare([batch])
        assert result.quality[0] == bit and result.n_repaired[0] == n_lost
        assert (result.flux[0, filled] == 1).all() and not result.ivar[0, filled].any()
        assert np.abs(result.flux[0] - 1).max() < 0.8


def test_one_pixel_short_of_the_grid(stars):
    wavelength = 10 ** (np.log10(4000) + 1e-4 * np.arange(1461))
    result = prepare([Spectra(wavelength, stars(wavelength, 1))])
    assert len(result) == 1 and result.n_repaired[0] <= 2
    assert result.quality[0] & Quality.LATE_START


@pytest.mark.parametrize(
    "wavelength",
    [
        np.arange(3600, 9000, 0.9),
        np.arange(3700, 9000, 2.5),
        10 ** (3.55 + 1e-4 * (0.37 + np.arange(4500))),
        10 ** np.arange(3.5, 4, 6e-5),
    ],
)
def test_other_grids_give_nearly_the_same(stars, wavelength):
    noise_free = stars(np.arange(3500.0, 9500.0, 0.25), 4)
    noise_free = np.stack([np.convolve(one, np.ones(64) / 64, mode="same") for one in noise_free])

    def sample(at):
        return np.stack([np.interp(at, np.arange(3500.0, 9500.0, 0.25), one) for one in noise_free]).astype(np.float32)

    expected = prepare([Spectra(LAMOST, sample(LAMOST))])
    result = prepare([Spectra(wavelength, sample(wavelength))])
    assert (result.quality == Quality.NO_ERRORS).all()
    assert np.abs(result.flux - expected.flux).max() < 0.02


def test_a_gap_between_two_arms_is_repaired(stars):
    wavelength = np.delete(LAMOST, slice(FIRST + 500, FIRST + 600))
    flux = stars(wavelength, 1)
    result = prepare([Spectra(wavelength, flux, np.ones_like(flux))])
    assert result.quality[0] == Quality.REPAIRED and result.n_repaired[0] == 100
    assert (result.ivar[0] == 0).sum() == 100


def test_a_grid_too_coarse_for_the_fit_is_still_prepared(stars):
    wavelength = np.linspace(3700, 9000, 200)
    result = prepare([Spectra(wavelength, stars(wavelength, 2))])
    assert len(result) == 2 and np.isfinite(result.flux).all()


def test_non_positive_continuum_is_replaced_and_absurd_values_are_kept_finite(stars):
    flux = -stars(LAMOST, 1).astype(np.float64)
    result = prepare([Spectra(LAMOST, flux)])
    np.testing.assert_allclose(result.flux, flux[:, FIRST : FIRST + 1462], rtol=1e-6)
    assert result.quality[0] & Quality.LOW_CONTINUUM
    flux[0, FIRST + 5] = -1e30
    assert prepare([Spectra(LAMOST, flux)]).flux[0, 5] == -np.float32(MAX_NORMALISED)


def bad_inputs(flux):
    zero = np.zeros_like(flux)
    one = np.ones_like(flux)
    short = slice(FIRST + 500, None)
    few = one.copy()
    few[:, FIRST + 200 : FIRST + 900] = 0
    backwards = LAMOST[::-1].copy()
    broken = LAMOST.copy()
    broken[7] = np.nan
    return {
        "not finite": (Spectra(broken, flux), "bad_wavelength", "1 of 3909 wavelengths are not finite"),
        "backwards": (Spectra(backwards, flux), "bad_wavelength", "must increase strictly; 3908 steps do not, the first"),
        "negative": (Spectra(LAMOST - 1e4, flux), "bad_wavelength", "must be positive"),
        "one pixel": (Spectra(LAMOST[:1], flux[:, :1]), "bad_wavelength", "has 1 pixels; at least 2 are needed"),
        "all NaN": (Spectra(LAMOST, flux * np.nan), "bad_flux", f"no pixel of {GRID} has a finite"),
        "zero": (Spectra(LAMOST, zero), "bad_flux", "flat: the normalised flux varies by 0.0e+00; the limit is 1e-15"),
        "constant": (Spectra(LAMOST, one * 7), "bad_flux", "flat"),
        "zero, late": (Spectra(LAMOST[FIRST + 60 :], zero[:, FIRST + 60 :]), "bad_flux", "flat"),
        "no weight": (Spectra(LAMOST, flux, zero), "no_valid_pixels", "inverse variance is 0 everywhere"),
        "short": (Spectra(LAMOST[short], flux[:, short]), "low_coverage", f"cover 65.8% of {GRID}; the limit is 70.0%"),
        "masked": (Spectra(LAMOST, flux, few), "low_coverage", "good pixels cover 52.1%"),
        "mask only": (Spectra(LAMOST, flux, one, np.ones(flux.shape, np.int32)), "low_coverage", "cover 0.0%"),
        "elsewhere": (Spectra(LAMOST + 5000, flux), "low_coverage", "nothing of the grid"),
        "below": (Spectra(np.linspace(1000, 3000, 3909), flux), "low_coverage", "nothing of the grid"),
        "noisy": (Spectra(LAMOST, flux, one * 1e-12), "low_snr", f"the median S/N on {GRID} is 0.00; the limit"),
    }  # fmt: skip


def test_each_rejection_has_its_reason_and_numbers(stars):
    flux = stars(LAMOST, 1)
    for name, (batch, reason, detail) in bad_inputs(flux).items():
        result = prepare([batch])
        assert reasons(result) == [reason], name
        assert detail in result.rejections[0].detail, (name, result.rejections[0].detail)
        assert len(result) == 0 and result.rejections[0].row == 0 and reason in REASONS
    # All together between good ones: rows count through all batches.
    good = Spectra(LAMOST, flux, np.ones_like(flux))
    batches = [good, *(batch for batch, *_ in bad_inputs(flux).values()), good]
    result = prepare(batches)
    assert result.rows.tolist() == [0, len(batches) - 1]
    assert [rejection.row for rejection in result.rejections] == list(range(1, len(batches) - 1))


def test_limits_can_be_lifted(stars):
    flux = stars(LAMOST, 1)
    inputs = bad_inputs(flux)
    lax = LrsPreparation(min_coverage=0, min_snr=0)
    assert len(lax([inputs[name][0] for name in ("short", "masked", "noisy")])) == 3
    assert reasons(lax([inputs[name][0] for name in ("no weight", "mask only", "elsewhere")])) == [
        "no_valid_pixels",
        "low_coverage",
        "low_coverage",
    ]


def test_nothing_in_nothing_out(stars):
    empty = Spectra(LAMOST, np.empty((0, 3909), np.float32))
    for batches in ([], [empty]):
        result = prepare(batches)
        assert result.flux.shape == (0, 1462) and len(result.rows) == 0 and not result.rejections
    assert prepare([empty, Spectra(LAMOST, stars(LAMOST, 2))]).rows.tolist() == [0, 1]


@st.composite
def messy_batches(draw):
    """Batches on random grids with NaNs, infinities, zeros, gaps, negative and huge flux."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    batches = []
    for _ in range(draw(st.integers(1, 4))):
        n, n_pix = draw(st.integers(0, 3)), draw(st.integers(1, 3000))
        start, step = draw(st.floats(3.55, 3.7)), draw(st.sampled_from([1e-4, 1e-4, 7e-5, 1e-3, 5e-2]))
        wavelength = 10 ** (start + step * np.arange(n_pix))
        scale = draw(st.sampled_from([1.0, 1e-17, 1e30, -1.0, 0.0]))
        flux = (scale * rng.normal(1, draw(st.sampled_from([0, 0.1, 5])), (n, n_pix))).astype(
            draw(st.sampled_from(["f4", "f8", ">f4"]))
        )
        ivar = None if draw(st.booleans()) else np.ones((n, n_pix), np.float32)
        for spoil in (np.nan, np.inf, 0.0, -1.0, 1e38):
            where = rng.random((n, n_pix)) < draw(st.sampled_from([0, 0, 0.01, 0.3, 1]))
            flux[where] = spoil
            if ivar is not None:
                ivar[np.roll(where, 3, axis=1)] = spoil
        if draw(st.booleans()) and n_pix > 10:
            flux[:, draw(st.integers(0, n_pix)) :] = np.nan
        mask = rng.integers(0, 3, (n, n_pix)).astype(np.int32) * (rng.random((n, n_pix)) < 0.1)
        batches.append(Spectra(wavelength, flux, ivar, mask if draw(st.booleans()) else None))
    return batches


@settings(deadline=None, max_examples=120)
@given(messy_batches(), st.sampled_from([0.0, 0.7]))
def test_count_in_is_count_out_and_all_is_finite(batches, limit):
    n = sum(map(len, batches))
    result = LrsPreparation(min_coverage=limit, min_snr=limit)(batches)
    assert sorted([*result.rows.tolist(), *(rejection.row for rejection in result.rejections)]) == list(range(n))
    assert (np.diff(result.rows) > 0).all() and all(rejection.reason in REASONS for rejection in result.rejections)
    assert np.isfinite(result.flux).all() and np.isfinite(result.ivar).all() and (result.ivar >= 0).all()
    variance = np.square(result.flux - result.flux.mean(axis=1, keepdims=True)).sum(axis=1)
    assert (variance > 0).all() and np.isfinite(variance).all()  # encoders divide by its root
    assert not np.isnan(result.snr[(result.quality & Quality.NO_ERRORS) == 0]).any()
    flagged = (result.quality & (Quality.REPAIRED | Quality.LATE_START | Quality.EARLY_END)) > 0
    np.testing.assert_array_equal(flagged, result.n_repaired > 0)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"min_coverage": 1.5}, "min_coverage is 1.5; give a share between 0 and 1"),
        ({"min_snr": float("nan")}, "min_snr is nan; give 0"),
        ({"threads": 0}, "threads is 0; give 1 or more"),
        ({"device": "tpu"}, "device is 'tpu'; give 'cpu', 'cuda' or 'cuda:N'"),
    ],
)
def test_settings_are_checked(setting, message):
    with pytest.raises(PreparationError, match=message):
        LrsPreparation(**setting)


def test_a_missing_device_is_an_error(stars):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(PreparationError, match="torch finds no CUDA device; use device='cpu'"):
        LrsPreparation(device="cuda")([Spectra(LAMOST, stars(LAMOST, 1))])


@pytest.mark.gpu
def test_the_gpu_gives_the_same(stars):
    flux = stars(LAMOST, 50)
    ivar = np.where(np.random.default_rng(0).random(flux.shape) < 0.01, 0, 1).astype(np.float32)
    result, expected = LrsPreparation(device="cuda")(lamost(flux, ivar)), prepare(lamost(flux, ivar))
    np.testing.assert_allclose(result.flux, expected.flux, rtol=1e-6)
    np.testing.assert_array_equal(result.quality, expected.quality)


def test_the_modality():
    modality = get_modality("lamost_lrs")
    assert modality is modality_for_survey("lamost")
    np.testing.assert_array_equal(modality.wavelength, LAMOST_GRID)
    preparation: Preparation = modality.preparation
    assert (preparation.name, preparation.version) == ("specclip-lrs", 1)
    assert preparation.settings() == {"min_coverage": 0.7, "min_snr": 1.0, "mask_bits": 63}


@pytest.mark.shared
def test_equal_to_the_official_code(golden, deviation):
    data = np.load(golden / "preprocess_lrs.npz")
    result = prepare([Spectra(LAMOST[:3904], data["flux_raw"], log10_grid=COEFFS)])
    assert len(result) == 40
    assert deviation(result.flux, data["flux_norm_1462"]) < 1e-7  # rounding to float32


@pytest.mark.shared
def test_all_real_spectra(shared, reference, deviation):
    from astropy.io import fits

    batches = []
    for path in sorted(shared.glob("lamost_*/**/*.fits.gz")):
        if "mrs" in path.parts:
            continue
        with fits.open(path) as hdus:
            if hdus[0].data is not None:
                flux, ivar, mask = hdus[0].data[[0, 1, -2]]
            else:
                flux, ivar, mask = (hdus[1].data[name][0] for name in ("FLUX", "IVAR", "ANDMASK"))
            coeffs = hdus[0].header["COEFF0"], hdus[0].header["COEFF1"]
        wavelength = 10 ** (coeffs[0] + coeffs[1] * np.arange(len(flux)))
        batches.append(Spectra(wavelength, flux[None], ivar[None], mask[None].astype(np.int32), log10_grid=coeffs))
    assert len(batches) == 489

    result = prepare(batches)
    assert len(result) + len(result.rejections) == 489
    assert reasons(result) == ["low_snr"] * 3
    assert np.isfinite(result.flux).all() and np.isfinite(result.ivar).all() and np.isfinite(result.snr).all()
    n_clean = 0
    for row, flux in zip(result.rows, result.flux, strict=True):
        batch = batches[row]
        fit = slice(*np.searchsorted(batch.wavelength, [3690, 5710]))
        if n_clean < 60 and (batch.ivar[0, fit] > 0).all():
            n_clean += 1
            assert deviation(flux, reference.prepare_one(batch.wavelength, batch.flux[0])) < 1e-6
    assert n_clean == 60
