"""Keeping the index of a modality's embeddings in step with the embeddings."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from specdb.errors import DatabaseError, ProvenanceError
from specdb.search import VectorIndex
from specdb.store import Store, Writer, disk_errors

__all__ = ["IndexReport", "IndexSettings", "update_index"]


@dataclass(frozen=True)
class IndexSettings:
    """What kind of index is asked for.

    Attributes
    ----------
    kind : str
        ``auto`` or the name of an index kind.
    recall : float
        recall@10 that the certificate must reach.
    on_shortfall : str
        ``step-up`` to the next kind, or ``fail``.
    seed : int
    """

    kind: str = "auto"
    recall: float = 0.99
    on_shortfall: Literal["step-up", "fail"] = "step-up"
    seed: int = 0


@dataclass(frozen=True)
class IndexReport:
    """What was done: ``built``, ``extended``, ``rebuilt`` or ``unchanged``, and the index as it stands."""

    action: str
    index: VectorIndex


def update_index(
    writer: Writer,
    modality: str,
    encoder: str,
    weight_hash: str,
    settings: IndexSettings | None = None,
    rebuild: bool = False,
) -> IndexReport:
    """Build the index over one modality's embeddings, or extend it by the rows that it lacks.

    Parameters
    ----------
    writer : Writer
    modality : str
    encoder, weight_hash : str
        Whose embeddings; an index over others is replaced.
    settings : IndexSettings, optional
    rebuild : bool
        Build from scratch even if the index is complete.

    Raises
    ------
    DatabaseError
        When there are no embeddings.
    RecallError
        When no allowed kind reaches the asked recall.
    """
    settings = settings or IndexSettings()
    store = writer.store
    folder = store.index_folder(encoder, modality)
    provenance = {"kind": "index", "modality": modality, "encoder": encoder, "weight_hash": weight_hash, "output": "shared"}
    rows = _count(store, encoder, modality)
    if rows == 0:
        raise DatabaseError(f"{modality} has no embeddings by {encoder} yet; run `specdb embed` first")

    index = None if rebuild else _usable(folder, provenance, settings)
    if index is not None and len(index) <= rows:
        if len(index) == rows:
            _register(writer, encoder, modality, rows, provenance)
            return IndexReport("unchanged", index)
        action = "rebuilt" if index.append(*_rows_from(store, encoder, modality, len(index))).rebuilt else "extended"
    else:
        with tempfile.TemporaryDirectory(dir=store.root, prefix=".tmp-") as scratch:
            vectors, ids = _gather(store, encoder, modality, rows, Path(scratch))
            index = VectorIndex.build(
                vectors,
                ids,
                folder,
                kind=settings.kind,
                recall=settings.recall,
                on_shortfall=settings.on_shortfall,
                seed=settings.seed,
                provenance=provenance,
            )
        action = "built"
    _register(writer, encoder, modality, rows, provenance)
    return IndexReport(action, index)


def _register(writer: Writer, encoder: str, modality: str, rows: int, provenance: dict[str, Any]) -> None:
    name = f"index/{encoder}/{modality}/index.json"
    entry = writer.store.manifest().files.get(name)
    if entry is None or not writer.store.matches(name, entry):
        writer.commit_index(encoder, modality, rows, provenance)


def _usable(folder: Path, provenance: dict[str, Any], settings: IndexSettings) -> VectorIndex | None:
    """Open the index that is there if it is sound and what is asked for."""
    if not (folder / "index.json").exists():
        return None
    try:
        index = VectorIndex.open(folder, expected_provenance=provenance)
    except (DatabaseError, ProvenanceError):
        return None  # a damaged or foreign index is a cache that went bad: it is built again
    made = index.card.options
    return index if (made.kind, made.recall) == (settings.kind, settings.recall) else None


def _count(store: Store, encoder: str, modality: str) -> int:
    return sum(entry.rows for _, entry in store.manifest().under(f"embeddings/{encoder}/{modality}"))


def _rows_from(store: Store, encoder: str, modality: str, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (vectors, ids) of the rows from `first` on."""
    vectors, ids, seen = [], [], 0
    for part_ids, part_vectors in store.vectors(encoder, modality):
        skip = max(first - seen, 0)
        seen += len(part_ids)
        if skip < len(part_ids):
            vectors.append(part_vectors[skip:])
            ids.append(part_ids[skip:])
    return np.concatenate(vectors), np.concatenate(ids)


def _gather(store: Store, encoder: str, modality: str, rows: int, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    """Copy all vectors into one file, part by part, and map it: memory does not grow with the survey."""
    ids = np.empty(rows, np.int64)
    start = dimension = 0
    path = scratch / "vectors.f32"
    # Written, not mapped, since a full disk kills a process that writes to a map without a word.
    with disk_errors(path), path.open("wb") as file:
        for part_ids, part_vectors in store.vectors(encoder, modality):
            ids[start : start + len(part_ids)] = part_ids
            file.write(np.ascontiguousarray(part_vectors).data)
            start, dimension = start + len(part_ids), part_vectors.shape[1]
    return np.memmap(path, np.float32, "r", shape=(rows, dimension)), ids
