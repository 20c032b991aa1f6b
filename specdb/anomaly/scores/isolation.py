"""Isolation forest over embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specdb.anomaly.scores.score import FittedScore

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["Isolation"]


class Isolation:
    """How few random cuts separate an embedding from the others (Liu, Ting & Zhou 2008, Proc. ICDM, 413)."""

    name = "isolation_forest"
    title = "its embedding is easily cut off from the others"
    needs = ("embedding",)
    votes = False
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Grow 200 trees on the sample."""
        from sklearn.ensemble import IsolationForest

        forest = IsolationForest(n_estimators=200, random_state=survey.settings.seed).fit(survey.sample.vectors)

        def score(block: Block) -> np.ndarray:
            return -forest.score_samples(block.spectra.vectors)

        return score
