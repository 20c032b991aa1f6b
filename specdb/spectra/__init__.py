"""Spectra: the containers they travel in, where they come from, and what a modality is."""

from specdb.spectra.modalities import get_modality, modality_for_survey, modality_names
from specdb.spectra.modality import Modality, Preparation
from specdb.spectra.readers.arrays import from_arrays
from specdb.spectra.schema import METADATA, REASONS, Quality, metadata_table
from specdb.spectra.sources import Source, expand_sources
from specdb.spectra.spectrum import Prepared, Rejection, Spectra

__all__ = [
    "METADATA",
    "REASONS",
    "Modality",
    "Preparation",
    "Prepared",
    "Quality",
    "Rejection",
    "Source",
    "Spectra",
    "expand_sources",
    "from_arrays",
    "get_modality",
    "metadata_table",
    "modality_for_survey",
    "modality_names",
]
