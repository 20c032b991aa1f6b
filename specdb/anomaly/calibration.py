"""From scores to p-values: how often an ordinary spectrum of the same S/N (and temperature) would score as high.

1. The logarithm of a score is standardised along each covariate (ln S/N, then Teff where known): running quantiles give its
   median and the distance from there to an upper quantile among spectra that are alike. Rows without S/N
   are a group of their own, but share the tail.
2. The upper tail of the standardised scores is a stretched exponential, exp(-(x / s)^k) (Laherrere & Sornette 1998, Eur.
   Phys. J. B 2, 525): unlike a Pareto tail it has no end where it is light, so that the most unusual stay in order.
3. What is to be found must not define what is ordinary. Rows whose p-value is below `CLEAN`, at first by an exponential tail
   continued from the quartiles, are left out, and both steps are repeated without them. The tail is fitted as one that is
   cut off, and supplies the missing end: leaving out the highest ordinary scores does not make the p-values of the others
   too small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from specdb.errors import InputError

__all__ = ["CLEAN", "FEWEST", "Calibration", "calibrate"]

CLEAN = 1e-3
_ROUNDS = 6
_TAIL = 0.10  # share of ordinary rows that the tail is fitted to
_KNOTS = 24
FEWEST = 40
_UPPER = 0.95  # quantile that the upper width reaches to
_USUAL_POWER = 0.1  # logarithm of k, before anything is known


@dataclass(frozen=True)
class _Tail:
    """A stretched exponential above `threshold`, which a share `above` of ordinary rows exceeds."""

    threshold: float
    above: float
    scale: float
    power: float
    body: np.ndarray  # ascending standardised scores of ordinary rows up to the threshold

    def surprise(self, z: np.ndarray) -> np.ndarray:
        """Return minus the decadic logarithm of the p-value."""
        beyond = np.maximum(z - self.threshold, 0) / self.scale
        higher = len(self.body) - np.searchsorted(self.body, z, side="left")
        inside = self.above + (1 - self.above) * (higher + 0.5) / (len(self.body) + 1)
        tail = beyond**self.power / np.log(10) - np.log10(self.above)
        return np.where(z > self.threshold, tail, -np.log10(np.minimum(inside, 1.0)))


@dataclass(frozen=True)
class Calibration:
    """A calibrated score.

    Attributes
    ----------
    surprise : ndarray (n,), float64
        Minus the decadic logarithm of the p-value; NaN where the score is.
    z : ndarray (n,), float64
        The standardised score.
    ordinary : ndarray (n,), bool
        Rows that the null distribution was made from.
    """

    surprise: np.ndarray
    z: np.ndarray
    ordinary: np.ndarray

    @property
    def p_value(self) -> np.ndarray:
        """Return the p-values (n,), at least 1e-300; below 1 / n they are extrapolated."""
        return 10 ** -np.minimum(self.surprise, 300)


def calibrate(
    score: np.ndarray, covariates: Sequence[np.ndarray], *, reference: np.ndarray | None = None, logarithm: bool = True
) -> Calibration:
    """Turn a score (higher: more unusual) into p-values.

    Parameters
    ----------
    score : ndarray (n,)
        NaN where it could not be computed.
    covariates : sequence of ndarray (n,)
        What the null distribution depends on, most important first, for instance ln S/N. Rows in which a covariate is NaN
        make a group of their own for this covariate.
    reference : ndarray (n,), bool, optional
        Rows that may define what is ordinary; all by default.
    logarithm : bool
        Standardise the logarithm, for scores that are positive and skewed.

    Raises
    ------
    InputError
        For fewer than 40 rows that could be ordinary.
    """
    score = np.asarray(score, np.float64)
    known = np.isfinite(score)
    allowed = known if reference is None else known & reference
    if allowed.sum() < FEWEST:
        raise InputError(
            f"{int(allowed.sum())} spectra with a score are too few to say what is ordinary; at least {FEWEST} are needed"
        )
    value = np.full(len(score), np.nan)
    value[known] = np.log(np.maximum(score[known], 1e-12)) if logarithm else score[known]
    covariates = [c for c in covariates if np.isfinite(c).sum() > 1]
    clean = allowed & (_first_surprise(_standardised(value, covariates, allowed, 0.75)) <= -np.log10(CLEAN))
    surprise, z = np.full(len(score), np.nan), value
    for _ in range(_ROUNDS):
        z = _standardised(value, covariates, clean, _UPPER)
        surprise[known] = _fit_tail(z[clean]).surprise(z[known])
        again = clean & (surprise <= -np.log10(CLEAN))
        if again.sum() in (clean.sum(), *range(FEWEST)):
            break
        clean = again
    return Calibration(surprise, z, clean)


def _first_surprise(z: np.ndarray) -> np.ndarray:
    """Return the surprise by an exponential tail that halves for each unit, the distance from the median to the quartile."""
    return (1 + np.maximum(z, 0)) * np.log10(2)


def _standardised(value: np.ndarray, covariates: Sequence[np.ndarray], clean: np.ndarray, upper: float) -> np.ndarray:
    z = value.copy()
    for covariate in covariates or [np.zeros(len(value))]:
        there = np.isfinite(covariate)
        for group, at in ((there, covariate), (~there, np.zeros(len(value)))):
            base = group & clean
            if base.sum() >= FEWEST:
                z[group] = _standard(z[group], at[group], z[base], at[base], upper)
            elif group.any():  # too few for a distribution of their own: they take everybody's
                z[group] = _standard(z[group], np.zeros(group.sum()), z[clean], np.zeros(clean.sum()), upper)
    return z


def _standard(value: np.ndarray, at: np.ndarray, base: np.ndarray, base_at: np.ndarray, upper: float) -> np.ndarray:
    """Return how far values lie above the running median of a base, in units of the running upper width."""
    middle = _running(base_at, base, lambda x: float(np.median(x)), 50)
    above = base - middle(base_at)
    width = _running(base_at, above, lambda x: float(np.quantile(x, upper)), 200)
    least = 0.05 * max(float(np.quantile(above, upper)), 1e-9)
    return (value - middle(at)) / np.maximum(width(at), least)


def _running(
    at: np.ndarray, value: np.ndarray, statistic: Callable[[np.ndarray], float], rows: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a statistic as a function of a covariate: linear between windows that overlap by half, and on to both ends.

    `rows` is how many rows a window has at least; beyond `_KNOTS` windows they get larger.
    """
    order = np.argsort(at, kind="stable")
    at, value = at[order], value[order]
    n = len(at)
    windows = int(np.clip(2 * n // rows - 1, 1, _KNOTS))
    step = n / (windows + 1)
    edges = [(round(i * step), round((i + 2) * step)) for i in range(windows)]
    x = np.array([at[a:b].mean() for a, b in edges])
    y = np.array([statistic(value[a:b]) for a, b in edges])
    x, first = np.unique(x, return_index=True)
    y = y[first]
    if len(x) == 1:
        return lambda _: np.full(np.shape(_), y[0])
    # Half a window beyond the outermost means the trend goes on; further out it is not followed.
    slopes = np.diff(y) / np.diff(x)
    low, high = min(at[0], x[0]), max(at[-1], x[-1])
    x = np.concatenate([[low - 1e-9], x, [high + 1e-9]])
    y = np.concatenate([[y[0] - slopes[0] * (x[1] - x[0])], y, [y[-1] + slopes[-1] * (x[-1] - x[-2])]])
    return lambda new: np.interp(new, x, y)


def _fit_tail(z: np.ndarray) -> _Tail:
    """Fit the highest tenth by maximum likelihood, knowing that rows above the highest one have been left out."""
    ordered = np.sort(z)
    first = max(int((1 - _TAIL) * len(ordered)), 1)
    threshold, body = float(ordered[first - 1]), ordered[:first]
    excess = ordered[first:] - threshold
    mean = max(float(excess.mean()), 1e-9)
    excess = np.maximum(excess / mean, 1e-3)
    limit = float(excess[-1]) * (1 + 1 / len(excess))

    def negative(parameters: np.ndarray) -> float:
        scale, power = np.exp(parameters)
        x = excess / scale
        inside = np.log(-np.expm1(-((limit / scale) ** power)))
        log_density = np.log(power / scale) + (power - 1) * np.log(x) - x**power
        prior = 0.5 * ((parameters[1] - _USUAL_POWER) / 0.2) ** 2
        return -log_density.sum() + len(x) * inside + prior

    best = minimize(negative, np.array([0.0, _USUAL_POWER]), method="L-BFGS-B", bounds=[(-2.0, 3.0), (-0.7, 0.7)])
    scale, power = (float(v) for v in np.exp(best.x))
    beyond = float(np.exp(-((limit / scale) ** power)))  # share of the tail that was left out
    count = len(excess) / max(1 - beyond, 0.2)
    return _Tail(threshold, count / (len(body) + count), scale * mean, power, body)
