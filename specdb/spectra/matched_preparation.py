"""Preparation of other instruments' spectra for the encoders of LAMOST LRS: match the resolution, then prepare as LRS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from specdb.errors import PreparationError
from specdb.spectra.checks import wavelength_fault
from specdb.spectra.lrs_preparation import LAMOST_GRID, LrsPreparation
from specdb.spectra.resolution import LRS_GRID, LRS_RESOLUTION, LogGrid, match_resolution
from specdb.spectra.schema import BLANK, SKY
from specdb.spectra.spectrum import Prepared, Rejection, Spectra

__all__ = ["MatchedLrsPreparation"]

_WHY = {SKY: "the fibre was on the sky", BLANK: "no target on the fibre, or no exposure of it was good"}

#: The pixels of LAMOST LRS as far as its preparation looks: the continuum is fitted up to 5700 Angstrom.
_PIXELS = LogGrid(LRS_GRID.coeff0, LRS_GRID.coeff1, 1890)


@dataclass(frozen=True)
class MatchedLrsPreparation:
    """LAMOST LRS preparation of spectra that another instrument took.

    They are brought to the resolution and the pixels of LRS (`specdb.spectra.resolution`) and then prepared by
    `LrsPreparation`, so that the encoders of LRS can read them. Wavelengths have to be in vacuum and heliocentric or
    barycentric, as those of LRS, SDSS and DESI are: the two frames differ by 0.02 km/s at most.

    Attributes
    ----------
    assumed_resolution : float
        Of spectra that do not say how sharp they are.
    mask_bits : int
        Bits of the instrument's and-mask that make a pixel bad.
    lrs : LrsPreparation
        Its `mask_bits` are not used: the masks are the instrument's.
    """

    assumed_resolution: float
    mask_bits: int
    lrs: LrsPreparation = field(default_factory=LrsPreparation)
    name: str = field(default="specclip-lrs-matched", init=False)
    version: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        if not self.assumed_resolution > 0:
            raise PreparationError(f"assumed_resolution is {self.assumed_resolution}; give wavelength over FWHM, e.g. 2000")

    def settings(self) -> dict[str, float | int | str | bool]:
        """Return the settings that change numbers, for provenance."""
        own = {"assumed_resolution": self.assumed_resolution, "resolution": LRS_RESOLUTION, "mask_bits": self.mask_bits}
        return self.lrs.settings() | own

    def __call__(self, batches: Sequence[Spectra]) -> Prepared:
        """Prepare several batches at once; rows are numbered through all of them in order."""
        rejections: list[Rejection] = []
        rows: list[np.ndarray] = []
        usable: list[Spectra] = []
        first = 0
        for batch in batches:
            kept, rejected = _usable(batch)
            rejections += [replace(rejection, row=first + rejection.row) for rejection in rejected]
            if len(kept):
                rows.append(first + kept)
                usable.append(batch if len(kept) == len(batch) else batch.take(kept))
            first += len(batch)
        matched = match_resolution(usable, _PIXELS, assumed=self.assumed_resolution, mask_bits=self.mask_bits)
        done = self.lrs(matched)
        place = np.concatenate([np.empty(0, np.int64), *rows])
        rejections += [replace(rejection, row=int(place[rejection.row])) for rejection in done.rejections]
        return replace(done, rows=place[done.rows], rejections=sorted(rejections, key=lambda rejection: rejection.row))


def _usable(batch: Spectra) -> tuple[np.ndarray, list[Rejection]]:
    """Return the rows of a batch that are worth preparing, and why the others are not."""
    if fault := wavelength_fault(np.asarray(batch.wavelength, np.float64), "A"):
        return np.empty(0, np.int64), [Rejection("bad_wavelength", fault, row) for row in range(len(batch))]
    first, last = batch.wavelength[[0, -1]]
    if last < LAMOST_GRID[0] or first > LAMOST_GRID[-1]:
        why = f"the spectrum covers {first:.1f}-{last:.1f} Angstrom, nothing of the grid 3999.4-5598.9 Angstrom"
        return np.empty(0, np.int64), [Rejection("low_coverage", why, row) for row in range(len(batch))]
    if "fiber_type" not in batch.metadata.column_names or not batch.metadata.num_rows:
        return np.arange(len(batch)), []
    kinds = batch.metadata["fiber_type"].to_pylist()
    rejected = [Rejection("blank_fibre", _WHY[kind], row) for row, kind in enumerate(kinds) if kind in _WHY]
    return np.setdiff1d(np.arange(len(batch)), [rejection.row for rejection in rejected]), rejected
