"""How far a spectrum is from what its neighbours look like, altogether and in its strongest feature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specdb.anomaly.scores.score import FittedScore

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["ExpectedSpectrum", "Features"]


class ExpectedSpectrum:
    """Chi-squared of what the mean of ordinary neighbours leaves, weighted by the errors."""

    name = "neighbour_residual"
    title = "its spectrum differs from that of its neighbours"
    needs = ("embedding", "spectra")
    votes = True
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Make the model of ordinary spectra."""
        _ = survey.expectation

        def score(block: Block) -> np.ndarray:
            return block.residual.chi2

        return score


class Features:
    """The strongest single feature, narrow or broad, in what the mean of ordinary neighbours leaves; in sigmas."""

    name = "feature"
    title = "one feature stands out from what its neighbours show"
    needs = ("embedding", "spectra")
    votes = True
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Measure how strong features of ordinary spectra are."""
        detector = survey.detector

        def score(block: Block) -> np.ndarray:
            return detector.strongest(block.residual)

        return score
