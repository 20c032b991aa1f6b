"""Named encoders: those that ship, those that were imported or pulled, and any folder.

Shipped ones lie in `encoders/<name>/` of `specdb.shipped.data_folder()`, the user's own in that of `user_folder()`.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from specdb.encoders.card import CARD_FILE, Card, load_card
from specdb.encoders.config import MlpHeadConfig
from specdb.errors import CheckpointError, InputError
from specdb.shipped import data_folder

if TYPE_CHECKING:
    from specdb.encoders.encoder import Encoder

__all__ = ["EncoderEntry", "default_encoder_name", "encoder_folder", "list_encoders", "load_encoder", "user_folder"]

default_encoder_name = "specclip-mini"


@dataclass(frozen=True)
class EncoderEntry:
    """One line of `specdb encoders list`.

    Attributes
    ----------
    name : str
    origin : {"shipped", "user"}
    folder : Path
    card : Card or None
        None when it cannot be read; `problem` then says why.
    problem : str
    """

    name: str
    origin: str
    folder: Path
    card: Card | None
    problem: str = ""


def shipped_folder() -> Path:
    """Return the folder of the encoders that ship with specdb."""
    return data_folder() / "encoders"


def user_folder() -> Path:
    """Return the folder of the user's own encoders.

    It is `encoders` below the environment variable SPECDB_HOME or, without it, below the platform's cache folder for specdb
    (Linux: `~/.cache/specdb`, or `$XDG_CACHE_HOME/specdb`).
    """
    if home := os.environ.get("SPECDB_HOME"):
        return Path(home).expanduser() / "encoders"
    if sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "specdb" / "encoders"


def list_encoders() -> list[EncoderEntry]:
    """Return all named encoders, shipped ones first; a name that ships hides the user's own of that name."""
    entries: dict[str, EncoderEntry] = {}
    for origin, root in (("shipped", shipped_folder()), ("user", user_folder())):
        for path in sorted(root.glob(f"*/{CARD_FILE}")):
            folder = path.parent
            try:
                entry = EncoderEntry(folder.name, origin, folder, load_card(folder))
            except CheckpointError as error:
                entry = EncoderEntry(folder.name, origin, folder, None, str(error))
            entries.setdefault(folder.name, entry)
    return list(entries.values())


def encoder_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a named encoder, or the path itself if it is one.

    Raises
    ------
    InputError
        When there is no such encoder; lists the known ones and says how to get the official ones.
    """
    entries = list_encoders()
    for entry in entries:
        if entry.name == str(name_or_path):
            return entry.folder
    path = Path(name_or_path).expanduser()
    if (path / CARD_FILE).is_file():
        return path
    known = ", ".join(entry.name for entry in entries) or "none"
    raise InputError(
        f"no encoder is called {str(name_or_path)!r}, and it is not a folder with {CARD_FILE}; known encoders: {known}. "
        "`specdb encoders pull specclip-split` fetches an official one, `specdb encoders import FILE.ckpt` converts a file"
    )


def load_encoder(name_or_path: str | Path = default_encoder_name) -> Encoder:
    """Load an encoder by name or from a folder.

    Raises
    ------
    InputError
        When there is no such encoder.
    CheckpointError
        When its files are damaged, or hold a parameter head instead of an encoder.
    """
    from specdb.encoders.card import load_model
    from specdb.encoders.encoder import Encoder
    from specdb.encoders.mlp_head import MlpHead

    folder = encoder_folder(name_or_path)
    card = load_card(folder)
    if isinstance(card.config, MlpHeadConfig):
        raise CheckpointError(f"{folder} holds a parameter head (embedding to labels), not an encoder")
    model, card = load_model(folder)
    assert not isinstance(model, MlpHead)
    return Encoder(model, card)
