"""Spectra: the containers they travel in, where they come from, and what a modality is."""

from specdb.spectra.modality import Modality, Preparation
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
    "metadata_table",
]
