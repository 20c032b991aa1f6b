"""Matching on the sphere against astropy, at the poles, across RA 0, with proper motions."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.time import Time
from astropy_healpix import boundaries_lonlat
from hypothesis import given, settings
from hypothesis import strategies as st

from specdb.catalog import sphere
from specdb.catalog.sphere import best, check_positions, move, symmetric, within
from specdb.errors import InputError


def scattered(n: int, seed: int, scatter_arcsec: float) -> tuple[np.ndarray, ...]:
    """Return stars crowded at the poles, around RA 0, on edges of HEALPix cells; and the same, scattered and shuffled."""
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    dec[: n // 4] = np.where(rng.random(n // 4) < 0.5, 1, -1) * (90 - rng.exponential(0.002, n // 4))
    ra[n // 4 : n // 2] = rng.normal(0, 0.002, n // 4) % 360
    dec[n // 4 : n // 2] = rng.normal(0, 0.002, n // 4)
    corners = boundaries_lonlat(rng.integers(0, 48, n // 16), 1, 2, order="nested")  # four of each HEALPix cell
    edge = slice(n // 2, n // 2 + corners[0].size)
    # Cells share corners: a few milliarcseconds keep stars there from being at one and the same place, where any is nearest.
    ra[edge], dec[edge] = (side.to_value(u.deg).ravel() + rng.normal(0, 1e-6, corners[0].size) for side in corners)
    ra %= 360
    dec = np.where(np.abs(dec) > 90, np.sign(dec) * 180 - dec, dec)  # beyond a pole, down again
    offset = SkyCoord(ra, dec, unit="deg").directional_offset_by(
        rng.uniform(0, 360, n) * u.deg, np.abs(rng.normal(0, scatter_arcsec, n)) * u.arcsec
    )
    order = rng.permutation(n)
    return ra, dec, offset.ra.deg[order], offset.dec.deg[order]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), radius=st.sampled_from([0.3, 2.0, 30.0, 3000.0]))
def test_matches_are_those_of_astropy(seed: int, radius: float) -> None:
    ra1, dec1, ra2, dec2 = scattered(400, seed, radius / 3)
    left, right = SkyCoord(ra1, dec1, unit="deg"), SkyCoord(ra2, dec2, unit="deg")
    pairs = within(ra1, dec1, ra2, dec2, radius)
    every = right.search_around_sky(left, radius * u.arcsec)
    assert set(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == set(
        zip(every[0].tolist(), every[1].tolist(), strict=True)
    )
    near, distance, _ = left.match_to_catalog_sky(right)
    found = best(pairs)
    np.testing.assert_array_equal(found.left, np.flatnonzero(distance.arcsec <= radius))
    np.testing.assert_array_equal(found.right, near[found.left])
    np.testing.assert_allclose(found.separation_arcsec, distance.arcsec[found.left], rtol=1e-7, atol=1e-6)
    back = right.match_to_catalog_sky(left)[0]
    mutual = symmetric(pairs)
    np.testing.assert_array_equal(mutual.left, found.left[back[found.right] == found.left])


def test_blocks_have_margins(monkeypatch: pytest.MonkeyPatch) -> None:
    ra1, dec1, ra2, dec2 = scattered(2000, 3, 1.0)
    whole = within(ra1, dec1, ra2, dec2, 3.0)
    monkeypatch.setattr(sphere, "_BLOCK", 7)
    cut = within(ra1, dec1, ra2, dec2, 3.0)
    np.testing.assert_array_equal(whole.left, cut.left)
    np.testing.assert_array_equal(whole.right, cut.right)


def test_unknown_positions_match_nothing() -> None:
    nan = np.array([np.nan, 10.0])
    assert within(nan, nan, nan, nan, 1.0).left.tolist() == [1]
    assert len(within(np.array([]), np.array([]), nan, nan, 1.0)) == 0
    assert len(best(within(nan, nan, nan + 5, nan, 1.0))) == 0


def test_proper_motion_is_that_of_astropy() -> None:
    rng = np.random.default_rng(0)
    n = 50
    ra, dec = rng.uniform(0, 360, n), rng.uniform(-89, 89, n)
    pmra, pmdec = rng.normal(0, 5000, n), rng.normal(0, 5000, n)
    stars = SkyCoord(
        ra * u.deg, dec * u.deg, pm_ra_cosdec=pmra * u.mas / u.yr, pm_dec=pmdec * u.mas / u.yr,
        obstime=Time(2016.0, format="jyear"), distance=np.full(n, 1000) * u.pc,
    )  # fmt: skip
    moved = stars.apply_space_motion(new_obstime=Time(2000.0, format="jyear"))
    found = SkyCoord(*move(ra, dec, pmra, pmdec, -16.0), unit="deg")
    assert found.separation(SkyCoord(moved.ra, moved.dec)).arcsec.max() < 0.01
    unknown = np.full(n, np.nan)
    np.testing.assert_array_equal(move(ra, dec, unknown, pmdec, 16.0)[0], ra)


@pytest.mark.parametrize("radius", [0.0, -1.0, 3601.0, float("nan")])
def test_radius_must_make_sense(radius: float) -> None:
    with pytest.raises(InputError, match=r"the radius is .*; give one above 0 and up to 3600"):
        within(np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1), radius)


RNG = np.random.default_rng(5)
WIDE = RNG.uniform(0, 360, 500), RNG.uniform(-60, 80, 500)


@pytest.mark.parametrize(
    ("ra", "dec", "units", "message"),
    [
        (WIDE[0] / 15, WIDE[1], (None, None), "looks like hours; multiply it by 15"),
        (np.radians(WIDE[0]), np.radians(WIDE[1]), (None, None), "these look like radians; convert them to degrees"),
        (*WIDE, ("hourangle", "deg"), "the right ascension is in 'hourangle', positions must be in degrees"),
        (*WIDE, ("deg", "rad"), "the declination is in 'rad', positions must be in degrees"),
        (WIDE[0] + 200, WIDE[1], (None, None), r"values of right ascension are outside -180..360 degrees, first "),
        (WIDE[0], WIDE[1] * 2, (None, None), "values of declination are outside -90..90 degrees"),
        (WIDE[0] * np.nan, WIDE[1], (None, None), "no row has a position"),
    ],
)
def test_positions_that_cannot_be_degrees(ra: np.ndarray, dec: np.ndarray, units: tuple, message: str) -> None:
    with pytest.raises(InputError, match=f"f.csv: .*{message}"):
        check_positions(ra, dec, units, "f.csv")


def test_a_small_field_near_the_origin_is_left_alone() -> None:
    check_positions(WIDE[0] / 360 * 3, WIDE[1] / 100, ("deg", "degree"), "f.csv")
    check_positions(WIDE[0] / 15, WIDE[1] / 10, (None, None), "f.csv")
