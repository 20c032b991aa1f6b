"""Expected spectra, features in what they leave, and the words for them."""

from __future__ import annotations

import numpy as np
import pytest

from specdb.anomaly.expected import Expectation, Nearest, Overall, Sample
from specdb.anomaly.features import FeatureDetector, Peak
from specdb.anomaly.lines import LINES, identify
from specdb.anomaly.reasons import describe_peak, finder, reasons

N, P = 400, 300


def spectra(seed: int = 0, errors: bool = True) -> Sample:
    """Ordinary spectra: one slope that the embedding knows, one bump that it does not, noise of 1 %."""
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, P)
    slope, bump = rng.normal(size=(2, N, 1))
    sigma = 0.01 * np.exp(0.5 * rng.normal(size=(N, 1)))
    flux = 1 + 0.2 * slope * x + 0.02 * bump * np.exp(-20 * x**2) + sigma * rng.normal(size=(N, P))
    angle = np.arctan(slope)
    vectors = np.hstack([np.cos(angle), np.sin(angle)]).astype(np.float32)
    ivar = np.broadcast_to(sigma**-2.0 if errors else 0 * sigma, (N, P)).astype(np.float32)
    return Sample(vectors, flux.astype(np.float32), ivar, (1 / sigma[:, 0]).astype(np.float32), np.arange(N))


@pytest.mark.parametrize("rule", [Nearest(20), Overall()])
@pytest.mark.parametrize("errors", [True, False])
def test_ordinary_spectra_are_as_expected(rule: Nearest | Overall, errors: bool) -> None:
    sample = spectra(errors=errors)
    chi2 = Expectation.fit(sample, rule, 3)(sample).chi2
    assert 0.3 < np.median(chi2) < 2


def test_an_emission_line_is_found_where_it_is() -> None:
    sample = spectra()
    sample.flux[7] += (0.15 * np.exp(-0.5 * ((np.arange(P) - 120) / 1.5) ** 2)).astype(np.float32)
    model = Expectation.fit(sample, Nearest(20), 3)
    assert 7 not in model.ordinary.star
    detector = FeatureDetector.fit(model.left_of_ordinary())
    residual = model(sample)
    strongest = detector.strongest(residual)
    assert strongest.argmax() == 7
    peak = detector.peaks(model(sample.take(np.array([7]))))[0][0]
    assert peak.significance > 8
    assert abs(peak.pixel - 120) < 2
    assert peak.width < 4


def test_a_broad_deficit_is_found_as_broad() -> None:
    sample = spectra()
    sample.flux[9] -= (0.08 * np.exp(-0.5 * ((np.arange(P) - 200) / 12) ** 2)).astype(np.float32)
    model = Expectation.fit(sample, Nearest(20), 3)
    peak = FeatureDetector.fit(model.left_of_ordinary()).peaks(model(sample.take(np.array([9]))))[0][0]
    assert peak.significance < -8
    assert peak.width >= 6


def test_visits_of_one_star_are_no_company() -> None:
    sample = spectra()
    star = sample.star.copy()
    star[:30] = 0
    twins = Sample(sample.vectors, sample.flux, sample.ivar, sample.snr, star)
    own = Nearest(5)(twins.take(np.arange(1)), twins)
    assert not np.allclose(own, twins.flux[:30].mean(axis=0))
    assert np.isfinite(own).all()


def test_dead_pixels_say_nothing() -> None:
    sample = spectra()
    ivar = sample.ivar.copy()
    sample.flux[3, 50:60] = 1e3
    ivar[3, 50:60] = 0
    masked = Sample(sample.vectors, sample.flux, ivar, sample.snr, sample.star)
    model = Expectation.fit(masked, Nearest(20), 3)
    assert model(masked.take(np.array([3]))).chi2[0] < 3


def test_lines_are_named_and_sky_is_told_apart() -> None:
    assert identify(6565.5, 8.0, excess=True).name == "H-alpha"  # type: ignore[union-attr]
    assert identify(5578.0, 5.0, excess=True).sky  # type: ignore[union-attr]
    assert identify(4680.0, 5.0, excess=False).name == "C2 4737"  # type: ignore[union-attr]
    assert identify(4800.0, 5.0, excess=True) is None
    assert len({line.name for line in LINES}) == len(LINES)


def test_features_are_put_into_words() -> None:
    wavelength = np.linspace(4000.0, 7000.0, 3001)
    assert describe_peak(Peak(14.2, 2564.6, 1.5), wavelength, "lamost_lrs") == "emission at H-alpha: +14 sigma"
    assert describe_peak(Peak(-9.0, 735.0, 40.0), wavelength, "lamost_lrs").startswith(
        "deficit 4655-4815 A (around C2 4737)"
    )
    assert describe_peak(Peak(5.0, 800.0, 1.5), wavelength, "lamost_lrs") == "emission at 4800 A: +5 sigma"


def test_a_reason_names_the_score_where_no_feature_does() -> None:
    words = reasons([[]], np.arange(5.0), "lamost_lrs", {"knn": np.array([3.0])}, {"knn": "few are like it"}, ["GALAXY"])
    assert words == ["few are like it (p = 0.001); GALAXY"]


@pytest.mark.parametrize(
    ("ra", "dec", "text"),
    [
        (0.0, 0.0, "00 00 00.00 +00 00 00.0"),
        (187.70593, 12.39112, "12 30 49.42 +12 23 28.0"),
        (359.999999, -0.5, "00 00 00.00 -00 30 00.0"),
        (10.0, -89.99999, "00 40 00.00 -90 00 00.0"),
    ],
)
def test_finder_positions(ra: float, dec: float, text: str) -> None:
    assert finder(np.array([ra]), np.array([dec])) == [text]


def test_an_unknown_position_has_no_finder() -> None:
    assert finder(np.array([np.nan]), np.array([0.0])) == [None]
