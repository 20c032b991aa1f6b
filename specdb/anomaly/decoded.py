"""Expected spectra from the encoder's own decoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specdb.anomaly.expected import Sample
from specdb.encoders import Encoder
from specdb.encoders.clip import ClipModel

__all__ = ["Decoded"]


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
