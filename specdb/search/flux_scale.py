"""The absolute scale of a Gaia XP spectrum that is known only relative to its flux at 550 nm: from magnitudes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from specdb.errors import InputError
from specdb.shipped import shipped_file
from specdb.spectra import get_modality

__all__ = ["scale_from_g", "scale_from_metadata", "user_scale"]

#: Edges of g, r and i in nm (Pan-STARRS1: Tonry et al. 2012, ApJ 750, 99, table 4); between them the response is taken as
#: constant in photons, which changes magnitudes of stars by 0.02 at most.
_BANDS_NM = {"g": (414.0, 551.0), "r": (550.0, 689.0), "i": (690.0, 819.0)}
_LIGHT_NM_PER_S = 2.99792458e17
_AB_JANSKY = 3631.0
_G_AB_MINUS_VEGA = 0.114  # Gaia DR3 (Riello et al. 2021, A&A 649, A3: zero points 25.8010 and 25.6874)


def scale_from_g(relative: np.ndarray, magnitude: np.ndarray) -> np.ndarray:
    """Return the flux at 550 nm (m,) in W m-2 nm-1 of stars of the given G.

    Parameters
    ----------
    relative : ndarray (m, 343)
        Flux relative to that at 550 nm on the XP grid.
    magnitude : ndarray (m,)
        G of Gaia DR3, Vega system.
    """
    return 10 ** (-0.4 * (np.asarray(magnitude) + _G_AB_MINUS_VEGA)) / _ab_flux(relative, _g_response())


def scale_from_metadata(relative: np.ndarray, rows: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, list[str]]:
    """Find the scale of stars whose survey lists magnitudes in g, r, i, or G.

    Gaia's G where the metadata have it (``phot_g_mean_mag``); else the median over Pan-STARRS magnitudes (``mag_ps_g`` ...);
    else over the input magnitudes of LAMOST (``mag_g`` ...) where their system is like that (``mag_type`` names g, r, i).

    Returns
    -------
    scale : ndarray (m,)
        Flux at 550 nm in W m-2 nm-1; NaN where no magnitude is known.
    origin : list of str
        What each came from, with the scatter between bands; empty where nothing is known.
    """
    scale, origin = np.full(len(rows), np.nan), [""] * len(rows)
    if not len(rows):
        return scale, origin
    estimate = {band: 1 / _ab_flux(relative, _box(*edges)) for band, edges in _BANDS_NM.items()}
    g_band = 1 / _ab_flux(relative, _g_response())
    for i, row in enumerate(rows):
        if (g := row.get("phot_g_mean_mag")) is not None and np.isfinite(g):
            scale[i], origin[i] = g_band[i] * 10 ** (-0.4 * (g + _G_AB_MINUS_VEGA)), f"G = {g:.2f}"
            continue
        for prefix, name in (("mag_ps_", "Pan-STARRS"), ("mag_", "input")):
            if prefix == "mag_" and "gri" not in str(row.get("mag_type")):
                continue
            # A predicted spectrum of a strange star may be negative in a band, which then tells nothing.
            known = {b: row[prefix + b] for b in _BANDS_NM if row.get(prefix + b) is not None and estimate[b][i] > 0}
            if known:
                found = np.array([estimate[b][i] * 10 ** (-0.4 * m) for b, m in known.items()])
                scale[i] = np.median(found)
                listed = ", ".join(f"{b} = {m:.2f}" for b, m in known.items())
                scatter = 2.5 * np.log10(found.max() / found.min())
                origin[i] = f"{name} magnitudes {listed}" + (f", which agree to {scatter:.2f} mag" if len(known) > 1 else "")
                break
    return scale, origin


def _ab_flux(flux: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return the photon-weighted mean of flux (m, 343), W m-2 nm-1, over a response (343,), in units of that of AB = 0."""
    nm = get_modality("gaia_xp").wavelength / 10
    per_hz = (flux * (response * nm)).sum(axis=1) / ((response / nm).sum() * _LIGHT_NM_PER_S)
    return per_hz / (_AB_JANSKY * 1e-26)


def _box(low: float, high: float) -> np.ndarray:
    nm = get_modality("gaia_xp").wavelength / 10
    return ((nm >= low) & (nm <= high)).astype(np.float64)


@cache
def _g_response() -> np.ndarray:
    """Return the response of G, in photons, on the XP grid (343,): that of BP and RP together.

    With it thirty real stars of G 6 to 8 have their catalogue magnitudes to 0.03 mag (standard deviation), without offset.
    """
    with np.load(shipped_file("xp_instrument.npz"), allow_pickle=False) as table:
        return table["band"].astype(np.float64)


def user_scale(
    relative: np.ndarray, g_mag: Sequence[float] | float | None, flux_550: Sequence[float] | float | None
) -> tuple[np.ndarray, list[str]] | None:
    """Return the scale (m,) that the user gives as G or as flux at 550 nm, and its origin; None if neither is given.

    Raises
    ------
    InputError
        When both are given, their number does not fit, or one is not a usable number.
    """
    if g_mag is None and flux_550 is None:
        return None
    if g_mag is not None and flux_550 is not None:
        raise InputError("both G and the flux at 550 nm are given; one of them sets the scale")
    name, given = ("G", g_mag) if g_mag is not None else ("flux_550", flux_550)
    values = np.atleast_1d(np.asarray(given, np.float64))
    if values.ndim != 1 or len(values) not in (1, len(relative)):
        raise InputError(f"{values.size} values of {name} for {len(relative)} spectra; give one, or one for each")
    if not np.isfinite(values).all() or (name == "flux_550" and (values <= 0).any()):
        raise InputError(f"{name} is {given}; it must be finite{' and positive' if name == 'flux_550' else ''}")
    values = np.broadcast_to(values, len(relative))
    scale = scale_from_g(relative, values) if name == "G" else values.copy()
    return scale, [f"{name} = {value:g}, as given" for value in values]
