"""One number from several scores: each is calibrated, what they say is combined, and the combination is calibrated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from specdb.anomaly.calibration import CLEAN, FEWEST, calibrate
from specdb.errors import InputError

__all__ = ["COMBINATIONS", "Ranked", "combine", "rank"]

_ROUNDS = 4


def _fisher(surprise: np.ndarray) -> np.ndarray:
    """Return the mean of -log10 p: Fisher's statistic (1932) per score."""
    return np.nanmean(surprise, axis=1)


def _highest(surprise: np.ndarray) -> np.ndarray:
    """Return -log10 of the smallest p (Tippett 1931)."""
    return np.nanmax(surprise, axis=1)


def _cauchy(surprise: np.ndarray) -> np.ndarray:
    """Return -log10 of the Cauchy combination (Liu & Xie 2020, J. Am. Stat. Assoc. 115, 393): correlation hardly moves it.

    For p far below 1, tan((1/2 - p) pi) is 1 / (pi p), so that the statistic becomes a harmonic mean of the p-values.
    """
    lowest = np.nanmax(surprise, axis=1, keepdims=True)
    p = 10 ** -np.minimum(surprise, 15)
    exact = np.nanmean(np.tan((0.5 - p) * np.pi), axis=1)
    harmonic = lowest[:, 0] + np.log10(np.nanmean(10 ** np.maximum(surprise - lowest, -300), axis=1))
    usual = -np.log10(np.clip(0.5 - np.arctan(exact) / np.pi, 1e-15, 1))
    return np.where(lowest[:, 0] > 8, harmonic, usual)


def _quadratic(surprise: np.ndarray) -> np.ndarray:
    """Return the root of the mean square of -log10 p: between Fisher's mean and the highest."""
    return np.sqrt(np.nanmean(surprise**2, axis=1))


#: Ways to combine; the result is calibrated like a score, so none of them has to know how scores correlate.
COMBINATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "cauchy": _cauchy,
    "fisher": _fisher,
    "highest": _highest,
    "quadratic": _quadratic,
}


def combine(surprises: dict[str, np.ndarray], how: str) -> np.ndarray:
    """Return one score (n,), higher for the more unusual; NaN where none of the scores is known.

    Parameters
    ----------
    surprises : dict of str to ndarray (n,)
        Minus the decadic logarithms of calibrated p-values; NaN where a score could not be computed.
    how : str
        Key of `COMBINATIONS`.

    Raises
    ------
    InputError
        For an unknown combination, or without any score.
    """
    if how not in COMBINATIONS:
        raise InputError(f"no combination is called {how!r}; choose {', '.join(COMBINATIONS)}")
    if not surprises:
        raise InputError("there is no score to combine")
    matrix = np.column_stack(list(surprises.values()))
    known = np.isfinite(matrix).any(axis=1)
    out = np.full(len(matrix), np.nan)
    out[known] = COMBINATIONS[how](np.maximum(matrix[known], 0))
    return out


@dataclass(frozen=True)
class Ranked:
    """Calibrated scores.

    Attributes
    ----------
    surprise : ndarray (n,)
        Minus the decadic logarithm of the combined p-value.
    components : dict of str to ndarray (n,)
        The same of each score; NaN where it could not be computed.
    ordinary : ndarray (n,), bool
        Rows that define what is ordinary.
    """

    surprise: np.ndarray
    components: dict[str, np.ndarray]
    ordinary: np.ndarray


def rank(
    raw: dict[str, np.ndarray],
    covariates: Sequence[np.ndarray],
    combination: str = "quadratic",
    reference: np.ndarray | None = None,
    voting: Sequence[str] | None = None,
) -> Ranked:
    """Calibrate scores, combine them, calibrate the combination; without what turns out to be unusual, until that is stable.

    Parameters
    ----------
    raw : dict of str to ndarray (n,)
        Scores, higher for the more unusual; NaN where there is none.
    covariates : sequence of ndarray (n,)
        ln S/N first, then what else is known, such as Teff.
    combination : str
        Key of `COMBINATIONS`.
    reference : ndarray (n,), bool, optional
        Rows that may be ordinary; all by default.
    voting : sequence of str, optional
        Scores that are combined; all by default. The others are calibrated all the same.

    Raises
    ------
    InputError
        For an unknown combination, no score, or too few rows.
    """
    if not raw:
        raise InputError("no anomaly score could be computed, so there is nothing to rank")
    n = len(next(iter(raw.values())))
    allowed = np.ones(n, bool) if reference is None else reference
    ordinary = allowed
    for _ in range(_ROUNDS):
        components = {}
        for name, score in raw.items():
            # What too few have, or hardly anybody, cannot be calibrated: the combination then stands on the other scores.
            enough = (np.isfinite(score) & ordinary).sum() >= FEWEST
            components[name] = calibrate(score, covariates, reference=ordinary).surprise if enough else np.full(n, np.nan)
        combined = combine({name: components[name] for name in voting or raw}, combination)
        final = calibrate(combined, covariates, reference=ordinary, logarithm=False).surprise
        again = allowed & ~(final > -np.log10(CLEAN))
        if np.array_equal(again, ordinary):
            break
        ordinary = again
    return Ranked(final, components, ordinary)
