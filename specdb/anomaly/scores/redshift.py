"""Whether ordinary spectra, shifted, are a better description than unshifted ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specdb.anomaly.scores.score import FittedScore, Unavailable
from specdb.errors import InputError

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["Redshift"]

_UNIT = 10.0  # gains in chi-squared below this are not told apart well


class Redshift:
    """Gain in chi-squared by a redshift from 0.005 to 0.25, of galaxies above all; positive by x + sqrt(1 + x^2)."""

    name = "redshift"
    title = "ordinary spectra fit it better when they are shifted"
    needs = ("spectra",)
    votes = True
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Bin mean and components of ordinary spectra."""
        try:
            model = survey.shifted
        except InputError as error:
            raise Unavailable(str(error)) from error

        def score(block: Block) -> np.ndarray:
            return np.exp(np.arcsinh(model(block.spectra)[0] / _UNIT))

        return score
