"""How far apart two samples of stars lie in a plane of labels: the maximum mean discrepancy (MMD).

Gretton et al. (2012, JMLR 13, 723). It is zero where two samples follow one distribution, whatever its shape: a prediction
that smears the two sequences of [alpha/Fe] over [Fe/H] into one is found out although its scatter is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from specdb.errors import InputError

__all__ = ["Discrepancy", "discrepancy"]

_SCALES = (0.25, 0.5, 1.0, 2.0)  # of the median distance: from the gap between the sequences to the whole plane
_LEAST = 20
_GROUPS = 20


@dataclass(frozen=True)
class Discrepancy:
    """An MMD and how sure it is.

    Attributes
    ----------
    mmd2 : float
        Unbiased estimate of the squared discrepancy; may be a little below zero.
    error : float
        Standard error, by a jackknife over twenty groups of stars.
    null_95 : float
        What 95 per cent of random divisions of the pooled stars stay below.
    p_value : float
        Share of random divisions that are at least as far apart.
    n, m : int
        Stars of both samples.
    """

    mmd2: float
    error: float
    null_95: float
    p_value: float
    n: int
    m: int


def discrepancy(
    sample: np.ndarray, reference: np.ndarray, *, most: int = 1500, permutations: int = 500, seed: int = 0
) -> Discrepancy:
    """Compare two samples of different stars.

    Labels are divided by their scatter in the reference. The kernel is a sum of Gaussians of a quarter to twice the median
    distance between reference stars.

    Parameters
    ----------
    sample, reference : ndarray (n, d), (m, d)
        For instance [Fe/H] and [alpha/Fe]; rows that are not finite are left out.
    most : int
        Larger samples are thinned to this many at random: time grows with the square.
    permutations, seed : int

    Raises
    ------
    InputError
        For fewer than 20 stars, or a label that does not vary.
    """
    rng = np.random.default_rng(seed)
    sample, reference = (_thinned(a, most, rng) for a in (sample, reference))
    n, m = len(sample), len(reference)
    if min(n, m) < _LEAST:
        raise InputError(f"samples of {n} and {m} stars with all labels; at least {_LEAST} of each are needed for an MMD")
    spread = reference.std(axis=0)
    if not (spread > 0).all():
        raise InputError("a label has the same value for every reference star; an MMD needs labels that vary")
    pooled = np.concatenate([sample, reference]) / spread
    distance2 = cdist(pooled, pooled, "sqeuclidean")
    median2 = float(np.median(distance2[n:, n:]))
    kernel = sum(np.exp(-distance2 / (2 * s**2 * median2)) for s in _SCALES) / len(_SCALES)
    np.fill_diagonal(kernel, 0.0)  # the unbiased estimate leaves out a star's similarity to itself
    own = np.arange(n + m) < n
    found = float(_mmd2(kernel, own[:, None])[0])
    order = rng.permuted(np.broadcast_to(own, (permutations, n + m)), axis=1).T  # (n + m, permutations)
    null = _mmd2(kernel, order)
    group = np.concatenate([rng.permutation(np.arange(size) % _GROUPS) for size in (n, m)])
    left_out = np.array(
        [_mmd2(kernel[np.ix_(keep, keep)], own[keep, None])[0] for keep in (group != g for g in range(_GROUPS))]
    )
    error = np.sqrt((_GROUPS - 1) / _GROUPS * ((left_out - left_out.mean()) ** 2).sum())
    p_value = (1 + int((null >= found).sum())) / (1 + permutations)
    return Discrepancy(found, float(error), float(np.quantile(null, 0.95)), p_value, n, m)


def _thinned(a: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    a = np.asarray(a, np.float64)
    a = a[np.isfinite(a).all(axis=1)]
    return a if len(a) <= most else a[rng.choice(len(a), most, replace=False)]


def _mmd2(kernel: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the unbiased squared MMD (q,) for q divisions of the stars; `own` (n + m, q) marks the first sample."""
    a = own.astype(np.float64)
    n = a.sum(axis=0)
    m = len(a) - n
    similar = kernel @ a  # (n + m, q)
    within = (a * similar).sum(axis=0)
    between = similar.sum(axis=0) - within
    others = kernel.sum() - within - 2 * between
    return within / (n * (n - 1)) + others / (m * (m - 1)) - 2 * between / (n * m)
