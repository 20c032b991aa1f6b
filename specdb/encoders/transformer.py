"""The masked transformer that both modalities share: pre-norm blocks with one peculiarity in the attention.

The peculiarity is kept because the published weights were trained with it: the query is multiplied by ``head_dim ** -0.5``
and the attention divides by ``sqrt(head_dim)`` once more, so the softmax sees ``q . k / head_dim``.

B spectra, T tokens, F features per token, W width, H heads, D = W / H.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specdb.encoders.config import LrsTransformerConfig, XpTransformerConfig

__all__ = ["Block", "MaskedTransformer", "SelfAttention", "masked_reconstruction_loss", "standardise"]

#: Smallest standard deviation that a spectrum is divided by. Prepared spectra are of order one, so this is the rounding of
#: float32: a flat spectrum gives zeros instead of NaN, and no other spectrum is changed.
STD_FLOOR = 1e-6


def standardise(flux: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring each spectrum to mean 0 and standard deviation 1.

    Parameters
    ----------
    flux : Tensor (B, n_pixels), float32

    Returns
    -------
    mean, std : Tensor (B, 1)
        The standard deviation is the unbiased one (divisor n - 1), at least `STD_FLOOR`.
    z : Tensor (B, n_pixels)
    """
    std, mean = torch.std_mean(flux, dim=1, keepdim=True)
    std = std.clamp_min(STD_FLOOR)
    return mean, std, (flux - mean) / std


class SelfAttention(nn.Module):
    """Multi-head self-attention with the scale applied twice (see the head of this module)."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(width, width)
        self.kv_proj = nn.Linear(width, 2 * width)  # keys first, values second
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Let the tokens (B, T, W) attend to one another."""
        B, T, W = x.shape
        head_dim = W // self.n_heads
        heads = (B, T, self.n_heads, head_dim)
        q = self.q_proj(x).view(heads).transpose(1, 2)  # (B, H, T, D)
        k, v = (a.view(heads).transpose(1, 2) for a in self.kv_proj(x).chunk(2, dim=-1))  # (B, H, T, D) each
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0, scale=1 / head_dim)
        return self.out_proj(y.transpose(1, 2).reshape(B, T, W))  # (B, T, W)


class Block(nn.Module):
    """LayerNorm, attention, residual; LayerNorm, MLP, residual."""

    def __init__(self, width: int, n_heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(width, n_heads, dropout)
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pass tokens (B, T, W) through the block."""
        x = x + self.attention(self.ln1(x))  # (B, T, W)
        return x + self.mlp(self.ln2(x))  # (B, T, W)


class MaskedTransformer(nn.Module):
    """Tokens of a spectrum to embeddings of its tokens, and back.

    Subclasses say how a spectrum is cut into tokens (`tokens`).
    """

    def __init__(self, config: LrsTransformerConfig | XpTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.data_embed = nn.Linear(config.n_features, config.width)
        self.position_embed = nn.Embedding(config.n_positions, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.n_heads, config.mlp_ratio, config.dropout) for _ in range(config.n_layers)
        )
        self.final_layernorm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.n_features)
        self._initialise()

    def _initialise(self) -> None:
        """Start all weights from N(0, 0.02), the layers that write to the residual stream reduced by its depth (GPT-2)."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim == 2:
                to_residual = name.endswith(("out_proj.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * self.config.n_layers) ** 0.5 if to_residual else 0.02)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The one modality it encodes."""
        return (self.config.modality,)

    def outputs(self, modality: str) -> dict[str, int]:
        """Return the dimension of each embedding."""
        return {"shared": self.config.width}

    def tokens(self, flux: Tensor) -> Tensor:
        """Cut spectra (B, n_pixels) into tokens (B, T, F)."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode tokens.

        Parameters
        ----------
        tokens : Tensor (B, T, F)
        mask : Tensor (B, T), bool, optional
            True hides a token: all its features become zero.

        Returns
        -------
        Tensor (B, T, W)
            After the last LayerNorm, float32.
        """
        if mask is not None:
            tokens = tokens.masked_fill(mask[..., None], 0.0)
        x = self.data_embed(tokens) + self.position_embed.weight[: tokens.shape[1]]  # (B, T, W)
        x = x.to(next(self.blocks.parameters()).dtype)  # bfloat16 when the blocks are (see `set_precision`)
        for block in self.blocks:
            x = block(x)  # (B, T, W)
        return self.final_layernorm(x.to(self.final_layernorm.weight.dtype))

    def set_precision(self, dtype: torch.dtype) -> None:
        """Run the blocks, which do nearly all the work, in another precision; first and last layers keep their own."""
        self.blocks.to(dtype)

    def reconstruct(self, embedding: Tensor) -> Tensor:
        """Predict tokens (B, T, F) from the embedding (B, T, W)."""
        return self.head(embedding)

    def embed(self, flux: Tensor, modality: str) -> dict[str, Tensor]:
        """Return the mean over all tokens, the statistics token included, as the embedding ``shared`` (B, W)."""
        return {"shared": self(self.tokens(flux)).mean(dim=1)}

    def random_mask(self, n: int, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
        """Hide runs of tokens at random, as SpecFormer does (Parker et al. 2024, MNRAS 531, 4990).

        The tokens behind the statistics token, which stays visible, are divided into `mask_chunks` equal parts; in each part
        one run of `mask_chunk_width` tokens is hidden.

        Parameters
        ----------
        n : int
            Number of spectra; each gets a mask of its own.
        generator : torch.Generator, optional
        device : torch.device, optional

        Returns
        -------
        Tensor (n, T), bool
        """
        c = self.config
        part = (c.n_tokens - 1) // c.mask_chunks
        width = min(c.mask_chunk_width, part)
        jitter = torch.randint(part - width + 1, (n, c.mask_chunks), generator=generator, device=device)
        start = 1 + part * torch.arange(c.mask_chunks, device=device) + jitter  # (n, chunks)
        distance = torch.arange(c.n_tokens, device=device) - start[..., None]  # (n, chunks, T)
        return ((distance >= 0) & (distance < width)).any(dim=1)  # (n, T)


def masked_reconstruction_loss(reconstruction: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error over the hidden tokens.

    Parameters
    ----------
    reconstruction, tokens : Tensor (B, T, F)
    mask : Tensor (B, T), bool
        True where a token was hidden.

    Returns
    -------
    Tensor ()
    """
    error = F.mse_loss(reconstruction, tokens, reduction="none").mean(dim=-1)  # (B, T)
    return (error * mask).sum() / mask.sum().clamp_min(1)
