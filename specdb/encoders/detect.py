"""Recognise an architecture and its sizes by the names and shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

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
from specdb.errors import CheckpointError

__all__ = ["detect_config"]

Shapes = Mapping[str, tuple[int, ...]]

#: Width of an attention head in all published transformers; used where a file does not state the number of heads.
HEAD_DIM = 128


def detect_config(shapes: Shapes, hyper: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration that weights belong to.

    Parameters
    ----------
    shapes : mapping of weight name to shape
    hyper : mapping, optional
        `hyper_parameters` of a Lightning checkpoint; plain numbers in it settle what shapes cannot tell (numbers of heads,
        section overlap, masking, loss weights). Official defaults stand in for what is missing.

    Raises
    ------
    CheckpointError
        When the weights belong to no known architecture.
    """
    numbers = {k: v for k, v in (hyper or {}).items() if isinstance(k, str) and isinstance(v, int | float)}
    try:
        if any(name.startswith(("gaia_xp_encoder.", "lamost_lrs_encoder.")) for name in shapes):
            return _clip(shapes, numbers)
        if "data_embed.weight" in shapes:
            return _transformer(shapes, numbers)
        if "bottleneck_down.weight" in shapes:
            return _autoencoder(shapes, numbers)
        if "network.0.weight" in shapes:
            return _mlp_head(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"the weights look like a SpecCLIP model but are not complete: no usable {error}") from error
    listed = ", ".join(sorted(shapes)[:3]) or "none"
    raise CheckpointError(
        f"the weights belong to no model of the SpecCLIP family (first names: {listed}); "
        "known: LRS and XP masked transformer, XP auto-encoder, CLIP (base, r, p, pr, split), MLP head"
    )


def _count(shapes: Shapes, pattern: str) -> int:
    """Return how many different numbers stand at the group of a pattern at the start of names."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})


def _below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _transformer(shapes: Shapes, numbers: Mapping[str, Any]) -> LrsTransformerConfig | XpTransformerConfig:
    width, n_features = shapes["data_embed.weight"]
    common: dict[str, Any] = {
        "width": width,
        "n_layers": _count(shapes, r"blocks\.(\d+)\."),
        "n_heads": int(numbers.get("num_heads", max(width // HEAD_DIM, 1))),
        "n_positions": shapes["position_embed.weight"][0],
        "mlp_ratio": shapes["blocks.0.mlp.0.weight"][0] // width,
    }
    for ours, theirs in (("mask_chunks", "mask_num_chunks"), ("mask_chunk_width", "mask_chunk_width")):
        if theirs in numbers:
            common[ours] = int(numbers[theirs])
    common["dropout"] = float(numbers.get("dropout", 0.0))
    if n_features == XpTransformerConfig.n_features:
        return XpTransformerConfig(**common)
    length = n_features - 1
    return LrsTransformerConfig(
        **common, section_length=length, section_stride=length - int(numbers.get("slice_overlap", length // 2))
    )


def _autoencoder(shapes: Shapes, numbers: Mapping[str, Any]) -> XpAutoencoderConfig:
    hidden, n_inputs = shapes["input_proj.weight"]
    return XpAutoencoderConfig(
        n_pixels=n_inputs - 2,
        hidden=hidden,
        latent=shapes["bottleneck_down.weight"][0],
        n_encoder_blocks=_count(shapes, r"encoder_blocks\.(\d+)\."),
        n_decoder_blocks=_count(shapes, r"decoder_blocks\.(\d+)\."),
        expansion=shapes["encoder_blocks.0.mlp.0.weight"][0] // hidden,
        dropout=float(numbers.get("dropout", 0.0)),
    )


def _clip(shapes: Shapes, numbers: Mapping[str, Any]) -> ClipConfig:
    xp, lrs = _below(shapes, "gaia_xp_encoder."), _below(shapes, "lamost_lrs_encoder.")
    gaia_xp = _autoencoder(_below(xp, "backbone."), {}) if xp else None
    lamost_lrs = _transformer(_below(lrs, "backbone."), {}) if lrs else None
    if isinstance(lamost_lrs, XpTransformerConfig):
        raise CheckpointError(
            "the LAMOST LRS backbone of this CLIP model takes tokens of 3 features, as a Gaia XP one would"
        )
    sizes = lrs or xp
    split = any(name.startswith("shared_") for name in sizes)
    last = "{}mlp.decoder.weight"
    shared = sizes[last.format("shared_" if split else "")][0]
    features = xp.get("shared_feature_mlp.0.weight" if split else "feature_mlp.0.weight")
    head = HeadConfig(
        shared=shared,
        private=sizes[last.format("private_")][0] if split else 0,
        n_heads=int(numbers.get("n_head", HeadConfig.n_heads)),
        mlp_ratio=sizes[last.format("shared_" if split else "")][1] // shared,
        **({"xp_inner": features[0]} if features else {}),
    )
    own = any(name.startswith(("gaia_xp_decoder.", "lamost_lrs_decoder.")) for name in shapes)
    first = next((n for n in shapes if re.fullmatch(r"\w+_decoder\.decoder\.0\.weight", n)), None)
    cross = any("_cross_decoder." in name for name in shapes)
    variant = "split" if split else {(False, False): "base", (True, False): "r", (False, True): "p"}.get((own, cross), "pr")
    decoder = DecoderConfig(expansion=shapes[first][0] // shared) if first else DecoderConfig()
    scales = {
        ours: float(numbers[theirs])
        for ours, theirs in (
            ("logit_multiplier", "temperature"),
            ("reconstruction_weight", "reconstruction_weight"),
            ("prediction_weight", "cross_modal_weight"),
        )
        if theirs in numbers
    }
    return ClipConfig(variant, lamost_lrs, gaia_xp, head, decoder if own or cross or not split else None, **scales)


def _mlp_head(shapes: Shapes) -> MlpHeadConfig:
    linear = sorted((int(name.split(".")[1]), shape) for name, shape in shapes.items() if len(shape) == 2)
    *hidden, n_outputs = (shape[0] for _, shape in linear)
    return MlpHeadConfig(n_inputs=linear[0][1][1], hidden=tuple(hidden), n_outputs=n_outputs)
