"""Keeping the index of a modality's embeddings in step with the embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from specdb.errors import DatabaseError, ProvenanceError
from specdb.search import BuildOptions, VectorIndex, plan_index
from specdb.store import Store, Writer, matrix, read_table

__all__ = ["IndexReport", "IndexSettings", "update_index"]

#: Parts of another modality's embeddings that queries are drawn from.
_QUERY_PARTS = 8


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
    memory_bytes : int, optional
        What the index may occupy in memory; a quarter of the machine's by default.
    """

    kind: str = "auto"
    recall: float = 0.99
    on_shortfall: Literal["step-up", "fail"] = "step-up"
    seed: int = 0
    memory_bytes: int | None = None

    def options(self) -> BuildOptions:
        """Return the same for the index itself."""
        return BuildOptions(self.kind, self.recall, self.seed, self.on_shortfall, self.memory_bytes)


@dataclass(frozen=True)
class IndexReport:
    """What was done and the index as it stands.

    Attributes
    ----------
    action : {"built", "extended", "rebuilt", "compacted", "certified", "unchanged"}
    index : VectorIndex
    """

    action: str
    index: VectorIndex


def update_index(
    writer: Writer,
    modality: str,
    encoder: str,
    weight_hash: str,
    settings: IndexSettings | None = None,
    rebuild: bool = False,
    announce: Callable[[str], None] | None = None,
) -> IndexReport:
    """Build the index over one modality's embeddings, or bring it up to date with them.

    Which embeddings an index holds is known by their parts: parts that came later are appended, and where parts were
    rewritten without deleted spectra these are dropped. Anything else means building anew.

    Parameters
    ----------
    writer : Writer
    modality : str
    encoder, weight_hash : str
        Whose embeddings; an index over others is replaced.
    settings : IndexSettings, optional
    rebuild : bool
        Build from scratch even if the index is complete.
    announce : callable, optional
        Told, before a build begins, what is going to be built, why, and what it costs.

    Raises
    ------
    DatabaseError
        When there are no embeddings.
    RecallError
        When no allowed kind reaches the asked recall.
    """
    settings = settings or IndexSettings()
    store = writer.store
    parts = _parts(store, encoder, modality)
    rows = sum(parts.values())
    if rows == 0:
        raise DatabaseError(f"{modality} has no embeddings by {encoder} yet; run `specdb embed` first")
    provenance = {"kind": "index", "modality": modality, "encoder": encoder, "weight_hash": weight_hash, "output": "shared"}
    recorded = provenance | {"parts": parts}

    index = None if rebuild else _usable(store.index_folder(encoder, modality), provenance, settings)
    cross = _cross_queries(store, encoder, modality, weight_hash, settings.options())
    action = None if index is None else _bring_up_to_date(index, store, encoder, modality, recorded, cross)
    if index is None or action is None:
        if announce is not None:
            dimension = _dimension(store, encoder, modality)
            announce(str(plan_index(rows, dimension, settings.kind, settings.memory_bytes, settings.recall)))
        index = VectorIndex.build_from(
            _rows(store, encoder, modality, list(parts)),
            store.index_folder(encoder, modality),
            provenance=recorded,
            options=settings.options(),
            cross=cross,
        )
        action = "built"
    _register(writer, encoder, modality, rows, provenance)
    return IndexReport(action, index)


def _bring_up_to_date(
    index: VectorIndex,
    store: Store,
    encoder: str,
    modality: str,
    recorded: dict[str, Any],
    cross: dict[str, np.ndarray],
) -> str | None:
    """Append, drop or certify what is missing, and say what was done; None where the index must be built anew."""
    held, parts = index.card.provenance.get("parts", {}), recorded["parts"]
    known = list(held.items())
    if known == list(parts.items())[: len(known)]:
        if len(known) < len(parts):
            ids, vectors = zip(*_rows(store, encoder, modality, list(parts)[len(known) :]), strict=True)
            changed = index.append(np.concatenate(vectors), np.concatenate(ids), provenance=recorded, cross=cross)
            return "rebuilt" if changed.rebuilt else "extended"
        if set(cross) - set(index.card.cross):
            return "rebuilt" if index.certify(cross).rebuilt else "certified"
        return "unchanged"
    stored = store.embedded_ids(encoder, modality)
    if len(stored) and np.array_equal(index.ids[np.isin(index.ids, stored)], stored):
        index.drop(np.setdiff1d(index.ids, stored), provenance=recorded)
        return "compacted"
    return None


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


# -- embeddings --------------------------------------------------------------------------------------------------------


def _parts(store: Store, encoder: str, modality: str) -> dict[str, int]:
    """Return the embeddings' parts in order, with their rows."""
    return {name.rsplit("/", 1)[1]: e.rows for name, e in store.manifest().under(f"embeddings/{encoder}/{modality}")}


def _rows(store: Store, encoder: str, modality: str, parts: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (ids, vectors) of some parts."""
    for part in parts:
        table = read_table(store.root / f"embeddings/{encoder}/{modality}/{part}", ["spectrum_id", "shared"])
        yield table["spectrum_id"].to_numpy(), matrix(table["shared"])


def _dimension(store: Store, encoder: str, modality: str) -> int:
    return next(_rows(store, encoder, modality, list(_parts(store, encoder, modality))[:1]))[1].shape[1]


def _cross_queries(
    store: Store, encoder: str, modality: str, weight_hash: str, options: BuildOptions
) -> dict[str, np.ndarray]:
    """Draw embeddings of the other modalities by the same weights: the queries of cross-modal search.

    They come from a few parts drawn at random, so that drawing them does not read everything.
    """
    found = {}
    for other in store.modalities():
        parts = store.embedding_parts(encoder, other)
        if other == modality or not parts or store.provenance(parts[0])["weight_hash"] != weight_hash:
            continue
        rng = np.random.default_rng((options.seed, 2))
        chosen = [parts[i].rsplit("/", 1)[1] for i in sorted(rng.permutation(len(parts))[:_QUERY_PARTS])]
        vectors = np.concatenate([rows for _, rows in _rows(store, encoder, other, chosen)])
        drawn = rng.permutation(len(vectors))[: 2 * options.queries]
        if len(drawn) > 1:
            found[other] = np.ascontiguousarray(vectors[drawn])
    return found
