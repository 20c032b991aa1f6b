"""How badly a spectrum is rebuilt from few numbers: principal components, or the encoder's embedding by its own decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specdb.anomaly.expected import Expectation, Sample
from specdb.anomaly.scores.score import FittedScore, Unavailable, loaded_encoder
from specdb.encoders import Encoder
from specdb.encoders.clip import ClipModel

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["Decoded", "DecoderResidual", "Reconstruction"]


class Reconstruction:
    """Error, weighted by the errors of the survey, of the spectrum rebuilt from principal components of ordinary ones."""

    name = "reconstruction"
    title = "principal components of ordinary spectra do not rebuild it"
    needs = ("spectra",)
    votes = False

    def fit(self, survey: Survey) -> FittedScore:
        """Find mean and components."""
        model = survey.components

        def score(block: Block) -> np.ndarray:
            return model(block.spectra).chi2

        return score


@dataclass(frozen=True)
class Decoded:
    """The rule that the encoder's own decoder is: it expects what it rebuilds from the embedding of a spectrum."""

    encoder: Encoder
    modality: str
    device: str

    def __call__(self, spectra: Sample, ordinary: Sample) -> np.ndarray:
        """Return the rebuilt flux (n, p), float32."""
        import torch

        model = self.encoder.model
        assert isinstance(model, ClipModel)
        found = self.encoder.encode(spectra.flux, self.modality, device=self.device, normalise=False)
        with torch.inference_mode():
            embeddings = {name: torch.from_numpy(value) for name, value in found.items()}
            rebuilt = model.reconstruct(embeddings, self.modality).cpu().numpy()
        if self.modality == "lamost_lrs":  # its decoder gives standardised spectra
            spread, mean = spectra.flux.std(axis=1, keepdims=True), spectra.flux.mean(axis=1, keepdims=True)
            rebuilt = rebuilt * spread + mean
        return rebuilt.astype(np.float32)


class DecoderResidual:
    """The same with the encoder's own decoder instead of principal components."""

    name = "decoder_residual"
    title = "the encoder's decoder does not rebuild it"
    needs = ("spectra", "decoder")
    votes = False

    def fit(self, survey: Survey) -> FittedScore:
        """Measure how well ordinary spectra are rebuilt."""
        encoder = loaded_encoder(survey)
        model = encoder.model
        if not isinstance(model, ClipModel) or not model.config.reconstructs:
            raise Unavailable(f"encoder {encoder.name} has no decoder that rebuilds spectra")
        rule = Decoded(encoder, survey.modality, survey.db.device)
        fitted = Expectation.fit(survey.sample, rule, survey.settings.rank)

        def score(block: Block) -> np.ndarray:
            return fitted(block.spectra).chi2

        return score
