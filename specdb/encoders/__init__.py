"""The SpecCLIP family of encoders: models, weights, and the registry of named encoders.

Names are loaded on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Card": "card",
    "ClipConfig": "config",
    "ClipModel": "clip",
    "DecoderConfig": "config",
    "Encoder": "encoder",
    "EncoderEntry": "registry",
    "HeadConfig": "config",
    "LrsTransformer": "lrs",
    "LrsTransformerConfig": "config",
    "MlpHead": "mlp_head",
    "MlpHeadConfig": "config",
    "OFFICIAL_ENCODERS": "hub",
    "XpAutoencoder": "xp",
    "XpAutoencoderConfig": "config",
    "XpTransformer": "xp",
    "XpTransformerConfig": "config",
    "build": "models",
    "contrastive_logits": "clip",
    "contrastive_loss": "clip",
    "default_encoder_name": "registry",
    "encoder_folder": "registry",
    "import_checkpoint": "checkpoint",
    "list_encoders": "registry",
    "load_card": "card",
    "load_encoder": "registry",
    "load_model": "card",
    "masked_reconstruction_loss": "transformer",
    "pull": "hub",
    "save_model": "card",
    "standardise": "transformer",
    "user_folder": "registry",
    "weight_hash": "card",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(_HOME)
