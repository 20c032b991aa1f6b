"""The DESI-like instrument: the same light, sharper and with other errors, and back onto the pixels of LAMOST."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from indexer.simulate.desi_like import DesiLike, desi_instrument, draw_desi_like, observe, onto_lrs
from indexer.simulate.emulator import Emulator
from indexer.simulate.instrument import LRS_WAVELENGTH
from indexer.simulate.light import lrs_pixels, starlight
from specdb.errors import InputError
from specdb.spectra import Spectra, get_modality

SUN = np.array([[5772.0, 4.44, 0.0]])


@pytest.fixture(scope="module")
def target() -> DesiLike:
    return draw_desi_like(260, seed=2)


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator.load()


def test_instrument_has_the_grid_and_resolution_of_desi() -> None:
    desi = desi_instrument()
    assert len(desi.wavelength) == 7781
    assert desi.wavelength[0] == 3600
    assert desi.wavelength[-1] == pytest.approx(9824)
    assert 1900 < desi.resolution.min() < 2100
    assert 4900 < desi.resolution.max() <= 5100
    assert np.isfinite(desi.noise).all()


def test_spectra_are_prepared_like_lamost_and_the_labels_follow(target: DesiLike) -> None:
    assert len(target) == len(target.native) == len(target.lrs) == 260
    prepared = get_modality("lamost_lrs").preparation([target.lrs])
    assert len(prepared) == 260
    assert target.labels.shape == (260, 4)
    assert (target.labels[:, 2] < -1).mean() > 0.08
    deviation = prepared.flux[:, np.abs(get_modality("lamost_lrs").wavelength - 5177) < 12].mean(axis=1)
    cool = (target.labels[:, 0] < 5500) & (target.snr > 20)
    assert np.corrcoef(deviation[cool], target.labels[cool, 2])[0, 1] < -0.3


def test_lines_are_sharper_than_lamost_and_as_wide_after_matching(emulator: Emulator) -> None:
    desi = replace(desi_instrument(), tilt=0.0)
    light = starlight(emulator, SUN, np.zeros(1), np.zeros(1))
    native = observe(desi, light, emulator, np.array([1e5]), np.random.default_rng(0))
    matched = onto_lrs(native)
    sharp = np.log(np.interp(LRS_WAVELENGTH, desi.wavelength, native.flux[0]))
    ours = light[0, lrs_pixels(emulator)]
    blue = (LRS_WAVELENGTH > 4500) & (LRS_WAVELENGTH < 5600)

    def detail(log_flux: np.ndarray) -> float:
        return float((log_flux - gaussian_filter1d(log_flux, 5))[blue].std())

    assert detail(sharp) > 1.1 * detail(ours)
    assert detail(np.log(matched.flux[0])) == pytest.approx(detail(ours), rel=0.08)


def test_noise_agrees_with_the_errors(emulator: Emulator) -> None:
    desi = desi_instrument()
    light = np.repeat(starlight(emulator, SUN, np.zeros(1), np.zeros(1)), 60, axis=0)
    native = observe(replace(desi, tilt=0.0), light, emulator, np.full(60, 20.0), np.random.default_rng(0))
    for spectra in (native, onto_lrs(native)):
        assert spectra.ivar is not None
        scatter = spectra.flux.std(axis=0) * np.sqrt(np.median(spectra.ivar, axis=0))
        assert np.median(scatter) == pytest.approx(1, abs=0.1)
    window = (desi.wavelength > 4000) & (desi.wavelength < 5600)
    assert np.median((native.flux * np.sqrt(native.ivar))[:, window]) == pytest.approx(20, rel=0.1)


def test_short_draws_are_the_beginnings_of_long_ones(target: DesiLike) -> None:
    short = draw_desi_like(10, seed=2)
    assert np.array_equal(short.native.flux, target.native.flux[:10])
    assert np.array_equal(short.labels, target.labels[:10])
    assert not np.array_equal(draw_desi_like(10, seed=3).labels, short.labels)


def test_wrong_numbers_are_refused() -> None:
    desi = desi_instrument()
    with pytest.raises(InputError, match="draw at least one star"):
        draw_desi_like(0)
    with pytest.raises(InputError, match="add up to 1"):
        draw_desi_like(2, shares=(0.5, 0.1, 0.1))
    with pytest.raises(InputError, match="give all three on the same pixels"):
        replace(desi, noise=np.ones(3))
    with pytest.raises(InputError, match="without inverse variances, or that do not say how sharp"):
        onto_lrs(Spectra(desi.wavelength, np.ones((1, 7781), np.float32)))
