"""How far a spectrum is from its nearest neighbours, absolutely and compared with how far they are from theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specdb.anomaly.scores.score import FittedScore

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["LocalReachability", "NeighbourDistance"]


class NeighbourDistance:
    """Distance to the k-th nearest neighbour of another star."""

    name = "knn_distance"
    title = "few spectra are like it"
    needs = ("embedding",)
    votes = False
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Look the distances up in the index."""
        reach = survey.graph.reach.astype(np.float64)

        def score(block: Block) -> np.ndarray:
            return reach[block.rows]

        return score


class LocalReachability:
    """Local outlier factor: how much thinner its surroundings are than those of its neighbours."""

    name = "local_reachability"
    title = "it lies apart from its neighbours"
    needs = ("embedding",)
    votes = False
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Compute the factor of all rows from the index's neighbours."""
        factor = survey.graph.outlier_factor()

        def score(block: Block) -> np.ndarray:
            return factor[block.rows]

        return score
