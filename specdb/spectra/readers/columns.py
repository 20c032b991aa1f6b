"""Names and units by which the generic readers recognise columns."""

from __future__ import annotations

import re

import numpy as np

from specdb.errors import ReadError

__all__ = ["column_role", "ivar_from_error", "vacuum_angstrom"]

_ROLES: dict[str, tuple[str, ...]] = {
    "wavelength": ("wavelength", "wavelengths", "wave", "lambda", "lam", "wl", "wavelength_vac", "vacuum_wavelength"),
    "log_wavelength": ("loglam", "log_lam", "log_wave", "log_lambda", "log_wavelength", "log10_wave", "log10_wavelength"),
    "flux": ("flux", "fluxes", "spectrum", "spectra", "flux_norm", "normalized_flux", "normalised_flux", "f_lambda", "flam"),
    "ivar": ("ivar", "inverse_variance", "invvar", "flux_ivar"),
    "error": ("error", "err", "sigma", "flux_error", "flux_err", "e_flux", "uncertainty", "flux_uncertainty", "std"),
    "spectrum_id": ("spectrum_id", "obsid", "obs_id", "id"),
    "gaia_source_id": ("gaia_source_id", "source_id"),
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
_UNITS = {"nm": 10.0, "um": 1e4, "micron": 1e4, "microns": 1e4, "a": 1.0, "aa": 1.0, "ang": 1.0, "angstrom": 1.0}
_UNITS |= {
    "angstroms": 1.0,
    "å": 1.0,
    "µm": 1e4,
    "μm": 1e4,
    "nanometer": 10.0,
    "nanometre": 10.0,
    "micrometer": 1e4,
    "micrometre": 1e4,
}
_UNIT_IN_NAME = re.compile(r"[\[(/ _]+([a-zµμå]+)[\])]*$")


def column_role(name: str) -> tuple[str, str]:
    """Return what a column is for and the unit its name carries.

    Parameters
    ----------
    name : str
        E.g. ``Wavelength [nm]``, ``wave_angstrom``, ``flux``.

    Returns
    -------
    role : str
        wavelength, log_wavelength, air_wavelength, flux, ivar, error, spectrum_id, gaia_source_id, or empty for none.
    unit : str
        Lower-case unit, empty where the name has none.
    """
    plain = name.strip().lower()
    if plain in _ROLE_OF:
        return _ROLE_OF[plain], ""
    if "air" in re.split(r"[^a-z]+", plain) and plain.startswith(("wave", "lam")):
        return "air_wavelength", ""
    if match := _UNIT_IN_NAME.search(plain):
        return _ROLE_OF.get(plain[: match.start()], ""), match[1]
    return "", ""


def vacuum_angstrom(values: np.ndarray, role: str, unit: str = "") -> np.ndarray:
    """Convert wavelengths to Angstrom; they are taken to be in vacuum.

    Parameters
    ----------
    values : ndarray (n_pix,)
    role : str
        As `column_role` gives it; a column whose name says "air" is refused.
    unit : str
        nm, um, micron, Angstrom, ...; without a unit the largest value decides: up to 3 means micron, up to 5 log10 of
        Angstrom, up to 3000 nm, else Angstrom.

    Raises
    ------
    ReadError
        ``bad_wavelength`` for wavelengths in air or in a unit that is none of length.
    """
    if role == "air_wavelength":
        raise ReadError("bad_wavelength", "wavelengths are in air; convert them to vacuum and name the column 'wavelength'")
    wavelength = np.asarray(values, dtype=np.float64)
    largest = np.nanmax(wavelength, initial=-np.inf)
    unit = unit.strip().lower()
    if role == "log_wavelength" or (not unit and 3 < largest < 5):
        return 10**wavelength
    if unit:
        if unit not in _UNITS:
            raise ReadError("bad_wavelength", f"wavelength in {unit!r}; expected Angstrom, nm or micron")
        return wavelength * _UNITS[unit]
    return wavelength * (1e4 if largest <= 3 else 10.0 if largest <= 3000 else 1.0)


def ivar_from_error(error: np.ndarray) -> np.ndarray:
    """Inverse variance, float32, of standard deviations; 0 where they are not positive and finite."""
    sigma = np.asarray(error, dtype=np.float64)
    good = np.isfinite(sigma) & (sigma > 0)
    with np.errstate(over="ignore"):
        ivar = np.divide(1.0, sigma, out=np.zeros_like(sigma), where=good) ** 2
        return np.minimum(ivar, np.finfo(np.float32).max).astype(np.float32)
