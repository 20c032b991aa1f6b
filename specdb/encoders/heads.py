"""From backbones to embeddings and from embeddings back to spectra: the parts that the CLIP models add.

B spectra, T tokens, W width of the backbone, E dimension of the embedding, H heads, D = E / H.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdb.encoders.config import HeadConfig, LrsTransformerConfig, XpAutoencoderConfig
from specdb.encoders.lrs import LrsTransformer
from specdb.encoders.xp import XpAutoencoder

__all__ = ["LrsHead", "SplitDecoder", "VectorDecoder", "XpHead"]


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, ratio * width)
        self.activation = nn.GELU()
        self.decoder = nn.Linear(ratio * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.decoder(self.activation(self.encoder(x))))


class AttentionPool(nn.Module):
    """One learned query attends to all tokens; then LayerNorm. No residual to the query.

    `nn.MultiheadAttention` holds the parameters under their official names, but its forward is not used. As there is a
    single query, the same for all spectra, the key matrix can be applied to the query instead of to every token, and the
    value matrix to the weighted mean of the tokens: ``q . (K x) = (K' q) . x``, ``sum a_t (V x_t) = V (sum a_t x_t)``.
    This is exact and T times cheaper. The bias of the keys adds one number to all scores of a softmax and drops out.
    """

    def __init__(self, width: int, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.multihead_attn = nn.MultiheadAttention(dim, n_heads, kdim=width, vdim=width, batch_first=True)
        self.layernorm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def _projections(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query (E, E), key (E, W) and value (E, W) matrices; torch fuses them where E = W."""
        a = self.multihead_attn
        if a.in_proj_weight is None:
            return a.q_proj_weight, a.k_proj_weight, a.v_proj_weight
        q, k, v = a.in_proj_weight.chunk(3)
        return q, k, v

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens (B, T, W) into (B, E)."""
        a = self.multihead_attn
        W, H, D = tokens.shape[-1], a.num_heads, a.head_dim
        wq, wk, wv = self._projections()
        bq, _, bv = a.in_proj_bias.chunk(3)
        q = (wq @ self.query[0, 0] + bq).view(H, 1, D) * D**-0.5  # (H, 1, D)
        k = (q @ wk.view(H, D, W))[:, 0]  # (H, W)
        weights = self.dropout((tokens @ k.T).softmax(dim=1))  # (B, T, H)
        mean = weights.transpose(1, 2) @ tokens  # (B, H, W)
        values = torch.einsum("bhw,hdw->bhd", mean, wv.view(H, D, W)).flatten(1) + bv  # (B, E)
        return self.layernorm(a.out_proj(values))  # (B, E)


class LrsHead(nn.Module):
    """LAMOST LRS backbone, attention pooling, MLP: one embedding, or a shared and a private one side by side."""

    def __init__(self, backbone: LrsTransformerConfig, head: HeadConfig) -> None:
        super().__init__()
        self.backbone = LrsTransformer(backbone)
        if head.private:
            self.shared_attention = AttentionPool(backbone.width, head.shared, head.n_heads, head.dropout)
            self.shared_mlp = Mlp(head.shared, head.mlp_ratio, head.dropout)
            self.private_attention = AttentionPool(backbone.width, head.private, max(head.n_heads // 2, 1), head.dropout)
            self.private_mlp = Mlp(head.private, head.mlp_ratio, head.dropout)
        else:
            self.cross_attention = AttentionPool(backbone.width, head.shared, head.n_heads, head.dropout)
            self.mlp = Mlp(head.shared, head.mlp_ratio, head.dropout)
        self.split = bool(head.private)

    def project(self, tokens: Tensor) -> dict[str, Tensor]:
        """Map token embeddings (B, T, W) of the backbone to embeddings (B, E)."""
        if not self.split:
            x = self.cross_attention(tokens)  # (B, shared)
            return {"shared": x + self.mlp(x)}
        shared, private = self.shared_attention(tokens), self.private_attention(tokens)
        return {"shared": shared + self.shared_mlp(shared), "private": private + self.private_mlp(private)}

    def forward(self, flux: Tensor) -> dict[str, Tensor]:
        """Map spectra (B, n_pixels) to embeddings: ``shared`` (B, E) and, in a split model, ``private`` (B, E')."""
        return self.project(self.backbone(self.backbone.tokens(flux)))


class XpHead(nn.Module):
    """Gaia XP auto-encoder, projection, feature MLP, MLP: one embedding, or a shared and a private one side by side."""

    def __init__(self, backbone: XpAutoencoderConfig, head: HeadConfig) -> None:
        super().__init__()

        def features(dim: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(dim, head.xp_inner),
                nn.LayerNorm(head.xp_inner),
                nn.GELU(),
                nn.Linear(head.xp_inner, dim),
                nn.LayerNorm(dim),
                nn.Dropout(head.dropout),
            )

        self.backbone = XpAutoencoder(backbone)
        if head.private:
            self.shared_projection = nn.Linear(backbone.latent, head.shared)
            self.shared_feature_mlp = features(head.shared)
            self.private_projection = nn.Linear(backbone.latent, head.private)
            self.private_feature_mlp = features(head.private)
            self.shared_mlp = Mlp(head.shared, head.mlp_ratio, head.dropout)
            self.private_mlp = Mlp(head.private, head.mlp_ratio, head.dropout)
        else:
            self.projection = nn.Linear(backbone.latent, head.shared)
            self.feature_mlp = features(head.shared)
            self.mlp = Mlp(head.shared, head.mlp_ratio, head.dropout)
        self.split = bool(head.private)

    def project(self, latent: Tensor) -> dict[str, Tensor]:
        """Map the latent (B, latent) of the backbone to embeddings (B, E)."""
        if not self.split:
            x = self.feature_mlp(self.projection(latent))  # (B, shared)
            return {"shared": x + self.mlp(x)}
        shared = self.shared_feature_mlp(self.shared_projection(latent))  # (B, shared)
        private = self.private_feature_mlp(self.private_projection(latent))  # (B, private)
        return {"shared": shared + self.shared_mlp(shared), "private": private + self.private_mlp(private)}

    def forward(self, flux: Tensor) -> dict[str, Tensor]:
        """Map spectra (B, n_pixels) to embeddings: ``shared`` (B, E) and, in a split model, ``private`` (B, E')."""
        return self.project(self.backbone(self.backbone.tokens(flux)))


class VectorDecoder(nn.Module):
    """An embedding to a spectrum: three times Linear, GELU, BatchNorm, Dropout; then Linear."""

    def __init__(self, dim: int, hidden: tuple[int, int, int], n_pixels: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in zip((dim, *hidden), hidden, strict=False):
            layers += [nn.Linear(n_in, n_out), nn.GELU(), nn.BatchNorm1d(n_out), nn.Dropout(dropout)]
        self.decoder = nn.Sequential(*layers, nn.Linear(hidden[-1], n_pixels))

    def forward(self, shared: Tensor, private: Tensor | None = None) -> Tensor:
        """Decode the shared embeddings (B, d); a private part is not used."""
        return self.decoder(shared)  # (B, n_pixels)


class SplitDecoder(nn.Module):
    """A shared and a private embedding to the spectrum they came from; `width` is the spectrum's length where not given."""

    def __init__(self, shared: int, private: int, n_pixels: int, width: int | None = None) -> None:
        super().__init__()
        n = width or n_pixels
        self.shared_proj = nn.Linear(shared, n)
        self.private_proj = nn.Linear(private, n)
        self.final_layer = nn.Sequential(nn.Linear(2 * n, 2 * n), nn.GELU(), nn.Linear(2 * n, n_pixels))

    def forward(self, shared: Tensor, private: Tensor) -> Tensor:
        """Decode shared (B, d) and private (B, d') embeddings."""
        both = torch.cat([self.shared_proj(shared), self.private_proj(private)], dim=1)  # (B, 2 width)
        return self.final_layer(both)  # (B, n_pixels)
