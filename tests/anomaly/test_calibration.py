"""p-values that mean what they say, also with something to find among the scores."""

from __future__ import annotations

import numpy as np
import pytest

from specdb.anomaly.calibration import calibrate
from specdb.anomaly.ranking import COMBINATIONS, combine, rank
from specdb.errors import InputError


def skewed(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores whose level and width depend on S/N, and ln S/N."""
    rng = np.random.default_rng(seed)
    log_snr = rng.normal(3.5, 0.8, n)
    return (1 + np.exp(log_snr) / 20) * rng.chisquare(5, n), log_snr


def terciles(x: np.ndarray) -> np.ndarray:
    return np.digitize(x, np.quantile(x, [1 / 3, 2 / 3]))


def test_a_threshold_is_a_false_alarm_rate_at_every_signal_to_noise() -> None:
    rates = []
    for seed in range(4):
        score, log_snr = skewed(seed=seed)
        p = calibrate(score, [log_snr]).p_value
        rates.append([(p[terciles(log_snr) == tercile] < 0.01).mean() for tercile in range(3)])
    mean = np.mean(rates, axis=0)
    assert ((mean >= 0.005) & (mean <= 0.02)).all()


def test_unusual_rows_do_not_hide_themselves() -> None:
    score, log_snr = skewed(2000)
    unusual = np.arange(len(score)) % 100 == 0
    score[unusual] *= 50
    found = calibrate(score, [log_snr])
    assert (found.p_value[unusual] < 1e-4).mean() > 0.9
    assert not (found.ordinary & unusual & (found.p_value < 1e-3)).any()
    assert 0.004 <= (found.p_value[~unusual] < 0.01).mean() <= 0.02


def test_higher_scores_have_smaller_p_values_however_far_out() -> None:
    score, _ = skewed(500)
    score[:3] = [1e6, 1e8, 1e10]
    surprise = calibrate(score, []).surprise
    assert surprise[0] < surprise[1] < surprise[2]
    assert (calibrate(score, []).p_value > 0).all()


def test_rows_without_a_score_have_no_p_value_and_rows_without_signal_to_noise_do() -> None:
    score, log_snr = skewed(600)
    score[:5], log_snr[100:300] = np.nan, np.nan
    p = calibrate(score, [log_snr]).p_value
    assert np.isnan(p[:5]).all()
    assert np.isfinite(p[5:]).all()
    assert 0.2 < np.median(p[100:300]) < 0.8


def test_only_the_reference_defines_what_is_ordinary() -> None:
    score, log_snr = skewed(1000)
    odd = np.arange(1000) < 400
    score[odd] *= 30
    p = calibrate(score, [log_snr], reference=~odd).p_value
    assert np.median(p[odd]) < 1e-3


def test_too_few_rows_are_an_error() -> None:
    with pytest.raises(InputError, match="39 spectra with a score are too few"):
        calibrate(np.ones(39), [])


@pytest.mark.parametrize("how", COMBINATIONS)
def test_a_combination_rises_with_each_of_its_scores(how: str) -> None:
    a = np.array([0.5, 0.5, 3.0, 20.0, np.nan])
    b = np.array([0.5, 2.0, 3.0, 3.0, np.nan])
    together = combine({"a": a, "b": b}, how)
    assert np.isnan(together[4])
    assert (np.diff(together[:4]) > 0).all()


def test_a_score_that_some_rows_lack_still_ranks_the_others() -> None:
    score, log_snr = skewed(600)
    partial = np.where(np.arange(600) < 300, score, np.nan)
    rare = np.where(np.arange(600) < 10, score, np.nan)
    found = rank({"all": score, "some": partial, "rare": rare}, [log_snr])
    assert np.isfinite(found.surprise).all()
    assert np.isnan(found.components["rare"]).all()


def test_scores_without_a_vote_are_calibrated_but_not_combined() -> None:
    score, log_snr = skewed(600)
    other = np.random.default_rng(1).random(600)
    alone = rank({"a": score}, [log_snr])
    both = rank({"a": score, "b": other}, [log_snr], voting=["a"])
    np.testing.assert_allclose(alone.surprise, both.surprise)
    assert np.isfinite(both.components["b"]).all()


def test_bad_combinations_are_errors() -> None:
    with pytest.raises(InputError, match="no combination is called 'sum'; choose cauchy"):
        combine({"a": np.ones(3)}, "sum")
    with pytest.raises(InputError, match="no score to combine"):
        combine({}, "fisher")
    with pytest.raises(InputError, match="nothing to rank"):
        rank({}, [])
