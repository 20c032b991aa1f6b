"""Positions on the sphere: checks, proper motion, and all pairs within a radius.

Matching works on unit vectors in a KD-tree, so the poles, RA 0/360 and the edges of HEALPix cells are places like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from specdb.errors import InputError

__all__ = [
    "FASTEST_ARCSEC_YR",
    "Pairs",
    "best",
    "check_motion",
    "check_positions",
    "move",
    "nearest_to",
    "shift_arcsec",
    "shifted",
    "symmetric",
    "unit_vectors",
    "within",
]

_ARCSEC = np.pi / 180 / 3600

#: No star moves faster (Barnard's Star: 10.4 arcsec/yr).
FASTEST_ARCSEC_YR = 11.0

#: Positions of one side that are held in a tree at a time.
_BLOCK = 1 << 17

#: How far one list is shifted to count chance matches, in radii, but at least `_LEAST_SHIFT_ARCSEC`.
_SHIFT_RADII = 5
_LEAST_SHIFT_ARCSEC = 20.0
_DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))

#: Fewer positions say nothing about their unit.
_MANY = 200


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows of two tables.

    Attributes
    ----------
    left, right : ndarray (n,), int64
        Row numbers.
    separation_arcsec : ndarray (n,), float64
    """

    left: np.ndarray
    right: np.ndarray
    separation_arcsec: np.ndarray

    def __len__(self) -> int:
        return len(self.left)

    def take(self, rows: np.ndarray) -> Pairs:
        """Return some of the pairs."""
        return Pairs(self.left[rows], self.right[rows], self.separation_arcsec[rows])


def check_positions(ra: np.ndarray, dec: np.ndarray, units: tuple[str | None, str | None], what: str) -> None:
    """Refuse positions that cannot be degrees.

    Parameters
    ----------
    ra, dec : ndarray (n,), float64
        NaN where unknown.
    units : tuple
        Units that the file states, if any.
    what : str
        For the message.

    Raises
    ------
    InputError
        For another stated unit, values out of range, and columns that look like hours or radians.
    """
    for name, unit in zip(("right ascension", "declination"), units, strict=True):
        if unit and unit.strip().lower() not in ("deg", "degree", "degrees"):
            raise InputError(f"{what}: the {name} is in {unit!r}, positions must be in degrees (ICRS); convert the column")
    known = np.isfinite(ra) & np.isfinite(dec)
    if not known.any():
        raise InputError(f"{what}: no row has a position; name other columns with --position")
    ra, dec = ra[known], dec[known]
    for name, values, low, high in (("right ascension", ra, -180, 360), ("declination", dec, -90, 90)):
        outside = (values < low) | (values > high)
        if outside.any():
            raise InputError(
                f"{what}: {int(outside.sum())} of {len(values)} values of {name} are outside {low}..{high} degrees, first "
                f"{values[outside][0]:g}; are RA and Dec swapped, in other units, or sentinels? --null VALUE takes those out"
            )
    reach = f"positions reach {ra.max():.3f} and {np.abs(dec).max():.3f}"
    # Many stars all over the sky, and none beyond 2 pi, or 24: not degrees. A small field there is left alone.
    if len(ra) >= _MANY and 5.5 < ra.max() <= 2 * np.pi and np.ptp(dec) > 0.5 and np.abs(dec).max() <= np.pi / 2:
        raise InputError(f"{what}: {reach}: these look like radians; convert them to degrees")
    if len(ra) >= _MANY and 23 < ra.max() <= 24 and np.ptp(ra) > 12 and np.ptp(dec) > 30:
        raise InputError(f"{what}: {reach}: this right ascension looks like hours; multiply it by 15")


def check_motion(speed_masyr: np.ndarray, epoch: np.ndarray, units: list[str | None], what: str) -> None:
    """Refuse proper motions that no star has, and epochs that are no years.

    Parameters
    ----------
    speed_masyr : ndarray (n,), float64
        Total proper motion, NaN where unknown.
    epoch : ndarray (n,), float64
        Julian years.
    units : list of str or None
        Units that the file states for the proper motions.
    what : str
        For the message.

    Raises
    ------
    InputError
        For another unit, motions above that of Barnard's Star, and epochs outside 1800 to 2100.
    """
    for unit in units:
        if unit and "".join(unit.lower().split()) not in (
            "mas/yr",
            "mas/year",
            "masyr-1",
            "mas.yr**-1",
            "mas.yr-1",
            "masyr**-1",
        ):
            raise InputError(f"{what}: a proper motion is in {unit!r}, they must be in mas/yr; convert the column")
    limit = FASTEST_ARCSEC_YR * 1e3
    if (fast := speed_masyr[np.isfinite(speed_masyr) & (speed_masyr > limit)]).size:
        raise InputError(
            f"{what}: {fast.size} proper motions are above {limit:g} mas/yr, first {fast[0]:g}, and no star is as fast; are "
            "they in other units, or sentinels? --null VALUE takes those out"
        )
    if (odd := epoch[np.isfinite(epoch) & ((epoch < 1800) | (epoch > 2100))]).size:
        raise InputError(f"{what}: {odd[0]:g} is no epoch; give Julian years such as 2016.0 (MJD 57388 is year 2016.0)")


