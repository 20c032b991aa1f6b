"""From a configuration to a model with fresh weights."""

from __future__ import annotations

from specdb.encoders.clip import ClipModel
from specdb.encoders.config import (
    ClipConfig,
    Config,
    LrsTransformerConfig,
    MlpHeadConfig,
    XpAutoencoderConfig,
    XpTransformerConfig,
)
from specdb.encoders.lrs import LrsTransformer
from specdb.encoders.mlp_head import MlpHead
from specdb.encoders.xp import XpAutoencoder, XpTransformer

__all__ = ["Model", "build"]

Model = LrsTransformer | XpTransformer | XpAutoencoder | ClipModel | MlpHead


def build(config: Config) -> Model:
    """Return a model of that architecture with random weights (torch's global generator), in training mode."""
    match config:
        case LrsTransformerConfig():
            return LrsTransformer(config)
        case XpTransformerConfig():
            return XpTransformer(config)
        case XpAutoencoderConfig():
            return XpAutoencoder(config)
        case ClipConfig():
            return ClipModel(config)
        case MlpHeadConfig():
            return MlpHead(config)
