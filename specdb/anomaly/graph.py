"""The nearest neighbours of every row, from the index, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from specdb.anomaly.survey import Survey

__all__ = ["Graph"]

_BLOCK = 4096
_VISITS = 6  # neighbours asked for beyond k, for rows of the same star that are left out


@dataclass(frozen=True)
class Graph:
    """Neighbours in embedding space, without visits of the same star.

    Attributes
    ----------
    distance : ndarray (n, k), float32
        Euclidean distances of unit vectors, ascending; infinite where there are fewer neighbours.
    row : ndarray (n, k), int64
        Rows of the neighbours; -1 where there are fewer.
    """

    distance: np.ndarray
    row: np.ndarray

    @classmethod
    def of(cls, survey: Survey) -> Graph:
        """Search the index for the neighbours of all rows; as exact as its certificate says."""
        index = survey.db.index(survey.modality)
        k, n = survey.settings.k, len(survey)
        order = np.argsort(survey.ids)
        distance, row = np.full((n, k), np.inf, np.float32), np.full((n, k), -1, np.int64)
        for start in range(0, n, _BLOCK):
            here = slice(start, min(start + _BLOCK, n))
            own = survey.ids[here]
            cosine, ids = index.search(index.vectors(own), k + _VISITS, exclude_ids=own[:, None])
            found = order[np.minimum(np.searchsorted(survey.ids, ids, sorter=order), n - 1)]
            # The index may know rows that have been deleted or are not scored.
            foreign = (survey.star[found] != survey.star[here, None]) & (survey.ids[found] == ids)
            # Stable, so that foreign rows keep their order and come first.
            place = np.argsort(~foreign, axis=1, kind="stable")[:, :k]
            kept = np.take_along_axis(foreign, place, axis=1)
            apart = np.sqrt(np.maximum(2 - 2 * np.take_along_axis(cosine, place, axis=1), 0))
            width = place.shape[1]
            distance[here, :width] = np.where(kept, apart, np.inf)
            row[here, :width] = np.where(kept, np.take_along_axis(found, place, axis=1), -1)
        return cls(distance, row)

    @property
    def reach(self) -> np.ndarray:
        """Distance (n,) to the farthest neighbour there is, float32."""
        known = np.where(np.isfinite(self.distance), self.distance, 0)
        return known.max(axis=1)

    def outlier_factor(self) -> np.ndarray:
        """Return the local outlier factor (n,), about 1 inside a cluster (Breunig et al. 2000, Proc. SIGMOD, 93)."""
        there = self.row >= 0
        row = np.where(there, self.row, 0)
        reached = np.where(there, np.maximum(self.distance, self.reach[row]), 0)
        count = np.maximum(there.sum(axis=1), 1)
        density = count / np.maximum(reached.sum(axis=1, dtype=np.float64), 1e-9)
        return np.where(there, density[row], 0).sum(axis=1) / count / density
