"""Matching the resolution: widths, variances, masks, ends, and independence of company."""

from __future__ import annotations

import numpy as np
import pytest

from specdb.errors import PreparationError
from specdb.spectra.resolution import FWHM_PER_SIGMA, LRS_GRID, LogGrid, match_resolution
from specdb.spectra.spectrum import Spectra

GRID = LogGrid(LRS_GRID.coeff0, 1e-4, 1890)
LINES = np.array([3950.3, 4340.47, 4861.33, 5200.7, 5577.1])
SDSS = LogGrid(3.5598, 1e-4, 2400)  # another first pixel, the same pixels
DESI = 3600 + 0.8 * np.arange(2751)


def star(wavelength: np.ndarray, sigma: np.ndarray, n: int = 1, **more: object) -> Spectra:
    """Emission lines of unit area as an instrument of that line spread sees them, integrated over its pixels."""
    from scipy.special import ndtr

    step = np.gradient(wavelength)
    edges = [
        (wavelength + side * step / 2 - LINES[:, None]) / np.interp(LINES, wavelength, sigma)[:, None] for side in (-1, 1)
    ]
    flux = ((ndtr(edges[1]) - ndtr(edges[0])) / step).sum(axis=0)
    spread = np.broadcast_to(sigma.astype(np.float32), (n, len(wavelength)))
    return Spectra(wavelength, np.tile(flux, (n, 1)), np.full((n, len(flux)), 4.0), lsf_sigma=spread, **more)


def widths(spectra: Spectra) -> np.ndarray:
    """Area and standard deviation (lines, 2) of each line."""
    found = []
    step = np.gradient(spectra.wavelength)
    for line in LINES:
        near = np.abs(spectra.wavelength - line) < 12
        weight = (spectra.flux[0] * step)[near].astype(float)
        x = spectra.wavelength[near] - line
        found.append(
            (weight.sum(), np.sqrt((weight * x**2).sum() / weight.sum() - ((weight * x).sum() / weight.sum()) ** 2))
        )
    return np.array(found)


@pytest.mark.parametrize("resolution", [1850.0, 2000.0, 3000.0, 6000.0])
@pytest.mark.parametrize("pixels", ["sdss", "desi", "shifted"])
def test_lines_come_out_as_wide_as_those_of_lrs(pixels: str, resolution: float) -> None:
    wavelength = {"sdss": SDSS.wavelength, "desi": DESI, "shifted": LogGrid(3.55983, 1e-4, 2400).wavelength}[pixels]
    declared = {"log10_grid": (SDSS.coeff0, 1e-4)} if pixels == "sdss" else {}
    sharp = star(wavelength, wavelength / resolution / FWHM_PER_SIGMA, **declared)
    (matched,) = match_resolution([sharp], GRID)
    area, sigma = widths(matched).T
    pixel = np.interp(LINES, wavelength, np.gradient(wavelength))
    wanted = np.sqrt((LINES / 1800 / FWHM_PER_SIGMA) ** 2 + pixel**2 / 12)  # the light was integrated over pixels
    np.testing.assert_allclose(area, 1, atol=6e-3)
    # Lines narrower than half a pixel look wider or narrower, depending on where in the pixel they lie.
    np.testing.assert_allclose(sigma, wanted, rtol=0.04 if resolution > 5000 else 0.02)
    assert matched.log10_grid == (GRID.coeff0, 1e-4)


def test_what_is_less_sharp_than_lrs_stays_as_it_is() -> None:
    blunt = star(SDSS.wavelength, SDSS.wavelength / 1500 / FWHM_PER_SIGMA, log10_grid=(SDSS.coeff0, 1e-4))
    (matched,) = match_resolution([blunt], GRID)
    first = GRID.place(blunt.log10_grid)
    assert first == -84
    np.testing.assert_array_equal(matched.flux[0], blunt.flux[0, 84 : 84 + GRID.n].astype(np.float32))
    assert (matched.ivar == 4).all()


