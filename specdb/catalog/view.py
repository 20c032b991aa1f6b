"""One name that a query can use: a view over the database's files, with a comment, and units per column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.dataset as ds

from specdb.store import Store, open_parts

__all__ = ["Opened", "Opener", "View", "opened_parts", "quoted"]

Opened: TypeAlias = Any  # pyarrow.dataset.Dataset or pyarrow.Table, which have no type stubs
Opener = Callable[[], Opened]


@dataclass(frozen=True)
class View:
    """One name of the session.

    Attributes
    ----------
    name, comment : str
    sources : dict
        Hidden name -> how to open what is registered under it. Their fields' metadata gives units and descriptions.
    sql : str
        The view's definition over the hidden names.
    notes : dict
        Column -> field metadata of columns that no source has.
    """

    name: str
    comment: str
    sources: dict[str, Opener]
    sql: str
    notes: dict[str, dict[str, str]] = field(default_factory=dict)

    def metadata(self) -> dict[str, dict[bytes, bytes]]:
        """Return the field metadata of its columns by name."""
        found: dict[str, dict[bytes, bytes]] = {}
        for opener in self.sources.values():
            found |= {f.name: f.metadata for f in opener().schema if f.metadata}
        return found | {name: {k.encode(): v.encode() for k, v in note.items()} for name, note in self.notes.items()}


def quoted(name: str) -> str:
    """Return an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def opened_parts(store: Store, parts: list[str]) -> ds.Dataset:
    """Open committed files as one dataset; the next session finds it open, with the footers that were read."""
    files = store.manifest().files
    return _open(store.root, tuple((part, files[part].sha256) for part in parts))


@lru_cache(maxsize=256)
def _open(root: Path, parts: tuple[tuple[str, str], ...]) -> ds.Dataset:
    return open_parts(root, [name for name, _ in parts])
