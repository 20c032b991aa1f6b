"""The LAMOST LRS masked transformer (official name `lrs_mt`)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from specdb.encoders.config import LrsTransformerConfig
from specdb.encoders.transformer import MaskedTransformer, standardise

__all__ = ["LrsTransformer"]


class LrsTransformer(MaskedTransformer):
    """Tokens are overlapping sections of a continuum-normalised spectrum behind one token of statistics."""

    config: LrsTransformerConfig

    def __init__(self, config: LrsTransformerConfig | None = None) -> None:
        super().__init__(config or LrsTransformerConfig())

    def tokens(self, flux: Tensor) -> Tensor:
        """Cut spectra into tokens.

        Feature 0 of token 0 is log10 of the standard deviation, and the rest of token 0 is zero; the other tokens are 0
        followed by the standardised pixels of one section. The last section is always dropped, as in the official code,
        so with the official sizes the last two pixels are not used. The mean is not given to the model.

        Parameters
        ----------
        flux : Tensor (B, n_pixels), float32

        Returns
        -------
        Tensor (B, T, F)
            With the official sizes (B, 146, 21).
        """
        c = self.config
        _, std, z = standardise(flux)
        sections = z.unfold(1, c.section_length, c.section_stride)[:, : c.n_tokens - 1]  # (B, T-1, F-1)
        tokens = F.pad(sections, (1, 0, 1, 0))  # (B, T, F)
        tokens[:, 0, 0] = std[:, 0].log10()
        return tokens
