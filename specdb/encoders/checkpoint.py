"""Turn an official checkpoint into safetensors and a card, without executing anything in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specdb._version import __version__
from specdb.encoders.card import Card, require_same_shapes, save_model
from specdb.encoders.config import ClipConfig, Config
from specdb.encoders.detect import detect_config
from specdb.encoders.mlp_head import MlpHead
from specdb.encoders.models import build
from specdb.encoders.registry import shipped_folder, user_folder
from specdb.encoders.torchfile import TorchFile, as_mapping, foreign_names, is_tensor
from specdb.errors import CheckpointError, InputError
from specdb.store.files import sha256_file

__all__ = ["OFFICIAL_PREPARATION", "import_checkpoint", "read_checkpoint"]

#: The preparations that reproduce the official ones.
OFFICIAL_PREPARATION: dict[str, tuple[str, int]] = {"lamost_lrs": ("specclip-lrs", 1), "gaia_xp": ("specclip-xp", 1)}

#: Where the weights are: Lightning checkpoints, official heads; else the file itself is the dictionary of weights.
_STATE_KEYS = ("state_dict", "model_state_dict")


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Read the weights of a `.ckpt` or `.pt` file.

    Parameters
    ----------
    path : Path
        A Lightning checkpoint, a dictionary of weights, or one under `model_state_dict`; in either layout of `torch.save`.

    Returns
    -------
    weights : dict of name to Tensor
        Floating-point weights as float32.
    hyper_parameters : dict
        As plain data; foreign objects in it are inert records.
    foreign : list of str
        Names of the classes and functions that the file wanted to import and did not get.

    Raises
    ------
    CheckpointError
        When the file is damaged or holds no dictionary of weights.
    """
    with TorchFile(path) as file:
        content = as_mapping(file.content) or {}
        found = next((content[key] for key in _STATE_KEYS if key in content), content)
        state = as_mapping(found) or {}
        tensors = {name: record for name, record in state.items() if isinstance(name, str) and is_tensor(record)}
        if not tensors:
            raise CheckpointError(
                f"{path} holds no dictionary of weights (looked for {', '.join(_STATE_KEYS)}, or tensors by name); "
                "whole pickled objects are not read"
            )
        others = [str(name) for name in state if name not in tensors]
        if others:
            raise CheckpointError(f"{path}: {len(others)} entries among the weights are no tensors ({others[0]!r}, ...)")
        weights = {}
        for name, record in tensors.items():
            tensor = file.tensor(record)
            weights[name] = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
        return weights, as_mapping(content.get("hyper_parameters")) or {}, foreign_names(file.content)


def import_checkpoint(
    path: str | Path,
    name: str,
    out_dir: str | Path | None = None,
    *,
    preparation: dict[str, tuple[str, int]] | None = None,
    licence: str = "",
    provenance: dict[str, Any] | None = None,
) -> Card:
    """Convert a checkpoint into a named encoder: `<out_dir>/<name>/model.safetensors` and `card.json`.

    Parameters
    ----------
    path : path
    name : str
        Letters, digits, ``.``, ``_`` and ``-``.
    out_dir : path, optional
        By default the user's folder of encoders.
    preparation : dict, optional
        By default the preparations that reproduce the official ones.
    licence : str
    provenance : dict, optional
        Added to what the card says about the origin.

    Returns
    -------
    Card

    Raises
    ------
    InputError
        When the name cannot be used.
    CheckpointError
        When the file is damaged, or its weights are not exactly those of a model of the SpecCLIP family.
    """
    path = Path(path)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise InputError(f"{name!r} cannot be the name of an encoder; use letters, digits, '.', '_' and '-'")
    root = user_folder() if out_dir is None else Path(out_dir)
    if out_dir is None and (shipped_folder() / name).is_dir():
        raise InputError(f"an encoder called {name!r} ships with specdb; choose another name")
    weights, hyper, foreign = read_checkpoint(path)
    config = detect_config({key: tuple(tensor.shape) for key, tensor in weights.items()}, hyper)
    with torch.device("meta"):
        model = build(config)
    require_same_shapes(model.state_dict(), weights, str(path))
    model.load_state_dict(weights, assign=True)
    modalities = () if isinstance(model, MlpHead) else model.modalities
    card = Card(
        name=name,
        config=config,
        preparation={m: (preparation or OFFICIAL_PREPARATION)[m] for m in modalities},
        title=_title(config),
        licence=licence,
        provenance={
            "file": path.name,
            "file_sha256": sha256_file(path),
            "imported_by": f"specdb {__version__}",
            "ignored_objects": foreign,
            **(provenance or {}),
        },
    )
    return save_model(root / name, model, card)


def _title(config: Config) -> str:
    kind = f"CLIP, variant {config.variant}" if isinstance(config, ClipConfig) else config.architecture
    return f"SpecCLIP family: {kind}"
