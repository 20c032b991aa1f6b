"""Small models of every kind, for tests that need no reference data."""

from __future__ import annotations

import torch

from specdb.encoders.config import (
    ClipConfig,
    Config,
    DecoderConfig,
    HeadConfig,
    LrsTransformerConfig,
    MlpHeadConfig,
    XpAutoencoderConfig,
    XpTransformerConfig,
)
from specdb.encoders.models import Model, build

LRS = LrsTransformerConfig(width=32, n_layers=2, n_heads=2)
XP = XpAutoencoderConfig(hidden=40, latent=24)
SMALL: dict[str, Config] = {
    "lrs_mt": LRS,
    "xp_mt": XpTransformerConfig(width=16, n_layers=1, n_heads=2),
    "xp_oae": XP,
    "base": ClipConfig("base", LRS, XP, HeadConfig(16, xp_inner=20)),
    "r": ClipConfig("r", LRS, XP, HeadConfig(16, xp_inner=20), DecoderConfig(expansion=4)),
    "p": ClipConfig("p", LRS, XP, HeadConfig(16, xp_inner=20)),
    "pr": ClipConfig("pr", LRS, XP, HeadConfig(16, xp_inner=20)),
    "split": ClipConfig("split", LRS, XP, HeadConfig(16, 8, xp_inner=20)),
    "both": ClipConfig("split", LRS, XP, HeadConfig(16, 8, xp_inner=20), None),
    "split_lrs": ClipConfig("split", LRS, None, HeadConfig(16, 8), None),
    "mlp_head": MlpHeadConfig(24, (16, 8), 2),
}


def small_model(kind: str, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return build(SMALL[kind])


def spectra(n: int, n_pixels: int, seed: int = 0) -> torch.Tensor:
    return 1 + 0.1 * torch.randn(n, n_pixels, generator=torch.Generator().manual_seed(seed))
