"""A saved encoder: a folder with its weights, `model.safetensors`, and `card.json`, which says where they come from.

The weights are checked against the hash on the card whenever they are loaded. Reading a card does not import torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdb.encoders.config import Config, config_from_dict, config_to_dict
from specdb.errors import CheckpointError
from specdb.store.files import atomic_path, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from specdb.encoders.models import Model

__all__ = ["CARD_FILE", "WEIGHTS_FILE", "Card", "load_card", "load_model", "save_model", "weight_hash"]

CARD_FILE = "card.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Card:
    """What is known about an encoder.

    Attributes
    ----------
    name : str
    config : Config
        Architecture and sizes; enough to build the model.
    preparation : dict of modality to (name, version)
        The preparation whose spectra the weights were trained on.
    weight_hash : str
        SHA-256 of the weights (see `weight_hash`); filled in by `save_model`.
    title, licence : str
    metric : str
        How embeddings are compared.
    training : dict
        Data, seed, settings; empty where unknown.
    metrics : dict
        Measured figures, with what they were measured on.
    provenance : dict
        Source file and its hash, revision, version of specdb, command.
    """

    name: str
    config: Config
    preparation: dict[str, tuple[str, int]] = field(default_factory=dict)
    weight_hash: str = ""
    title: str = ""
    licence: str = ""
    metric: str = "cosine"
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the card as JSON text."""
        values = asdict(self) | {"config": config_to_dict(self.config)}
        return json.dumps({"format_version": FORMAT_VERSION, **values}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> Card:
        """Undo `to_json`.

        Raises
        ------
        CheckpointError
            When the text is not a card, or one of a later version.
        """
        try:
            values = json.loads(text)
            version = values.pop("format_version")
            if version > FORMAT_VERSION:
                raise CheckpointError(
                    f"{source} has format version {version}; this specdb reads up to {FORMAT_VERSION}: update it"
                )
            values["config"] = config_from_dict(values["config"])
            values["preparation"] = {m: (str(n), int(v)) for m, (n, v) in values["preparation"].items()}
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{source} is not the card of an encoder ({error!r}); import or pull the encoder again"
            ) from error


def weight_hash(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256, as hexadecimal digits, over name, dtype, shape and little-endian bytes of all tensors by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        array = state[name].detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype.newbyteorder('<').str} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_model(folder: Path, model: Model, card: Card) -> Card:
    """Write weights and card into a folder, the card last, each file atomically.

    Returns
    -------
    Card
        As written: with the hash of the weights.

    Raises
    ------
    CheckpointError
        When the weights hold NaN or infinity, or the model is not of the card's architecture.
    """
    from dataclasses import replace

    from safetensors.torch import save_file

    if model.config != card.config:
        raise CheckpointError(f"the model's configuration {model.config} is not the card's {card.config}")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(f"{len(broken)} weights of {card.name} hold NaN or infinity ({broken[0]}, ...); not saved")
    card = replace(card, weight_hash=weight_hash(state))
    with atomic_path(folder / WEIGHTS_FILE) as temporary:
        save_file(state, temporary)
    write_text(folder / CARD_FILE, card.to_json())
    return card


def load_card(folder: Path) -> Card:
    """Read the card of a saved encoder."""
    path = folder / CARD_FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}); an encoder is a folder with {CARD_FILE} and {WEIGHTS_FILE}"
        ) from error
    return Card.from_json(text, str(path))


def load_model(folder: Path) -> tuple[Model, Card]:
    """Read a saved encoder; the model is in evaluation mode, on the CPU, and needs no gradients.

    Raises
    ------
    CheckpointError
        When a file is missing or damaged, names or shapes do not fit the card, or the hash differs.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from specdb.encoders.models import build

    card, path = load_card(folder), folder / WEIGHTS_FILE
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); import or pull {card.name} again") from error
    found = weight_hash(state)
    if found != card.weight_hash:
        raise CheckpointError(
            f"{path} has weight hash {found[:16]}, its card says {card.weight_hash[:16]}: "
            f"the file was changed or is damaged; import or pull {card.name} again"
        )
    with torch.device("meta"):
        model = build(card.config)
    require_same_shapes(model.state_dict(), state, str(path))
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False), card


def require_same_shapes(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    """Raise `CheckpointError` listing missing, unexpected and differently shaped weights, unless all agree."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not part of the model" for name in found if name not in expected]
    problems += [
        f"{name} has shape {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"the weights in {source} do not fit the architecture: {'; '.join(problems[:5])}{more}")
