"""The SpecCLIP family of encoders: models, weights, and the registry of named encoders.

Names are loaded on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "ClipConfig": "config",
    "ClipModel": "clip",
    "DecoderConfig": "config",
    "HeadConfig": "config",
    "LrsTransformer": "lrs",
    "LrsTransformerConfig": "config",
    "MlpHead": "mlp_head",
    "MlpHeadConfig": "config",
    "XpAutoencoder": "xp",
    "XpAutoencoderConfig": "config",
    "XpTransformer": "xp",
    "XpTransformerConfig": "config",
    "build": "models",
    "contrastive_logits": "clip",
    "contrastive_loss": "clip",
    "masked_reconstruction_loss": "transformer",
    "standardise": "transformer",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(_HOME)
