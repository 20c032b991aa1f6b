"""Galaxies among stars by their redshift; spikes as defects; which scores vote."""

from __future__ import annotations

import numpy as np
import pytest

from specdb.anomaly.expected import Expectation, Overall, Sample, _spikes
from specdb.anomaly.reasons import spikes
from specdb.anomaly.scores import SCORES, voting_scores
from specdb.anomaly.shifted import ShiftedModel
from specdb.errors import InputError
from specdb.spectra import get_modality

LRS = get_modality("lamost_lrs").wavelength
N = 200


def stars(redshift: np.ndarray, seed: int = 0) -> Sample:
    """Spectra with forty lines, whose depth varies from star to star, at redshifts (n,), and noise of 2 %."""
    rng = np.random.default_rng(7)
    lines, depths = rng.uniform(3200, 5600, 40), rng.uniform(0.1, 0.5, 40)
    rng = np.random.default_rng(seed)
    n = len(redshift)
    rest = LRS / (1 + redshift)[:, None]
    profile = sum(d * np.exp(-0.5 * ((rest - w) / 4) ** 2) for w, d in zip(lines, depths, strict=True))
    flux = 1 - rng.uniform(0.7, 1.3, (n, 1)) * profile + 0.02 * rng.standard_normal(rest.shape)
    ivar = np.full(rest.shape, 2500, np.float32)
    vectors = np.ones((n, 1), np.float32)
    return Sample(vectors, flux.astype(np.float32), ivar, np.full(n, 50, np.float32), np.arange(n))


def test_a_redshift_is_found_and_stars_have_none() -> None:
    z = np.zeros(N)
    z[:3] = [0.05, 0.12, 0.2]
    sample = stars(z)
    model = ShiftedModel.fit(Expectation.fit(sample, Overall(), 6), LRS)
    gain, redshift = model(sample)
    assert (gain[:3] > 100).all()
    assert (gain[3:] < 0).all()
    np.testing.assert_allclose(redshift[:3], z[:3], atol=0.002)


def test_a_grid_that_is_not_logarithmic_is_refused() -> None:
    sample = stars(np.zeros(60))
    with pytest.raises(InputError, match="the wavelength grid is not logarithmic"):
        ShiftedModel.fit(Expectation.fit(sample, Overall(), 4), np.linspace(4000, 5600, len(LRS)))


def test_spikes_are_defects_and_lines_are_not() -> None:
    z = np.zeros((4, 50))
    z[0, 20] = 30  # one pixel
    z[1, 20:22] = [12, 28]  # split between two by resampling
    z[2] = 30 * np.exp(-0.5 * ((np.arange(50) - 20.5) / 1.06) ** 2)  # an unresolved line at R = 1800
    z[3, 20] = 6  # noise
    found = _spikes(z)
    assert [np.flatnonzero(row).tolist() for row in found] == [[20], [20, 21], [], []]


def test_a_spike_does_not_count_and_is_told() -> None:
    sample = stars(np.zeros(N))
    sample.flux[5, 300] += 2
    model = Expectation.fit(sample, Overall(), 6)
    residual = model(sample)
    assert residual.chi2[5] < 1.5
    words = spikes(residual, LRS)
    assert words[5] == f"defect: spike of one or two pixels at {LRS[300]:.0f} A, not counted"
    assert words[6] == ""


def test_what_the_decoder_sees_replaces_what_neighbours_see() -> None:
    assert voting_scores(["knn_distance", "neighbour_residual", "feature"]) == ["neighbour_residual", "feature"]
    assert voting_scores(list(SCORES))[:3] == ["decoder_residual", "decoder_feature", "redshift"]
    for score in SCORES.values():
        assert set(score.replaces) <= set(SCORES)
