"""The rows of a catalogue that lie near a spectrum, picked out while it is read.

A catalogue of the whole sky need not be stored for a survey that saw a part of it. Of a HATS catalogue only the cells are
read that some spectrum is in or near. What is kept reaches beyond the radius by as much as spectra are shifted to count
chance matches, so that these are counted among all rows that there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from specdb.catalog.files import CatalogueFile
from specdb.catalog.hats import Cell, cell_radius_rad
from specdb.catalog.matches import PositionKey, Positions, at_epochs
from specdb.catalog.sphere import FASTEST_ARCSEC_YR, shift_arcsec, unit_vectors

__all__ = ["NearbyRows"]

_ARCSEC = np.pi / 180 / 3600

#: Years between two epochs where a catalogue states them row by row: older than any CCD, photographic plates included.
_MANY_YEARS = 150.0


class NearbyRows:
    """A catalogue without the rows that are far from every spectrum.

    Parameters
    ----------
    source : CatalogueFile
    spectra : Positions
    key : PositionKey

    Attributes
    ----------
    source : CatalogueFile
        What is left; its files are those that are read.
    far : int
        Rows left out in the last complete pass, with those of cells that were not read.
    """

    def __init__(self, source: CatalogueFile, spectra: Positions, key: PositionKey) -> None:
        self._spectra, self._key, self._still = spectra, key, replace(key, pm=None)
        self._reach = (key.radius_arcsec + shift_arcsec(key.radius_arcsec)) * _ARCSEC
        self._trees: dict[int, Any] = {}
        self._read = source if source.narrowed is None else source.narrowed(self._wanted)
        unread = set(source.files) - set(self._read.files)
        self._unread = sum(pq.read_metadata(path).num_rows for path in sorted(unread))
        self.far = 0
        self.source = replace(self._read, batches=self._batches)

    def _wanted(self, cells: tuple[Cell, ...]) -> np.ndarray:
        """Say of each cell whether a spectrum's partner may be in it: none is farther from the centre than the corners."""
        from astropy_healpix import healpix_to_lonlat
        from scipy.spatial import cKDTree

        known = np.isfinite(self._spectra.ra) & np.isfinite(self._spectra.dec)
        if not known.any():
            return np.zeros(len(cells), bool)
        tree = cKDTree(unit_vectors(self._spectra.ra[known], self._spectra.dec[known]))
        reach = self._reach + self._motion_rad()
        found = np.zeros(len(cells), bool)
        orders = np.array([cell.order for cell in cells])
        for order in np.unique(orders):
            here = np.flatnonzero(orders == order)
            pixels = np.array([cells[i].pixel for i in here])
            lon, lat = healpix_to_lonlat(pixels, 1 << int(order), order="nested")
            angle = min(np.pi, (cell_radius_rad(int(order)) + reach) * (1 + 1e-9))
            distance, _ = tree.query(unit_vectors(lon.deg, lat.deg))
            found[here] = distance <= 2 * np.sin(angle / 2)
        return found

    def _motion_rad(self) -> float:
        if self._key.pm is None or self._key.epoch is None:
            return 0.0
        epochs = self._spectra.epoch[np.isfinite(self._spectra.epoch)]
        own = self._key.epoch
        years = _MANY_YEARS if isinstance(own, str) or not len(epochs) else float(np.abs(epochs - own).max())
        return years * FASTEST_ARCSEC_YR * _ARCSEC

    def _batches(self) -> Iterator[pa.RecordBatch]:
        far = self._unread
        for batch in self._read.batches():
            near = self._near(batch)
            far += int((~near).sum())
            yield batch.filter(pa.array(near))
        self.far = far

    def _near(self, batch: pa.RecordBatch) -> np.ndarray:
        near = np.zeros(batch.num_rows, bool)
        chunk = pa.Table.from_batches([batch])
        # Where the catalogue says they are, too: what stands for an unknown motion is found out only at the end.
        for number, (rows, ra, dec) in enumerate(
            [*at_epochs(self._spectra, chunk, self._still), *at_epochs(self._spectra, chunk, self._key)]
        ):
            tree = self._tree(number, rows)
            known = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec) & ~near)
            if tree is None or not len(known):
                continue
            distance, _ = tree.query(unit_vectors(ra[known], dec[known]), distance_upper_bound=2 * np.sin(self._reach / 2))
            near[known[np.isfinite(distance)]] = True
        return near

    def _tree(self, number: int, rows: np.ndarray) -> Any:
        """Return a tree of the spectra of one epoch, which come in the same order for every batch; None of none."""
        from scipy.spatial import cKDTree

        if number not in self._trees:
            known = rows[np.isfinite(self._spectra.ra[rows]) & np.isfinite(self._spectra.dec[rows])]
            vectors = unit_vectors(self._spectra.ra[known], self._spectra.dec[known])
            self._trees[number] = cKDTree(vectors) if len(known) else None
        return self._trees[number]
