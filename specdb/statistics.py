"""Figures of merit that several parts report: robust scatter, explained variance, intervals of proportions, coverage."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["biweight_sigma", "r_squared", "wilson"]


def biweight_sigma(residual: np.ndarray) -> float:
    """Return the Tukey biweight scale about the median, clipped at 6 MAD / 0.6745 (Mosteller & Tukey 1977; as SpecCLIP).

    Parameters
    ----------
    residual : ndarray (n,)
    """
    d = residual - np.median(residual)
    u = d / (6 * max(np.median(np.abs(d)) / 0.6745, np.finfo(float).tiny))
    inside = np.abs(u) < 1
    d, u2 = d[inside], u[inside] ** 2
    numerator, denominator = (d**2 * (1 - u2) ** 4).sum(), ((1 - u2) * (1 - 5 * u2)).sum()
    return float(np.sqrt(len(residual) * numerator) / abs(denominator))


def r_squared(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the coefficient of determination of predictions (n,)."""
    return float(1 - ((predicted - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


def wilson(share: float, trials: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion (Wilson 1927, J. Am. Stat. Assoc. 22, 209), 95 % by default.

    Parameters
    ----------
    share : float
        Hits over trials.
    trials : float
        Number of independent trials; without any the interval is 0 to 1.
    z : float
        Standard normal quantile.
    """
    if trials <= 0:
        return 0.0, 1.0
    square = z * z / trials
    centre, half = share + square / 2, z * math.sqrt(share * (1 - share) / trials + square / (4 * trials))
    return max(0.0, (centre - half) / (1 + square)), min(1.0, (centre + half) / (1 + square))
