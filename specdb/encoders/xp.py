"""The two Gaia XP encoders: a masked transformer (`xp_mt`) and an auto-encoder (`xp_oae`), which the CLIP models use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specdb.encoders.config import XpAutoencoderConfig, XpTransformerConfig
from specdb.encoders.transformer import MaskedTransformer, standardise

__all__ = ["XpAutoencoder", "XpTransformer"]


class XpTransformer(MaskedTransformer):
    """Tokens are single samples behind one token of statistics."""

    config: XpTransformerConfig

    def __init__(self, config: XpTransformerConfig | None = None) -> None:
        super().__init__(config or XpTransformerConfig())

    def tokens(self, flux: Tensor) -> Tensor:
        """Turn spectra (B, n_pixels) into tokens (B, n_pixels + 1, 3): [mean, std, 0], then [0, 0, z] per sample."""
        mean, std, z = standardise(flux)
        tokens = F.pad(z[..., None], (2, 0, 1, 0))  # (B, T, 3)
        tokens[:, 0, :2] = torch.cat([mean, std], dim=1)
        return tokens


class AutoencoderBlock(nn.Module):
    """LayerNorm, then an MLP, with no residual (as published)."""

    def __init__(self, width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        inner = expansion * width
        self.mlp = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm(x))  # (B, hidden)


class XpAutoencoder(nn.Module):
    """A vector [mean, std, z_0 ... z_n-1] through a bottleneck, the `latent`, and back."""

    def __init__(self, config: XpAutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or XpAutoencoderConfig()
        self.input_proj = nn.Linear(c.n_pixels + 2, c.hidden)
        self.encoder_blocks = nn.ModuleList(
            AutoencoderBlock(c.hidden, c.expansion, c.dropout) for _ in range(c.n_encoder_blocks)
        )
        self.bottleneck_down = nn.Linear(c.hidden, c.latent)
        self.bottleneck_norm = nn.LayerNorm(c.latent)
        self.bottleneck_up = nn.Linear(c.latent, c.hidden)
        self.decoder_blocks = nn.ModuleList(
            AutoencoderBlock(c.hidden, c.expansion, c.dropout) for _ in range(c.n_decoder_blocks)
        )
        self.output_proj = nn.Linear(c.hidden, c.n_pixels + 2)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The one modality it encodes."""
        return (self.config.modality,)

    def outputs(self, modality: str) -> dict[str, int]:
        """Return the dimension of each embedding."""
        return {"shared": self.config.latent}

    def tokens(self, flux: Tensor) -> Tensor:
        """Turn spectra (B, n_pixels) into vectors [mean, std, z] (B, n_pixels + 2)."""
        return torch.cat(standardise(flux), dim=1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode vectors (B, n_pixels + 2) into the latent (B, latent)."""
        x = self.input_proj(tokens)  # (B, hidden)
        for block in self.encoder_blocks:
            x = block(x)
        return self.bottleneck_norm(self.bottleneck_down(x))  # (B, latent)

    def reconstruct(self, latent: Tensor) -> Tensor:
        """Decode the latent (B, latent) into vectors (B, n_pixels + 2)."""
        x = self.bottleneck_up(latent)  # (B, hidden)
        for block in self.decoder_blocks:
            x = block(x)
        return self.output_proj(x)  # (B, n_pixels + 2)

    def embed(self, flux: Tensor, modality: str) -> dict[str, Tensor]:
        """Return the latent as the embedding ``shared`` (B, latent)."""
        return {"shared": self(self.tokens(flux))}

    def set_precision(self, dtype: torch.dtype) -> None:
        """Do nothing: 43 M multiplications per spectrum do not need a lower precision."""
