"""Which stars are held out: decided by their place on the sky, the same in all surveys and trainings."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy_healpix import HEALPix

__all__ = ["held_out", "sky_key"]

_ORDER = 8  # pixels of 14': visits of a star hardly ever lie on two sides of an edge
_GAIA_SHIFT = 35 + 2 * (12 - _ORDER)  # a source_id holds the star's pixel of order 12 above its lowest 35 bits
_NOWHERE = np.uint64(1 << 63)  # tells keys made of ids from pixels


def sky_key(gaia_source_id: np.ndarray, ra: np.ndarray, dec: np.ndarray, spectrum_id: np.ndarray) -> np.ndarray:
    """Return a key per spectrum that all spectra of a star share, whichever instrument took them.

    The key is the HEALPix pixel (order 8, nested, ICRS) of the star: from its Gaia source_id (Gaia DR3
    documentation, 20.1.1) where that is known, else from its position. A spectrum with neither is a star of its own.

    Parameters
    ----------
    gaia_source_id : ndarray (n,), int64
        0 or negative where not known.
    ra, dec : ndarray (n,), degrees, ICRS
        NaN where not known.
    spectrum_id : ndarray (n,), int64

    Returns
    -------
    ndarray (n,), uint64
    """
    key = spectrum_id.astype(np.uint64) | _NOWHERE
    placed = np.isfinite(ra) & np.isfinite(dec)
    healpix = HEALPix(nside=1 << _ORDER, order="nested")
    key[placed] = healpix.lonlat_to_healpix(ra[placed] * u.deg, dec[placed] * u.deg).astype(np.uint64)
    known = gaia_source_id > 0
    key[known] = (gaia_source_id[known] >> _GAIA_SHIFT).astype(np.uint64)
    return key


def held_out(key: np.ndarray, share: float) -> np.ndarray:
    """Return which spectra (n,) belong to the held-out share of the sky.

    The keys are scattered by the finaliser of SplitMix64 (Steele, Lea & Flood 2014), so neighbouring pixels have nothing in
    common. A larger share holds out the stars of a smaller one and more.
    """
    x = key + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)) * 2.0**-53 < share
