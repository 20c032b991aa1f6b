"""How badly a spectrum is rebuilt from few numbers: principal components, or the encoder's embedding by its own decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specdb.anomaly.expected import Expectation
from specdb.anomaly.features import FeatureDetector
from specdb.anomaly.scores.score import FittedScore, Unavailable, loaded_encoder
from specdb.encoders.clip import ClipModel

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["DecoderFeatures", "DecoderResidual", "Reconstruction"]


class Reconstruction:
    """Error, weighted by the errors of the survey, of the spectrum rebuilt from principal components of ordinary ones."""

    name = "reconstruction"
    title = "principal components of ordinary spectra do not rebuild it"
    needs = ("spectra",)
    votes = False
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Find mean and components."""
        model = survey.components

        def score(block: Block) -> np.ndarray:
            return model(block.spectra).chi2

        return score


class DecoderResidual:
    """The same with the encoder's own decoder instead of principal components."""

    name = "decoder_residual"
    title = "the encoder's decoder does not rebuild it"
    needs = ("spectra", "decoder")
    votes = True
    replaces = ("neighbour_residual",)

    def fit(self, survey: Survey) -> FittedScore:
        """Measure how well ordinary spectra are rebuilt."""
        _ = _decoded(survey)

        def score(block: Block) -> np.ndarray:
            return block.decoder_residual.chi2

        return score


class DecoderFeatures:
    """The strongest single feature, narrow or broad, in what the encoder's decoder does not rebuild; in sigmas."""

    name = "decoder_feature"
    title = "one feature stands out from what the encoder's decoder rebuilds"
    needs = ("spectra", "decoder")
    votes = True
    replaces = ("feature",)

    def fit(self, survey: Survey) -> FittedScore:
        """Measure how strong features of ordinary spectra are."""
        detector = FeatureDetector.fit(_decoded(survey).left_of_ordinary())

        def score(block: Block) -> np.ndarray:
            return detector.strongest(block.decoder_residual)

        return score


def _decoded(survey: Survey) -> Expectation:
    encoder = loaded_encoder(survey)
    model = encoder.model
    if not isinstance(model, ClipModel) or not model.config.reconstructs:
        raise Unavailable(f"encoder {encoder.name} has no decoder that rebuilds spectra")
    if survey.modality not in encoder.modalities:
        raise Unavailable(f"encoder {encoder.name} does not encode {survey.modality}")
    return survey.decoded
