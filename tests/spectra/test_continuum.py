"""The batched continuum against the one-at-a-time reference and against the numbers of the official code."""

from __future__ import annotations

import numpy as np
import pytest

from specdb.spectra.continuum import BlueContinuum, continuum, running_median

LAMOST = 10 ** (3.5682 + 1e-4 * np.arange(3909))


def leave_out(blue, n, column, pixels):
    """Weights (n_blue, n) without some pixels of one column, and the inverse normal matrices that go with them."""
    weight = np.ones((len(blue.basis), n))
    weight[pixels, column] = 0
    pixel = np.arange(len(blue.basis))[pixels]
    return {"weight": weight, "normal_inverse": blue.normal_inverse(np.full(len(pixel), column), pixel, n)}


@pytest.mark.parametrize("n_pix", [1, 2, 3, 5, 6, 7, 8, 100, 101])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_running_median_is_exactly_the_median_of_seven_with_zeros_beyond_the_ends(n_pix, dtype):
    flux = np.random.default_rng(n_pix).normal(size=(n_pix, 4)).astype(dtype)
    framed = np.concatenate([np.zeros((3, 4)), flux, np.zeros((3, 4))])
    expected = np.median([framed[k : k + n_pix] for k in range(7)], axis=0)
    result = running_median(flux)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result, expected)


def test_running_median_with_torch_is_the_same():
    torch = pytest.importorskip("torch")
    flux = np.random.default_rng(0).normal(size=(101, 3))
    np.testing.assert_array_equal(running_median(torch.from_numpy(flux), torch).numpy(), running_median(flux))


def test_fit_with_torch_is_the_same(stars):
    torch = pytest.importorskip("torch")
    blue = BlueContinuum.plan(LAMOST)
    smooth = running_median(np.ascontiguousarray(stars(LAMOST, 5).T))[blue.pixels]
    options = leave_out(blue, 5, 2, slice(200, 400))
    expected, branch = blue.fit(smooth, blue.basis, **options)
    options = {name: torch.from_numpy(array) for name, array in options.items()}
    result, torch_branch = blue.fit(torch.from_numpy(smooth), torch.from_numpy(blue.basis), torch, **options)
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-10, atol=1e-8)
    np.testing.assert_array_equal(torch_branch.numpy(), branch)


@pytest.mark.parametrize("start", [3.5682, 3.584, 3.5678])  # 1, 0 and 5 pixels below 3700 Angstrom
def test_equal_to_the_reference_in_both_branches(reference, stars, deviation, start):
    wavelength = 10 ** (start + 1e-4 * np.arange(3751))
    flux = stars(wavelength, 12)
    result, blue_branch = continuum(wavelength, flux)
    assert 0 < blue_branch.sum() < len(flux)
    for row, one in enumerate(flux):
        expected, branch = reference.continuum(wavelength, one)
        assert branch == blue_branch[row]
        assert deviation(result[row], expected) < 1e-8


def test_a_part_of_a_hundred_pixels_keeps_the_median(reference, stars):
    wavelength = np.linspace(3700, 5700, 100)
    flux = stars(wavelength, 2)
    result, _ = continuum(wavelength, flux)
    np.testing.assert_array_equal(result, [reference.continuum(wavelength, one)[0] for one in flux])


def test_zero_and_negative_continua_become_one():
    result, _ = continuum(LAMOST, np.stack([np.zeros(3909), np.full(3909, -5.0)]))
    np.testing.assert_array_equal(result, 1.0)


def test_windows_are_not_misplaced_in_spectra_that_start_far_in_the_blue():
    early = 10 ** (3.5682 + 1e-4 * np.arange(-400, 3909))
    lamost, far = BlueContinuum.plan(LAMOST), BlueContinuum.plan(early)
    assert [w.pixels for w in far.windows] == [w.pixels for w in lamost.windows]


def test_pixels_left_out_have_no_weight(stars):
    blue = BlueContinuum.plan(LAMOST)
    smooth = running_median(np.ascontiguousarray(stars(LAMOST, 1).T))[blue.pixels]
    spoiled = smooth.copy()
    spoiled[800:1100] = 1e6
    options = leave_out(blue, 1, 0, slice(800, 1100))
    np.testing.assert_array_equal(blue.fit(spoiled, blue.basis, **options)[0], blue.fit(smooth, blue.basis, **options)[0])
    # The fit of a polynomial without some of its pixels is that polynomial.
    polynomial = blue.basis @ np.arange(1.0, 7.0)[:, None]
    result, _ = blue.fit(polynomial, blue.basis, **leave_out(blue, 1, 0, slice(0, 500)))
    np.testing.assert_allclose(result[:, 0], np.arange(1.0, 7.0), rtol=1e-6)


@pytest.mark.shared
def test_equal_to_the_official_code(golden, deviation):
    data = np.load(golden / "preprocess_lrs.npz")
    wavelength = 10 ** (data["coeff0"][0] + data["coeff1"][0] * np.arange(3904))
    result, blue_branch = continuum(wavelength, data["flux_raw"])
    np.testing.assert_array_equal(blue_branch, data["blue_branch"])
    assert deviation(result[data["continuum_index"]], data["continuum"]) < 1e-6
    once = data["flux_raw"] / result
    assert deviation(once[:, 338:1800], data["flux_norm_1462"]) < 1e-8
    twice = once / continuum(wavelength, once)[0]
    assert deviation(twice[:, 338:1800], data["flux_norm_twice_1462"]) < 1e-7