@pytest.mark.parametrize("wavelength", [SDSS.wavelength, DESI], ids=["sdss", "desi"])
def test_variances_are_those_of_the_scatter(wavelength: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    flux = 100 + rng.standard_normal((400, len(wavelength))) / 2
    sigma = np.broadcast_to(wavelength / 2600 / FWHM_PER_SIGMA, flux.shape)
    (matched,) = match_resolution([Spectra(wavelength, flux, np.full(flux.shape, 4.0), lsf_sigma=sigma)], GRID)
    inner = slice(20, 1840)
    pull = (matched.flux - 100) * np.sqrt(matched.ivar)
    assert pull[:, inner].std() == pytest.approx(1, abs=0.01)
    assert np.abs(pull[:, inner].std(axis=0) - 1).max() < 0.2
    neighbours = np.mean(pull[:, 20:1839] * pull[:, 21:1840])
    assert 0.2 < neighbours < 0.85


def test_units_however_small_or_large_change_nothing() -> None:
    sharp = star(DESI, DESI / 3000 / FWHM_PER_SIGMA)
    (expected,) = match_resolution([sharp], GRID)
    for unit in (2.0**-60, 2.0**60):
        scaled = Spectra(DESI, sharp.flux * unit, sharp.ivar / unit**2, lsf_sigma=sharp.lsf_sigma)
        (matched,) = match_resolution([scaled], GRID)
        np.testing.assert_allclose(matched.flux / unit, expected.flux, rtol=0, atol=1e-7)


def test_bad_pixels_take_their_surroundings_with_them() -> None:
    rng = np.random.default_rng(0)
    flux, ivar = 10 + rng.standard_normal((1, 2751)) * 0.01, np.full((1, 2751), 1e4)
    at = int(np.searchsorted(DESI, 4500))
    mask = np.zeros((1, 2751), np.int32)
    flux[0, at : at + 3], ivar[0, at : at + 3] = 1e6, 0
    flux[0, at + 500], mask[0, at + 500] = -1e6, 8
    flux[0, at + 800] = np.nan
    spectra = Spectra(DESI, flux, ivar, mask, lsf_sigma=np.broadcast_to(DESI / 3000 / FWHM_PER_SIGMA, flux.shape))
    (matched,) = match_resolution([spectra], GRID, mask_bits=8)
    bad = matched.ivar[0] == 0
    for line in DESI[[at + 1, at + 500, at + 800]]:
        near = np.abs(GRID.wavelength - line) < 8
        assert 1 <= bad[near].sum() <= 9
        assert bad[np.argmin(np.abs(GRID.wavelength - line))]
    assert bad.sum() < 25
    np.testing.assert_allclose(matched.flux, 10, atol=0.1)
    (without,) = match_resolution([Spectra(DESI, flux, None, lsf_sigma=spectra.lsf_sigma)], GRID)
    assert without.ivar is None
    assert np.isnan(without.flux[0, np.argmin(np.abs(GRID.wavelength - DESI[at + 800]))])


def test_ends_and_gaps_carry_no_information() -> None:
    kept = (DESI > 3800) & (DESI < 5400) & ~((DESI > 4700) & (DESI < 4720))
    flux = np.ones((1, kept.sum()), np.float32)
    (matched,) = match_resolution([Spectra(DESI[kept], flux, flux)], GRID, assumed=2500)
    good = matched.ivar[0] > 0
    inside = (GRID.wavelength > 3803) & (GRID.wavelength < 5396) & (np.abs(GRID.wavelength - 4710) > 14)
    outside = (GRID.wavelength < 3800) | (GRID.wavelength > 5400) | (np.abs(GRID.wavelength - 4710) < 9)
    assert good[inside].all()
    assert not good[outside].any()


def test_unknown_line_spread_is_taken_from_the_row_or_assumed() -> None:
    known = star(SDSS.wavelength, SDSS.wavelength / 2400 / FWHM_PER_SIGMA)
    holes = known.lsf_sigma.copy()
    holes[0, ::3], holes[0, 1::7] = 0, np.nan
    in_part = Spectra(known.wavelength, known.flux, known.ivar, lsf_sigma=holes)
    nowhere = Spectra(known.wavelength, known.flux, known.ivar, lsf_sigma=np.zeros_like(holes))
    unsaid = Spectra(known.wavelength, known.flux, known.ivar)
    first, *others = match_resolution([known, in_part, nowhere, unsaid], GRID, assumed=2400)
    for other in others:
        np.testing.assert_allclose(other.flux, first.flux, rtol=0, atol=2e-3)


def test_company_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    batches = []
    for start in (3.5598, 3.58, 3.5712):
        grid = LogGrid(start, 1e-4, 2300)
        flux = rng.random((1, 2300))
        sigma = grid.wavelength / rng.uniform(1900, 2600) / FWHM_PER_SIGMA
        batches.append(Spectra(grid.wavelength, flux, flux, log10_grid=(start, 1e-4), lsf_sigma=sigma[None]))
    flux = rng.random((50, 2751))
    sigma = DESI / rng.uniform(2000, 4000, (50, 1)) / FWHM_PER_SIGMA
    batches.insert(1, Spectra(DESI, flux, flux, lsf_sigma=sigma))
    together = match_resolution(batches, GRID)
    assert [len(part) for part in together] == [1, 50, 1, 1]
    for batch, matched in zip(batches, together, strict=True):
        for row in (0, len(batch) - 1):
            (alone,) = match_resolution([batch.take([row])], GRID)
            np.testing.assert_array_equal(alone.flux[0], matched.flux[row])
            np.testing.assert_array_equal(alone.ivar[0], matched.ivar[row])
    assert match_resolution([], GRID) == []


@pytest.mark.parametrize("wrong", [{"resolution": 0.0}, {"assumed": -1.0}, {"resolution": np.nan}])
def test_resolutions_are_positive(wrong: dict[str, float]) -> None:
    with pytest.raises(PreparationError, match="give positive wavelength over FWHM"):
        match_resolution([], GRID, **wrong)
