"""One spectrum of the database as `specutils.Spectrum`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from specdb.errors import DependencyError
from specdb.spectra import get_modality

if TYPE_CHECKING:
    from specutils import Spectrum

__all__ = ["to_specutils"]


def to_specutils(row: pa.Table) -> Spectrum:
    """Return a prepared spectrum with its uncertainties, mask and metadata.

    Parameters
    ----------
    row : pyarrow.Table
        One row of the table `spectra`.

    Returns
    -------
    specutils.Spectrum
        On the modality's grid (vacuum, Angstrom). The flux has no unit: it is divided by the continuum (LAMOST LRS) or by
        its value at 5500 Angstrom (Gaia XP). Pixels that were repaired, or have no information, are masked.

    Raises
    ------
    DependencyError
        Where `specutils` is not installed.
    """
    try:
        from specutils import Spectrum
    except ImportError:
        raise DependencyError('specutils.Spectrum needs specutils: pip install "specdb[vo]"') from None
    import astropy.units as u
    from astropy.nddata import InverseVariance

    [facts] = row.drop_columns(["flux", "ivar"]).to_pylist()
    flux, ivar = (np.array(row[name][0].as_py()) for name in ("flux", "ivar"))
    return Spectrum(
        flux=flux * u.dimensionless_unscaled,
        spectral_axis=get_modality(facts["modality"]).wavelength * u.AA,
        uncertainty=InverseVariance(ivar),
        mask=ivar == 0,
        meta={name: value for name, value in facts.items() if value is not None},
    )