def unit_vectors(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Return unit vectors (n, 3), float64, of positions in degrees."""
    lon, lat = np.radians(ra), np.radians(dec)
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def move(
    ra: np.ndarray, dec: np.ndarray, pmra_masyr: np.ndarray, pmdec_masyr: np.ndarray, years: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Move positions along a great circle by proper motion; rows without one stay.

    The motion is linear in the tangent plane (The Hipparcos Catalogue, ESA SP-1200, vol. 1, section 1.5.5), without parallax
    and radial velocity.

    Parameters
    ----------
    ra, dec : ndarray (n,), degrees
    pmra_masyr, pmdec_masyr : ndarray (n,)
        Milliarcseconds per year; the first includes cos(dec). NaN where unknown.
    years : ndarray (n,) or float
    """
    known = np.isfinite(pmra_masyr) & np.isfinite(pmdec_masyr) & np.isfinite(years)
    east = np.where(known, pmra_masyr * years, 0) * 1e-3 * _ARCSEC
    north = np.where(known, pmdec_masyr * years, 0) * 1e-3 * _ARCSEC
    lon, lat = np.radians(ra), np.radians(dec)
    p = np.column_stack([-np.sin(lon), np.cos(lon), np.zeros_like(lon)])
    q = np.column_stack([-np.sin(lat) * np.cos(lon), -np.sin(lat) * np.sin(lon), np.cos(lat)])
    moved = unit_vectors(ra, dec) + east[:, None] * p + north[:, None] * q
    moved_ra = np.degrees(np.arctan2(moved[:, 1], moved[:, 0])) % 360
    moved_dec = np.degrees(np.arctan2(moved[:, 2], np.hypot(moved[:, 0], moved[:, 1])))
    return np.where(known, moved_ra, ra), np.where(known, moved_dec, dec)


def shift_arcsec(radius_arcsec: float) -> float:
    """Return how far `shifted` shifts: farther than any true pair is apart."""
    return max(_SHIFT_RADII * radius_arcsec, _LEAST_SHIFT_ARCSEC)


def shifted(ra: np.ndarray, dec: np.ndarray, radius_arcsec: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions (degrees) shifted to the east, north, west and south on great circles: what matches then is chance."""
    step = np.full(len(ra), shift_arcsec(radius_arcsec) * 1e3)
    for east, north in _DIRECTIONS:
        yield move(ra, dec, np.full(len(ra), float(east)), np.full(len(ra), float(north)), step)


def within(ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray, radius_arcsec: float) -> Pairs:
    """Return all pairs of two lists of positions within a radius, ordered by left row, then separation.

    Rows without a position (NaN) match nothing. Both lists are cut along declination, so that trees stay small.

    Raises
    ------
    InputError
        For a radius that is not positive or above one degree.
    """
    from scipy.spatial import cKDTree

    if not 0 < radius_arcsec <= 3600:
        raise InputError(f"the radius is {radius_arcsec:g} arcsec; give one above 0 and up to 3600")
    rows1, rows2 = (np.flatnonzero(np.isfinite(ra) & np.isfinite(dec)) for ra, dec in ((ra1, dec1), (ra2, dec2)))
    rows1, rows2 = rows1[np.argsort(dec1[rows1], kind="stable")], rows2[np.argsort(dec2[rows2], kind="stable")]
    sorted2 = dec2[rows2]
    margin = radius_arcsec / 3600 * (1 + 1e-9)
    chord = 2 * np.sin(radius_arcsec * _ARCSEC / 2)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, len(rows1), _BLOCK):
        left = rows1[start : start + _BLOCK]
        low, high = dec1[left[0]] - margin, dec1[left[-1]] + margin
        right = rows2[np.searchsorted(sorted2, low) : np.searchsorted(sorted2, high, side="right")]
        if not len(right):
            continue
        here, there = cKDTree(unit_vectors(ra1[left], dec1[left])), cKDTree(unit_vectors(ra2[right], dec2[right]))
        near = here.sparse_distance_matrix(there, chord * (1 + 1e-12), output_type="ndarray")
        found.append((left[near["i"]], right[near["j"]], 2 * np.arcsin(near["v"] / 2) / _ARCSEC))
    if not found:
        return Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    left, right, separation = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((right, separation, left))
    return Pairs(left[order], right[order], separation[order])


def nearest_to(ra: np.ndarray, dec: np.ndarray, ra0: float, dec0: float, radius_arcsec: float) -> int | None:
    """Return the row (n,) of the position nearest to another within a radius; None where there is none."""
    found = within(np.array([ra0]), np.array([dec0]), ra, dec, radius_arcsec).right
    return int(found[0]) if len(found) else None


def best(pairs: Pairs) -> Pairs:
    """Return the nearest partner of each left row."""
    return pairs.take(np.flatnonzero(np.diff(pairs.left, prepend=-1)))


def symmetric(pairs: Pairs) -> Pairs:
    """Return the pairs in which each is the other's nearest."""
    nearest = best(pairs)
    order = np.lexsort((pairs.left, pairs.separation_arcsec, pairs.right))
    first = order[np.flatnonzero(np.diff(pairs.right[order], prepend=-1))]
    mutual = np.isin(nearest.left * (1 << 32) + nearest.right, pairs.left[first] * (1 << 32) + pairs.right[first])
    return nearest.take(np.flatnonzero(mutual))
