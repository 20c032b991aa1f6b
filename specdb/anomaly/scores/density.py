"""Density of embeddings by a Gaussian mixture."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from specdb.anomaly.scores.score import FittedScore

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["Density"]

_DIMENSIONS, _COMPONENTS = 16, 12


class Density:
    """How rare an embedding is: minus the log density of a mixture of normals over its leading principal components.

    Components that are too small to be a population are held wide by a floor on the covariance, so that a few unusual
    objects do not make a density of their own.
    """

    name = "density"
    title = "its embedding lies where the survey is thin"
    needs = ("embedding",)
    votes = False
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Fit to the sample."""
        from sklearn.decomposition import PCA
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        vectors, seed = survey.sample.vectors, survey.settings.seed
        dimensions = min(_DIMENSIONS, vectors.shape[1], len(vectors) - 1)
        components = int(np.clip(len(vectors) // (20 * dimensions), 1, _COMPONENTS))
        axes = PCA(dimensions, whiten=True, random_state=seed).fit(vectors)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture = GaussianMixture(components, reg_covar=0.05, max_iter=200, random_state=seed)
            mixture.fit(axes.transform(vectors).astype(np.float64))
        # Scores are compared as logarithms: a constant keeps them positive without changing their order.
        highest = float(mixture.score_samples(axes.transform(vectors).astype(np.float64)).max())

        def score(block: Block) -> np.ndarray:
            density = mixture.score_samples(axes.transform(block.spectra.vectors).astype(np.float64))
            return np.maximum(highest - density, 0) + 1

        return score
