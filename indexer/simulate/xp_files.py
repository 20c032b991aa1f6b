"""Tables as the Gaia archive delivers them, holding simulated XP spectra and saying so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits

from indexer.simulate.xp_instrument import XpObservation
from specdb.spectra.xp_sampling import N_BASES
from specdb.store.files import atomic_path

__all__ = ["SOLUTION_ID", "is_simulated", "simulated_source_ids", "write_continuous", "write_sampled"]

#: Of no Gaia solution.
SOLUTION_ID = 999_999_999_999
_SIGNIFICANT = 3.0  # coefficients behind the last one above this many errors are not relevant

# A source_id is (Gaia DR3 documentation, section 20.1.1) a HEALPix pixel of level 12 from bit 35 on, then three bits for the
# data processing centre (0 to 5 exist), 25 bits of running number and 7 of component (0 in DR3). Simulated ones have what
# does not occur: centre 7 and component 127.
_CENTRE, _COMPONENT = 7 << 32, 127


def simulated_source_ids(ra: np.ndarray, dec: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Return source_ids (n,), int64, that name the right HEALPix pixel and cannot be real.

    Parameters
    ----------
    ra, dec : ndarray (n,)
        Degrees, ICRS.
    number : ndarray (n,), int
        Running number, 0 to 2**25 - 1; larger ones start again at 0.
    """
    from astropy import units
    from astropy_healpix import lonlat_to_healpix

    pixel = np.asarray(lonlat_to_healpix(ra * units.deg, dec * units.deg, nside=4096, order="nested"), np.int64)
    return (pixel << 35) | _CENTRE | ((np.asarray(number, np.int64) % (1 << 25)) << 7) | _COMPONENT


def is_simulated(source_id: np.ndarray) -> np.ndarray:
    """Tell which source_ids (n,) are simulated."""
    source_id = np.asarray(source_id, np.int64)
    return ((source_id & _CENTRE) == _CENTRE) & ((source_id & _COMPONENT) == _COMPONENT)


def write_continuous(path: Path, source_id: np.ndarray, observation: XpObservation) -> None:
    """Write coefficients, errors and correlations (columns of ``xp_continuous_mean_spectrum``) as a FITS table."""
    columns = [_ids(source_id), fits.Column("solution_id", "K", array=np.full(len(source_id), SOLUTION_ID))]
    for name, arm, basis in (("bp", observation.bp, 56), ("rp", observation.rp, 57)):
        assert arm.errors is not None  # as `observe_xp` makes them
        assert arm.correlations is not None
        significant = np.abs(arm.coefficients / arm.errors) > _SIGNIFICANT
        relevant = np.clip(N_BASES - significant[:, ::-1].argmax(axis=1), 2, N_BASES)
        columns += [
            fits.Column(f"{name}_basis_function_id", "I", array=np.full(len(source_id), basis)),
            fits.Column(f"{name}_n_parameters", "I", array=np.full(len(source_id), N_BASES)),
            fits.Column(f"{name}_coefficients", f"{N_BASES}D", array=arm.coefficients),
            fits.Column(f"{name}_coefficient_errors", f"{N_BASES}E", array=arm.errors),
            fits.Column(f"{name}_coefficient_correlations", f"{arm.correlations.shape[1]}E", array=arm.correlations),
            fits.Column(f"{name}_n_relevant_bases", "I", array=relevant),
        ]
    _write(path, columns)


def write_sampled(
    path: Path, source_id: np.ndarray, ra: np.ndarray, dec: np.ndarray, flux: np.ndarray, error: np.ndarray
) -> None:
    """Write samples on 336, 338, .. 1020 nm (columns of ``xp_sampled_mean_spectrum``) as a FITS table; W m-2 nm-1."""
    unit, width = "W.m**-2.nm**-1", f"{flux.shape[1]}E"
    columns = [
        _ids(source_id),
        fits.Column("solution_id", "K", array=np.full(len(source_id), SOLUTION_ID)),
        fits.Column("ra", "D", unit="deg", array=ra),
        fits.Column("dec", "D", unit="deg", array=dec),
        fits.Column("flux", width, unit=unit, array=flux),
        fits.Column("flux_error", width, unit=unit, array=error),
    ]
    _write(path, columns)


def _ids(source_id: np.ndarray) -> fits.Column:
    return fits.Column("source_id", "K", array=np.asarray(source_id, np.int64))


def _write(path: Path, columns: list[fits.Column]) -> None:
    table = fits.BinTableHDU.from_columns(columns)
    primary = fits.PrimaryHDU()
    for header in (primary.header, table.header):
        header["ORIGIN"] = ("specdb simulate", "SIMULATED SPECTRA, NOT OBSERVATIONS")
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        fits.HDUList([primary, table]).writeto(stream)
