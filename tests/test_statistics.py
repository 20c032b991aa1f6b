"""Figures of merit against numbers known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from specdb.statistics import biweight_sigma, r_squared, wilson


def test_biweight_of_normal_deviates_with_outliers() -> None:
    rng = np.random.default_rng(0)
    residual = np.concatenate([rng.normal(3, 2, 20_000), np.full(400, 1e4)])
    assert biweight_sigma(residual) == pytest.approx(2, rel=0.05)
    assert biweight_sigma(np.zeros(5)) == 0


def test_wilson_interval() -> None:
    low, high = wilson(33 / 70, 70)
    assert (low, high) == (pytest.approx(0.3588, abs=1e-3), pytest.approx(0.5870, abs=1e-3))
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(1.0, 50)[1] == 1.0


def test_r_squared() -> None:
    assert r_squared(np.array([1.0, 2, 3]), np.array([2.0, 2, 2])) == 0
    assert r_squared(np.array([1.0, 2, 3]), np.array([1.0, 2, 3])) == 1
