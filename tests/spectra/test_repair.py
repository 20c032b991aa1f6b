"""Which pixels are bad, what stands in their place, and how spectra get from one grid to another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from specdb.spectra.repair import bad_pixels, interpolate_bad
from specdb.spectra.resampling import Resampler


def test_every_cause_of_a_bad_pixel():
    flux = np.array([[1, np.nan, np.inf, -np.inf, 1, 1, 1, 1, 1, -3]], np.float32)
    ivar = np.array([[1, 1, 1, 1, 0, np.nan, np.inf, -1, 1, 1]], np.float32)
    mask = np.array([[0, 0, 0, 0, 0, 0, 0, 0, 2, 64]], np.int32)
    assert bad_pixels(flux, ivar, mask).tolist() == [[False, *[True] * 8, False]]
    assert bad_pixels(flux, ivar, mask, mask_bits=0).tolist() == [[False, *[True] * 7, False, False]]
    assert bad_pixels(flux).tolist() == [[False, True, True, True, *[False] * 6]]
    assert bad_pixels(np.array([[1e39, 1e38]])).tolist() == [[True, False]]  # a float32 cannot hold the first


@given(arrays(bool, st.tuples(st.integers(0, 5), st.integers(2, 12))))
def test_bad_pixels_are_interpolated_linearly_in_wavelength(bad):
    n, n_pix = bad.shape
    rng = np.random.default_rng(n_pix)
    wavelength = np.cumsum(rng.uniform(0.5, 2, n_pix))
    original = rng.normal(size=(n, n_pix))
    flux = np.where(bad, np.nan, original)
    listed = interpolate_bad(wavelength, flux, bad)
    for row in range(n):
        good = ~bad[row]
        expected = np.interp(wavelength, wavelength[good], original[row][good]) if good.any() else np.zeros(n_pix)
        np.testing.assert_allclose(flux[row], expected, atol=1e-12)
        np.testing.assert_array_equal(flux[row][good], original[row][good])
    np.testing.assert_array_equal(np.stack([listed.row, listed.pixel], axis=1), np.argwhere(bad))
    inner = np.logical_or.accumulate(~bad, axis=1) & np.logical_or.accumulate(~bad[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_array_equal(listed.at_end, ~inner[listed.row, listed.pixel])


def test_parts_count_from_their_start():
    bad = np.zeros((3, 10), bool)
    bad[0, 1] = bad[1, 4:6] = bad[2, 9] = True
    listed = interpolate_bad(np.arange(10.0), np.ones((3, 10)), bad)
    part = listed.within(4, 8)
    assert (part.row.tolist(), part.pixel.tolist(), len(part)) == ([1, 1], [0, 1], 2)
    part = listed.of_rows(1, 3)
    assert (part.row.tolist(), part.pixel.tolist(), part.at_end.tolist()) == ([0, 0, 1], [4, 5, 9], [False, False, True])


GRID = 10 ** (3.6 + 1e-4 * np.arange(50))


def test_grids_of_one_phase_are_copied_exactly():
    wavelength = 10 ** (3.5990 + 1e-4 * np.arange(70))
    values = np.random.default_rng(0).normal(size=(3, 70))
    plan = Resampler.plan(wavelength, GRID)
    assert plan.span == slice(10, 60)
    assert plan.interpolate(values, 1.0).tobytes() == values[:, 10:60].tobytes()
    shifted = plan.shifted(10)
    assert shifted.interpolate(values[:, 10:60], 1.0).tobytes() == values[:, 10:60].tobytes()
    flags = values > 0
    np.testing.assert_array_equal(plan.touched(flags), flags[:, 10:60])
    np.testing.assert_array_equal(shifted.inverse_variance(values[:, 10:60]), values[:, 10:60])


def test_float32_wavelengths_are_the_same_pixels():
    wavelength = (10 ** (3.5990 + 1e-4 * np.arange(70))).astype(np.float32).astype(np.float64)
    assert not Resampler.plan(wavelength, GRID).fraction.any()


@pytest.mark.parametrize("wavelength", [np.linspace(3950, 4050, 150), 10 ** (3.59 + 2.3e-4 * np.arange(100)), GRID[5:30]])
def test_other_grids_are_interpolated_in_log_wavelength(wavelength):
    values = np.random.default_rng(0).normal(size=(2, len(wavelength)))
    plan = Resampler.plan(wavelength, GRID)
    for row, result in zip(values, plan.interpolate(values, 7.0), strict=True):
        # numpy.interp does not know pixels that agree to a thousandth.
        expected = np.interp(np.log10(GRID), np.log10(wavelength), row, left=7.0, right=7.0)
        close = np.abs(result - expected) < 5e-3
        assert close[1:-1].all() or (~plan.inside).any()
        np.testing.assert_allclose(result[plan.inside], expected[plan.inside], atol=5e-3)
    np.testing.assert_array_equal(plan.inside, (wavelength[0] - 1e-6 < GRID) & (wavelength[-1] + 1e-6 > GRID))


def test_variance_flags_and_gaps_of_interpolated_pixels():
    wavelength = 10 ** (3.6 + 1e-4 * np.array([0, 1, 2.5, 3.5, 10, 11]))
    plan = Resampler.plan(wavelength, GRID[:14])
    ivar = np.array([[1.0, 1, 1, 0, 1, 1]])
    result = plan.inverse_variance(ivar)[0]
    np.testing.assert_allclose(result[[0, 1, 10, 11]], 1)
    assert 1 < result[2] < 2  # the mean of two pixels knows more than one
    assert result[3] == 0 and result[12] == 0
    assert plan.gap.tolist() == [4 <= i <= 9 for i in range(14)]
    assert plan.touched(ivar == 0)[0].tolist() == [3 <= i <= 9 for i in range(14)]


def test_grids_without_overlap_need_nothing():
    assert Resampler.plan(np.array([1.0, 2.0]), GRID).span == slice(0, 0)
