"""The modalities that specdb knows; a new one is one entry here."""

from __future__ import annotations

from specdb.errors import InputError
from specdb.spectra.lrs_preparation import LAMOST_GRID, LrsPreparation
from specdb.spectra.matched_preparation import MatchedLrsPreparation
from specdb.spectra.modality import Modality
from specdb.spectra.readers.desi import DESI_COLUMNS
from specdb.spectra.readers.gaia_xp import XP_COLUMNS
from specdb.spectra.readers.lamost import LAMOST_COLUMNS
from specdb.spectra.readers.sdss import SDSS_COLUMNS, SDSS_MASK_BITS
from specdb.spectra.xp_preparation import XP_GRID, XpPreparation

__all__ = ["DESI", "GAIA_XP", "LAMOST_LRS", "SDSS", "get_modality", "modality_for_survey", "modality_names"]

DESI = Modality(
    name="desi",
    survey="desi",
    wavelength=LAMOST_GRID,
    # Any bit of the mask makes a pixel bad, as in DESI's own coaddition; R = 2000 to 3200 over the blue arm.
    preparation=MatchedLrsPreparation(assumed_resolution=2600.0, mask_bits=-1),
    columns=DESI_COLUMNS,
    readers=("desi", "columnar", "text"),
    title="DESI spectra",
    encoded_as="lamost_lrs",
)

GAIA_XP = Modality(
    name="gaia_xp",
    survey="gaia-xp",
    wavelength=XP_GRID,
    preparation=XpPreparation(),
    columns=XP_COLUMNS,
    readers=("gaia_xp_continuous", "gaia_xp_sampled", "specclip_hdf5_xp", "columnar", "text"),
    title="Gaia DR3 BP/RP spectra",
)

LAMOST_LRS = Modality(
    name="lamost_lrs",
    survey="lamost",
    wavelength=LAMOST_GRID,
    preparation=LrsPreparation(),
    columns=LAMOST_COLUMNS,
    readers=("lamost", "specclip_hdf5_lrs", "columnar", "text"),
    title="LAMOST low-resolution spectra",
)

SDSS = Modality(
    name="sdss",
    survey="sdss",
    wavelength=LAMOST_GRID,
    preparation=MatchedLrsPreparation(assumed_resolution=2000.0, mask_bits=SDSS_MASK_BITS),
    columns=SDSS_COLUMNS,
    readers=("sdss", "columnar", "text"),
    title="SDSS optical spectra",
    encoded_as="lamost_lrs",
)

_MODALITIES = (DESI, GAIA_XP, LAMOST_LRS, SDSS)


def modality_names() -> list[str]:
    """Return the names of all modalities, sorted."""
    return sorted(modality.name for modality in _MODALITIES)


def get_modality(name: str) -> Modality:
    """Return the modality of that name, or raise `InputError` listing the known ones."""
    for modality in _MODALITIES:
        if modality.name == name:
            return modality
    raise InputError(f"no modality is called {name!r}; known modalities: {', '.join(modality_names())}")


def modality_for_survey(survey: str) -> Modality:
    """Return the modality of a survey as named on the command line, or raise `InputError` listing the known ones."""
    for modality in _MODALITIES:
        if modality.survey == survey:
            return modality
    known = ", ".join(sorted(modality.survey for modality in _MODALITIES))
    raise InputError(f"no survey is called {survey!r}; known surveys: {known}")
