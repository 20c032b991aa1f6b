"""A modality: one instrument's spectra on one grid with one preparation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from specdb.spectra.spectrum import Prepared, Spectra

__all__ = ["Modality", "Preparation"]


class Preparation(Protocol):
    """Turns spectra on their own grids into `Prepared` spectra on the modality's grid.

    `name` and `version` identify the algorithm; a change of any number that it produces needs a new `version`.
    `settings` returns the values that the user can change, for provenance.
    """

    @property
    def name(self) -> str:
        """Name of the algorithm."""
        ...

    @property
    def version(self) -> int:
        """Number that changes with the numbers the algorithm gives."""
        ...

    def settings(self) -> dict[str, float | int | str | bool]:
        """Return the settings that change numbers."""
        ...

    def __call__(self, batches: Sequence[Spectra]) -> Prepared:
        """Prepare several batches at once; rows are numbered through all of them in order."""
        ...


@dataclass(frozen=True)
class Modality:
    """One instrument's spectra on one grid with one preparation.

    Attributes
    ----------
    name : str
        As used for folders and on the command line, e.g. ``lamost_lrs``.
    survey : str
        Name of the survey for the command line, e.g. ``lamost``.
    wavelength : ndarray (n_grid,), float64
        Vacuum wavelength of the grid in Angstrom.
    preparation : Preparation
    columns : pyarrow.Schema
        Metadata columns that this modality adds to `specdb.spectra.METADATA`.
    readers : tuple of str
        Names of the registered readers, tried in this order, that can deliver this modality.
    title : str
        For people.
    encoded_as : str
        Modality whose prepared spectra look the same, so that encoders of that one read these, too; empty for none. Its
        `preparation` is then the last step of this one's.
    """

    name: str
    survey: str
    wavelength: np.ndarray
    preparation: Preparation
    columns: pa.Schema
    readers: tuple[str, ...]
    title: str
    encoded_as: str = ""
