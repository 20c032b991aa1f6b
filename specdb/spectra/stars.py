"""Which spectra are of one star, and splits that never divide a star."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

__all__ = ["split_stars", "star_groups"]


def star_groups(ra: np.ndarray, dec: np.ndarray, radius_arcsec: float = 3.0) -> np.ndarray:
    """Return one number per star: spectra within the radius of one another, directly or in a chain, are one star.

    Parameters
    ----------
    ra, dec : ndarray (n,), degrees, ICRS
        A spectrum without a finite position is a star of its own.

    Returns
    -------
    ndarray (n,), int64
    """
    n = len(ra)
    known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    a, d = np.radians(ra[known]), np.radians(dec[known])
    xyz = np.column_stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    chord = 2 * np.sin(np.radians(radius_arcsec / 3600) / 2)
    i, j = known[cKDTree(xyz).query_pairs(chord, output_type="ndarray")].T if len(known) else np.empty((2, 0), int)
    _, groups = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)
    return groups.astype(np.int64)


def split_stars(star: np.ndarray, n_folds: int = 4, seed: int = 0) -> np.ndarray:
    """Deal stars into folds at random, stars with several visits apart from the others so that each fold gets its share.

    Returns
    -------
    ndarray (n,), int64
        Fold of each spectrum, 0 to `n_folds` - 1; all visits of a star have the same.
    """
    rng = np.random.default_rng(seed)
    stars, inverse, visits = np.unique(star, return_inverse=True, return_counts=True)
    fold = np.empty(len(stars), np.int64)
    for members in (np.flatnonzero(visits > 1), np.flatnonzero(visits == 1)):
        fold[rng.permutation(members)] = (np.arange(len(members)) + rng.integers(n_folds)) % n_folds
    return fold[inverse]
