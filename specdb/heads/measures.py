"""Figures of merit of predicted labels and of their uncertainties."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import ndtr

from specdb.statistics import biweight_sigma, r_squared, wilson

__all__ = ["binned_figures", "label_figures", "pit"]

_LEVELS = {"coverage_68": 1.0, "coverage_95": 1.959963984540054}


def label_figures(truth: np.ndarray, mean: np.ndarray, sigma: np.ndarray) -> dict[str, Any]:
    """Return the figures of one label over the stars that have it.

    Parameters
    ----------
    truth, mean, sigma : ndarray (n,)
        NaN in any leaves a star out.

    Returns
    -------
    dict
        ``n``, ``bias`` (median of predicted minus catalogue), ``sigma`` (Tukey biweight), ``rms``, ``r2``, and the share of
        stars within one sigma and 1.96 sigma with 95 per cent intervals, the number of sigmas that hold 95 per cent of
        the stars (``width_95``), and ``median_sigma``.
    """
    stated = bool(np.isfinite(sigma).any())  # a head that states no sigma at all is judged by its means
    known = np.isfinite(truth) & np.isfinite(mean) & (np.isfinite(sigma) | (not stated))
    n = int(known.sum())
    if n < 3:
        return {"n": n}
    t, m, s = truth[known], mean[known], sigma[known]
    residual = m - t
    out: dict[str, Any] = {
        "n": n,
        "bias": float(np.median(residual)),
        "sigma": biweight_sigma(residual),
        "rms": float(np.sqrt(np.mean(residual**2))),
        "r2": r_squared(t, m) if np.ptp(t) > 0 else float("nan"),
        "median_sigma": float(np.median(s)),
    }
    if not stated:
        return out | dict.fromkeys([*_LEVELS, "width_95"], float("nan"))
    for name, width in _LEVELS.items():
        share = float(np.mean(np.abs(residual) <= width * s))
        out |= {name: share, f"{name}_interval": list(wilson(share, n))}
    out["width_95"] = float(np.quantile(np.abs(residual) / s, 0.95))
    return out


def binned_figures(
    by: np.ndarray, edges: np.ndarray, truth: np.ndarray, mean: np.ndarray, sigma: np.ndarray
) -> list[dict[str, Any]]:
    """Return `label_figures` of the stars in each bin ``[edges[i], edges[i + 1])`` of `by` (n,)."""
    out = []
    for low, high in pairwise(edges):
        inside = (by >= low) & (by < high)
        out.append({"low": float(low), "high": float(high), **label_figures(truth[inside], mean[inside], sigma[inside])})
    return out


def pit(truth: np.ndarray, mean: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return the probability integral transform of each star: uniform on 0 to 1 where the sigmas are right (Dawid 1984)."""
    known = np.isfinite(truth) & np.isfinite(mean)
    return ndtr((truth[known] - mean[known]) / sigma[known])
