"""Making a head's uncertainties cover what they should, from stars that its members had not seen."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from specdb.heads.kinds import Fitted

__all__ = ["ROWS", "out_of_fold_pit", "share_below", "sigma_factor"]

#: Rows of a posterior whose draws are held at once.
ROWS = 1024

_ONE_SIGMA = 0.6826894921370859


def sigma_factor(fitted: Fitted, y: np.ndarray, label: int) -> float:
    """Return the factor on sigma for one label, from scaled labels (n, L).

    The finished head has more members than have not seen a training star. They err less, and their mixture is wider. What
    holds 68.3 per cent with one member and with r is continued to all of them, linearly in one over their number: on
    the average over stars both effects are.
    """
    known = np.isfinite(y[:, label])
    truth = y[known, label]
    width = _width(truth - fitted.mean[known, label], fitted.sigma[known, label])
    if fitted.alone is None or (r := len(fitted.alone.mean)) == 1:
        return width
    single = _width(truth - fitted.alone.mean[:, known, label], fitted.alone.sigma[:, known, label])
    slope = (single - width) / (1 - 1 / r)
    return max(width - slope * (1 / r - 1 / fitted.alone.members), width / 2)


def _width(residual: np.ndarray, sigma: np.ndarray) -> float:
    """Return how many sigmas hold 68.3 per cent of the residuals."""
    return float(np.quantile(np.abs(residual) / sigma, _ONE_SIGMA))


def out_of_fold_pit(fitted: Fitted, y: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return the probability integral transform (n, L) of scaled labels (n, L) in out-of-fold distributions."""
    if fitted.draw is None:
        return ndtr((y - fitted.mean) / (fitted.sigma * factor))
    asked = fitted.mean + (y - fitted.mean) / factor
    blocks = np.array_split(np.arange(len(y)), -(-len(y) // ROWS))
    return np.concatenate([share_below(fitted.draw(rows), asked[rows]) for rows in blocks])


def share_below(draws: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the share (n, L), float32, of draws (n, s, L) below y (n, L); NaN where y is."""
    n = draws.shape[1]
    rank = (draws < y[:, None]).sum(axis=1)
    return np.where(np.isfinite(y), (rank + 0.5) / (n + 1), np.nan).astype(np.float32)
