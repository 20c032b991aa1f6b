"""The two containers that spectra travel in: `Spectra` as read, `Prepared` as an encoder wants them.

Both hold many spectra as arrays with one row per spectrum; a single spectrum is a batch of one. Nothing downstream of the
readers loops over spectra in Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from specdb.errors import InputError
from specdb.spectra.schema import METADATA

__all__ = ["Prepared", "Rejection", "Spectra"]


@dataclass(frozen=True)
class Spectra:
    """Spectra of one instrument that share one wavelength grid, as a reader found them.

    Attributes
    ----------
    wavelength : ndarray (n_pix,), float64
        Vacuum wavelength in Angstrom, heliocentric where the survey provides that. Not checked for order here: that is the
        business of the preparation, which rejects with a reason.
    flux : ndarray (n, n_pix), float32 or float64
        Flux in the survey's own units.
    ivar : ndarray (n, n_pix), float32 or float64, or None
        Inverse variance of `flux`; 0 marks a pixel without information. None where the format carries no errors.
    and_mask, or_mask : ndarray (n, n_pix), int32, or None
        Mask bits set in all / in any of the exposures, 0 = good.
    metadata : pyarrow.Table, n rows
        Columns of `specdb.spectra.schema.METADATA` (missing ones are null) followed by extra columns of the modality.
    log10_grid : tuple (coeff0, coeff1) or None
        Set when the grid is exactly ``10 ** (coeff0 + coeff1 * i)``; lets a preparation recognise equal grids cheaply.
    lsf_sigma : ndarray (n, n_pix), float32, or None
        Standard deviation of the line spread function in Angstrom, where the file says how sharp the instrument is; not
        positive or not finite where it does not.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray | None = None
    and_mask: np.ndarray | None = None
    or_mask: np.ndarray | None = None
    metadata: pa.Table = field(default_factory=lambda: METADATA.empty_table())
    log10_grid: tuple[float, float] | None = None
    lsf_sigma: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.flux.ndim != 2 or self.wavelength.shape != (self.flux.shape[1],):
            raise InputError(
                f"flux has shape {self.flux.shape} and wavelength {self.wavelength.shape}; expected (n, n_pix) and (n_pix,)"
            )
        for name in ("ivar", "and_mask", "or_mask", "lsf_sigma"):
            array = getattr(self, name)
            if array is not None and array.shape != self.flux.shape:
                raise InputError(f"{name} has shape {array.shape}, flux {self.flux.shape}; they must be equal")
        if self.metadata.num_rows not in (len(self), 0):
            raise InputError(f"metadata has {self.metadata.num_rows} rows for {len(self)} spectra")

    def __len__(self) -> int:
        return self.flux.shape[0]

    def take(self, rows: np.ndarray | Sequence[int] | slice) -> Spectra:
        """Return the given rows (integers, booleans or a slice) as new `Spectra`."""
        rows = np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows)]

        def pick(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[rows]

        return replace(
            self,
            flux=self.flux[rows],
            ivar=pick(self.ivar),
            and_mask=pick(self.and_mask),
            or_mask=pick(self.or_mask),
            lsf_sigma=pick(self.lsf_sigma),
            metadata=self.metadata.take(rows) if self.metadata.num_rows else self.metadata,
        )


@dataclass(frozen=True)
class Rejection:
    """Why one spectrum (or one whole source) did not get in.

    Attributes
    ----------
    reason : str
        One of `specdb.spectra.REASONS`, which also says whether it counts as skipped or as failed.
    detail : str
        One line for people, with the number found and the limit.
    row : int
        Row within the batch that was prepared; -1 for a source that gave no spectrum at all.
    """

    reason: str
    detail: str
    row: int = -1


@dataclass(frozen=True)
class Prepared:
    """Spectra of one modality on its grid, ready for an encoder.

    Attributes
    ----------
    flux : ndarray (n, n_grid), float32
        Prepared flux: LAMOST LRS divided by its continuum, Gaia XP divided by its value at 5500 Angstrom.
    ivar : ndarray (n, n_grid), float32
        Inverse variance of the prepared flux; 0 where a value was repaired or filled, or where the input had no errors.
    quality : ndarray (n,), int32
        Bits of `specdb.spectra.Quality`.
    n_repaired : ndarray (n,), int32
        Number of grid pixels that were repaired or filled.
    snr : ndarray (n,), float32
        Median of flux * sqrt(ivar) over the good pixels on the grid; NaN where the input had no errors.
    rows : ndarray (n,), int64
        Position of each prepared spectrum in the input, ascending.
    rejections : list of Rejection
        One entry for every input row that is not in `rows`: ``len(rows) + len(rejections)`` is the number of input spectra.
    """

    flux: np.ndarray
    ivar: np.ndarray
    quality: np.ndarray
    n_repaired: np.ndarray
    snr: np.ndarray
    rows: np.ndarray
    rejections: list[Rejection] = field(default_factory=list)

    def __len__(self) -> int:
        return self.flux.shape[0]
