"""The light that all instruments share: [alpha/Fe], few metals, unusual objects, and who is visited how often."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.derive.emulator import ALPHA_NODES, fit_alpha
from indexer.simulate.emulator import Emulator, features, mean_alpha
from indexer.simulate.light import starlight
from indexer.simulate.population import draw_alpha, draw_stars, draw_visits
from indexer.simulate.unusual import LIGHT_ANOMALIES, NOT_STARS, Unusual, galaxy

LINES = {"Mg b": (5160, 5192), "Ca II 8544": (8538, 8550), "Fe 5270": (5255, 5285), "G band": (4297, 4317)}


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return Emulator.load()


def depth(emulator: Emulator, flux: np.ndarray, low: float, high: float) -> np.ndarray:
    """Depth of what lies between two wavelengths below the upper flux beside it."""
    wave, half = emulator.wavelength, (high - low) / 2
    beside = (wave > low - 60 - half) & (wave < high + 60 + half) & ~((wave > low) & (wave < high))
    return 1 - flux[:, (wave > low) & (wave < high)].mean(axis=1) / np.percentile(flux[:, beside], 90, axis=1)


def alpha_effect(emulator: Emulator, labels: tuple[float, float, float]) -> np.ndarray:
    """Change of ln flux per 0.3 dex of [alpha/Fe]."""
    rows = np.tile(labels, (2, 1))
    enhanced, mean = emulator.log_flux(rows, alpha=mean_alpha(rows[:, 2]) + np.array([0.3, 0]))
    return enhanced - mean


def test_alpha_deepens_its_lines_in_cool_stars_and_hardly_in_hot_ones(emulator: Emulator) -> None:
    wave = emulator.wavelength
    sun, giant, hot = (alpha_effect(emulator, labels) for labels in ((5772, 4.44, 0), (4500, 2.0, -0.3), (9500, 4.0, 0)))
    magnesium, calcium = (wave > 5165) & (wave < 5187), (wave > 3930) & (wave < 3938)
    iron_only = (wave > 5265) & (wave < 5275)
    for star in (sun, giant):
        assert star[magnesium].mean() < -0.02
        assert abs(star[iron_only].mean()) < 0.4 * abs(star[magnesium].mean())
    assert sun[calcium].mean() < -0.04
    assert np.abs(hot).mean() < 0.4 * np.abs(sun).mean()
    assert np.abs(alpha_effect(emulator, (3700, 4.8, 0.0))[magnesium]).max() < 0.01  # unknown there, and left alone


def test_without_alpha_a_star_has_the_mean_of_its_metallicity(emulator: Emulator) -> None:
    labels = np.array([[5000.0, 3.0, -0.7], [6000.0, 4.2, 0.2], [4800.0, 2.2, -2.0]])
    np.testing.assert_allclose(
        emulator.log_flux(labels, alpha=mean_alpha(labels[:, 2])), emulator.log_flux(labels), atol=1e-6
    )
    assert mean_alpha(np.array([0.4, 0.0, -1.0, -3.0])).tolist() == [0.0, 0.0, 0.35, 0.35]


def test_slopes_of_the_features_are_derivatives() -> None:
    labels = draw_stars(20, np.random.default_rng(0)).labels
    step = np.array([0, 0, 1e-4])
    numeric = (features(labels + step) - features(labels - step)) / 2e-4
    np.testing.assert_allclose(features(labels, slope=True), numeric, atol=1e-6)
    assert features(np.zeros((0, 3))).shape == (0, numeric.shape[1])


@pytest.mark.parametrize("labels", [(5772, 4.44), (4800, 2.2), (6300, 4.2), (5000, 4.6), (5400, 3.5)])
def test_metal_lines_fade_steadily_down_to_minus_three(emulator: Emulator, labels: tuple[float, float]) -> None:
    feh = np.arange(0.0, -3.01, -0.25)
    flux = np.exp(emulator.log_flux(np.column_stack([np.tile(labels, (len(feh), 1)), feh])))
    for name, (low, high) in LINES.items():
        depths = depth(emulator, flux, low, high)
        assert (np.diff(depths) < 0.004).all(), name
        assert depths[-1] < 0.7 * depths[0], name
    metals = np.median(flux[:, (emulator.wavelength > 4500) & (emulator.wavelength < 5400)].std(axis=1)[-3:])
    assert metals < flux[0, (emulator.wavelength > 4500) & (emulator.wavelength < 5400)].std()


def test_disc_has_two_sequences_and_the_halo_a_tail() -> None:
    stars = draw_stars(40_000, np.random.default_rng(1))
    feh = stars.labels[:, 2]
    near = np.abs(feh + 0.5) < 0.1
    thin, thick = (stars.alpha[near & (stars.component == k)] for k in (0, 1))
    assert thick.mean() - thin.mean() > 3 * max(thin.std(), thick.std())
    assert feh.min() >= -3
    assert 0.003 < (feh < -2).mean() < 0.03
    assert (feh < -2.7).sum() > 10
    assert stars.alpha.min() >= -0.1
    assert stars.alpha.max() <= 0.5
    alone = draw_alpha(np.full(2000, -1.8), np.full(2000, 2), np.random.default_rng(2))
    assert alone.mean() == pytest.approx(0.3, abs=0.02)
    halo = draw_stars(500, np.random.default_rng(3), shares=(0.0, 0.0, 1.0))
    assert (halo.component == 2).all()


def test_visits_follow_the_fraction() -> None:
    star, visit = draw_visits(4000, 0.25, np.random.default_rng(0))
    visits = np.bincount(star)
    assert (np.diff(star) >= 0).all()
    assert visits.max() == 4
    assert (visits > 1).mean() == pytest.approx(0.25, abs=0.02)
    assert visit.max() == 3
    assert np.array_equal(draw_visits(5, 0.0, np.random.default_rng(0))[0], np.arange(5))


def test_galaxies_are_redshifted_and_the_young_shine_in_lines(emulator: Emulator) -> None:
    wave = emulator.wavelength
    old, young = np.exp(galaxy(emulator, np.array([0.1, 0.1]), np.array([0.0, 0.7])))
    alpha, oxygen = (np.abs(wave - line * 1.1) < 6 for line in (6564.6, 5008.2))
    for line in (alpha, oxygen):
        beside = np.roll(line, 60)
        assert young[line].max() > 1.2 * young[beside].mean()
        assert old[line].max() < 1.1 * old[beside].mean()
    blue, red = (wave > 4300) & (wave < 4600), (wave > 7000) & (wave < 7300)
    assert young[blue].mean() / young[red].mean() > 1.2 * old[blue].mean() / old[red].mean()
    calcium = (wave > 4300) & (wave < 4340)  # H and K, redshifted
    assert old[calcium].min() < 0.7 * old[(wave > 4420) & (wave < 4480)].mean()


def test_each_class_changes_the_light_of_its_stars_alone(emulator: Emulator) -> None:
    kind = np.array([*LIGHT_ANOMALIES, "bad_sky", "wrong_pair", ""])
    rng = np.random.default_rng(4)
    stars = draw_stars(len(kind), rng)
    ebv = np.full(len(kind), 0.1)
    plain = starlight(emulator, stars.labels, stars.rv_kms, ebv, stars.alpha)
    light, unusual = plain.copy(), Unusual.draw(kind, stars, rng)
    unusual.change(light, emulator, stars, ebv)
    changed = (light != plain).any(axis=1)
    assert changed.tolist() == [True] * len(LIGHT_ANOMALIES) + [False] * 3
    assert np.isfinite(light).all()
    assert light.dtype == np.float32
    assert set(kind[unusual.redshift > 0]) == {"qso", "galaxy"}
    assert {*NOT_STARS} <= {*LIGHT_ANOMALIES}
    rows = np.array([5, 0])
    again = plain[rows].copy()
    unusual.take(rows).change(again, emulator, stars.take(rows), ebv[rows])
    np.testing.assert_allclose(again, light[rows], atol=1e-5)


@pytest.mark.shared
def test_alpha_scale_agrees_with_a_second_comparison(shared: Path, emulator: Emulator) -> None:
    """BOSZ with [alpha/Fe] 0.3 over Kurucz models without, less the same ratio of the star both know at 0."""
    folder = shared / "stellar_libraries"
    wave = emulator.wavelength
    with np.load(folder / "bosz_r2000_subset.npz") as z, np.load(folder / "kurucz_f_standards.npz") as k:
        kurucz_wave = 10 ** (float(k["log10_wave0"]) + float(k["dlog10_wave"]) * np.arange(k["flux_norm"].shape[1]))

        def kurucz(teff: float, logg: float, feh: float) -> np.ndarray:
            ends = [
                np.flatnonzero((k["teff"] == teff) & (k["logg"] == logg) & np.isclose(k["feh"], f))[0] for f in (-0.5, 0)
            ]
            low, high = (np.log(np.interp(wave, kurucz_wave, k["flux_norm"][i].astype(float))) for i in ends)
            return low + (high - low) * (feh + 0.5) / 0.5

        def bosz(name: str) -> np.ndarray:
            row = next(i for i, n in enumerate(z["name"]) if name in str(n))
            return np.log(np.interp(wave, z["wave"], z["surface_intensity"][row].astype(float)))

        bias = bosz("m03cp00op00t5500g45") - kurucz(5500, 4.5, -0.3)
        measured = bosz("m03cp00op03t5750g40") - kurucz(5750, 4.0, -0.3) - bias
    ours = alpha_effect(emulator, (5750, 4.0, -0.3))
    for low, high in ((3900, 4000), (4150, 4400), (5150, 5200), (8480, 8700)):
        part = (wave > low) & (wave < high)
        x, y = ours[part] - ours[part].mean(), measured[part] - measured[part].mean()
        assert np.corrcoef(x, y)[0, 1] > 0.7
        assert 0.6 < (x @ y) / (x @ x) < 1.6
    shape, scale = fit_alpha(folder / "bosz_r2000_subset.npz", emulator.weights)
    assert shape.shape == (len(ALPHA_NODES), len(wave))
    np.testing.assert_allclose(shape.sum(axis=0), emulator.alpha_shape.sum(axis=0), atol=0.01)
    np.testing.assert_allclose(features(np.array([[5500.0, 4.5, -0.3]]), slope=True) @ scale, 1, atol=0.02)
