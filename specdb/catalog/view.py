"""One name that a query can use: a view over the database's files, with a comment, and units per column."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.dataset as ds

from specdb.store import Store, open_parts

__all__ = ["Opened", "Opener", "View", "opened_ids", "opened_parts", "quoted", "without_deleted"]

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
    narrow : dict
        Hidden name -> how to open it without its vectors, for statements that name none of the columns in `wide`.
    wide : frozenset of str
    """

    name: str
    comment: str
    sources: dict[str, Opener]
    sql: str
    notes: dict[str, dict[str, str]] = field(default_factory=dict)
    narrow: dict[str, Opener] = field(default_factory=dict)
    wide: frozenset[str] = frozenset()

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


def without_deleted(store: Store, view: View, modalities: Iterable[str], column: str = "spectrum_id") -> View:
    """Return a view that leaves out what was deleted and is still in the files; the view itself where nothing was."""
    for modality in modalities:
        if len(gone := store.deleted(modality)):
            hidden = f"deleted/{modality}"
            opener = partial(pa.table, {"gone": gone})
            sql = f"SELECT * FROM ({view.sql}) v ANTI JOIN {quoted(hidden)} d ON v.{quoted(column)} = d.gone"
            view = replace(view, sql=sql, sources=view.sources | {hidden: opener})
    return view


def opened_ids(store: Store, parts: list[str]) -> pa.Table:
    """Return the spectrum_ids of committed files, which stay in memory for the next question: 8 bytes each."""
    files = store.manifest().files
    return _ids(store.root, tuple((part, files[part].sha256) for part in parts))


@lru_cache(maxsize=8)
def _ids(root: Path, parts: tuple[tuple[str, str], ...]) -> pa.Table:
    return _open(root, parts).to_table(columns=["spectrum_id"]).combine_chunks()


@lru_cache(maxsize=256)
def _open(root: Path, parts: tuple[tuple[str, str], ...]) -> ds.Dataset:
    return open_parts(root, [name for name, _ in parts])
