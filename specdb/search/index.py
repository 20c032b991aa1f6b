"""`VectorIndex`: unit vectors under int64 ids in a directory, searched by cosine, with a measured recall.

The directory holds `index.json` (see `specdb.search.card`), the FAISS file, and the vectors and ids as plain `.npy` files
that are memory-mapped for scoring and look-up. All of it can be rebuilt from the embeddings in Parquet.

One process writes at a time (the caller holds the database's lock); any number may read meanwhile.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np

from specdb.errors import DatabaseError, InputError, QueryError
from specdb.search.build import BuildOptions, BuiltIndex, build_index, certify_index
from specdb.search.card import CARD_NAME, REBUILD, IndexCard
from specdb.search.certificate import RecallCertificate
from specdb.search.checks import as_ids, as_queries, as_rows, as_vectors
from specdb.search.exact import drop, within
from specdb.search.generation import GenerationWriter, Snapshot, open_snapshot
from specdb.search.kinds import add, choose_kind, get_kind
from specdb.search.planner import Path as SearchPath
from specdb.search.retrieve import path_of, retrieve

__all__ = ["Appended", "VectorIndex"]

#: A trained index is rebuilt when it has grown to more than this multiple of what it was trained on.
GROWTH_LIMIT = 4


@dataclass(frozen=True)
class Appended:
    """What `VectorIndex.append` did.

    Attributes
    ----------
    added, count : int
        Vectors added, and in the index now.
    rebuilt : bool
        True where the index was built from scratch rather than extended.
    why : str
        One sentence for people.
    """

    added: int
    count: int
    rebuilt: bool
    why: str


class VectorIndex:
    """A searchable set of unit vectors; make one with `build` or `open`."""

    def __init__(self, directory: Path, snapshot: Snapshot) -> None:
        self._directory = directory
        self._snapshot = snapshot

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        ids: np.ndarray,
        directory: str | Path,
        *,
        provenance: dict[str, Any],
        kind: str = "auto",
        recall: float = 0.99,
        seed: int = 0,
        on_shortfall: Literal["step-up", "fail"] = "step-up",
        memory_bytes: int | None = None,
        queries: int = 1000,
    ) -> VectorIndex:
        """Build an index in a directory, replacing the one there, if any, only when everything is in place.

        Parameters
        ----------
        vectors : ndarray or memmap (n, d), float32
            Unit vectors; a memory map is read block by block.
        ids : ndarray (n,), int64
            Distinct.
        directory : path
        provenance : dict
            JSON values, compared with what `open` expects.
        kind, recall, seed, on_shortfall, memory_bytes, queries
            See `specdb.search.BuildOptions`.

        Raises
        ------
        InputError
            For vectors, ids or options that cannot be used.
        RecallError
            See `on_shortfall`.
        DatabaseError
            Where the directory cannot be written.
        """
        options = BuildOptions(kind, recall, seed, on_shortfall, memory_bytes, queries)
        vectors = as_vectors(vectors)
        if len(vectors) == 0:
            raise InputError("there are no vectors to index; embed some spectra first (`specdb embed`)")
        ids = as_ids(ids, len(vectors))
        directory = Path(directory)
        previous = IndexCard.read(directory) if (directory / CARD_NAME).is_file() else None
        writer = GenerationWriter(directory, previous)
        cache = writer.array("vectors", [vectors], vectors.shape, np.float32)
        writer.array("ids", [ids], ids.shape, np.int64)
        built = build_index(cache, options)
        card = writer.commit(built, options, len(vectors), len(vectors), _plain(provenance))
        return cls(directory, open_snapshot(directory, card, trusted=True))

    @classmethod
    def open(
        cls, directory: str | Path, expected_provenance: dict[str, Any] | None = None, *, trusted: bool = False
    ) -> VectorIndex:
        """Open an index for searching; vectors and lists are memory-mapped and loaded as they are touched.

        Parameters
        ----------
        directory : path
        expected_provenance : dict, optional
            Values that the index must have been made from; ``dimension`` may be among them.
        trusted : bool
            Skip hashing the FAISS file. Reading a damaged or foreign one is unsafe (it can crash the process or worse), so
            by default its SHA-256 is compared with the card first, which takes up to a few seconds per GiB.

        Raises
        ------
        DatabaseError
            Where there is no index, or a file is missing or damaged.
        ProvenanceError
            Where the index was made from something else.
        """
        directory = Path(directory)
        card = IndexCard.read(directory)
        while True:
            card.check_provenance(_plain(expected_provenance or {}))
            try:
                return cls(directory, open_snapshot(directory, card, trusted=trusted))
            except FileNotFoundError as error:
                latest = IndexCard.read(directory)
                if latest.generation == card.generation:
                    raise DatabaseError(f"{error.filename} is missing from the index; {REBUILD}") from None
                card = latest  # two writes finished between reading the card and opening its files

    def __len__(self) -> int:
        return self._snapshot.card.count

    def __repr__(self) -> str:
        card = self._snapshot.card
        return f"<VectorIndex {card.kind}, {card.count} x {card.dimension}, {self._directory}>"

    @property
    def card(self) -> IndexCard:
        """Everything that is known about the index: kind, parameters, certificate, provenance, files."""
        return self._snapshot.card

    @property
    def certificate(self) -> RecallCertificate:
        """The measured recall."""
        return self._snapshot.card.certificate

    @property
    def ids(self) -> np.ndarray:
        """All ids, memory-mapped (n,), int64, in the order they were added."""
        return self._snapshot.ids

    def search(
        self, queries: np.ndarray, k: int, *, exclude_ids: np.ndarray | None = None, keep: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the k nearest vectors of each query.

        Parameters
        ----------
        queries : ndarray (m, d), float32
            Unit vectors.
        k : int
        exclude_ids : ndarray, int64, optional
            Ids that must not be found: (e,) for all queries, or (m, e) for each query its own (repeat one to fill up).
            Ids that are not in the index do no harm.
        keep : ndarray, optional
            The only rows that may be found, for all queries: (n,) bool, or (r,) int64, increasing (see `rows_of`).

        Returns
        -------
        scores : ndarray (m, j), float32
            Cosines, descending; they may exceed 1 by rounding.
        ids : ndarray (m, j), int64
            j is k, or the number of vectors that every query may find where that is smaller. No answer is ever padded.

        Raises
        ------
        QueryError
            For k below 1 or queries of another shape, dimension or length.
        """
        snapshot = self._snapshot
        card = snapshot.card
        queries = as_queries(np.asarray(queries), card.dimension, k)
        common, own = self._excluded(snapshot, exclude_ids, len(queries))
        parts = (get_kind(card.kind), snapshot.index, snapshot.vectors, queries)
        kept = None if keep is None else as_rows(keep, card.count)
        if kept is not None and common is not None:
            kept = np.setdiff1d(kept, common, assume_unique=True)
        partition = None if kept is None else snapshot.partition
        if own is None:
            scores, rows = retrieve(*parts, k, card.certificate.parameters, excluded=common, kept=kept, partition=partition)
        else:
            if kept is not None:
                own = np.where(np.isin(own, kept), own, -2)  # what cannot be found need not be dropped
            scores, rows = retrieve(*parts, k + own.shape[1], card.certificate.parameters, kept=kept, partition=partition)
            most = int((np.diff(np.sort(own, axis=1), prepend=-2) > 0).sum(axis=1).max(initial=0))
            scores, rows = drop(scores, rows, own, min(k, (card.count if kept is None else len(kept)) - most))
        return scores, snapshot.ids[rows]

    def within(
        self, queries: np.ndarray, least: float, *, keep: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find every vector whose cosine with a query is at least `least`, by comparing all of them.

        Parameters
        ----------
        queries : ndarray (m, d), float32
        least : float
        keep : ndarray, optional
            See `search`.

        Returns
        -------
        limits : ndarray (m + 1,), int64
            The answers of query i are those from ``limits[i]`` to ``limits[i + 1]``.
        scores : ndarray, float32
            Descending within a query.
        ids : ndarray, int64

        Raises
        ------
        QueryError
            As `search`.
        """
        snapshot = self._snapshot
        queries = as_queries(np.asarray(queries), snapshot.card.dimension, 1)
        kept = None if keep is None else as_rows(keep, snapshot.card.count)
        limits, scores, rows = within(snapshot.vectors, queries, least, rows=kept)
        return limits, scores, snapshot.ids[rows]

    def path(self, matching: int, queries: int, k: int) -> SearchPath:
        """Say how `search` goes about queries when a filter leaves `matching` rows."""
        card = self._snapshot.card
        return path_of(
            get_kind(card.kind), self._snapshot.partition, card.count, matching, card.dimension, queries=queries, k=k
        )

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the row (m,) of each id, int64; -2 for ids that are not in the index."""
        return self._snapshot.rows_of(np.asarray(ids, np.int64))

    @staticmethod
    def _excluded(snapshot: Snapshot, ids: np.ndarray | None, m: int) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Turn excluded ids into rows: (e,) for all queries, or (m, e) padded with -2."""
        if ids is None:
            return None, None
        ids = np.asarray(ids)
        if ids.ndim not in (1, 2) or (ids.ndim == 2 and len(ids) != m) or (ids.size and ids.dtype.kind not in "iu"):
            raise QueryError(
                f"exclude_ids are {ids.dtype} of shape {ids.shape}; give integers, (e,) for all queries or ({m}, e) for each"
            )
        rows = snapshot.rows_of(ids.astype(np.int64))
        if ids.ndim == 2:
            return None, rows
        return np.unique(rows[rows >= 0]), None

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """Return the vectors of some ids, float32 (m, d); `QueryError` names the ids that are not in the index."""
        snapshot = self._snapshot
        ids = np.asarray(ids, dtype=np.int64)
        rows = snapshot.rows_of(ids)
        if (unknown := ids[rows < 0]).size:
            some = ", ".join(str(i) for i in unknown[:3])
            raise QueryError(f"{unknown.size} of {ids.size} ids are not in the index, first {some}; see `specdb status`")
        return snapshot.vectors[rows]

    def append(self, vectors: np.ndarray, ids: np.ndarray, *, provenance: dict[str, Any] | None = None) -> Appended:
        """Add vectors, measure the recall anew, and rebuild from scratch only where the index no longer serves.

        Rebuilt is: a trained index that grew beyond `GROWTH_LIMIT` times its training, one whose recall fell below the asked
        one at every setting, and one made by ``auto`` where auto would now choose another kind. Any failure leaves the index
        as it was. Objects that others hold open go on answering from the index before.

        Parameters
        ----------
        vectors : ndarray (m, d), float32
            Unit vectors.
        ids : ndarray (m,), int64
            Not in the index yet.
        provenance : dict, optional
            Replaces the recorded one.

        Raises
        ------
        InputError, RecallError, DatabaseError
            As `build`.
        """
        snapshot = self._snapshot
        card = snapshot.card
        vectors = as_vectors(vectors)
        ids = as_ids(ids, len(vectors))
        if vectors.shape[1] != card.dimension:
            raise InputError(
                f"vectors have dimension {vectors.shape[1]}, this index {card.dimension}: embed with the index's own encoder"
            )
        if (known := ids[snapshot.rows_of(ids) >= 0]).size:
            raise InputError(f"{known.size} ids are in the index already, first {known[0]}; append new spectra only")
        if (current := IndexCard.read(self._directory)).generation != card.generation:
            raise DatabaseError(
                f"the index on disk is generation {current.generation}, this one was opened at {card.generation}: "
                "another process has written meanwhile; open it again"
            )
        provenance = card.provenance if provenance is None else _plain(provenance)
        count = card.count + len(ids)
        writer = GenerationWriter(self._directory, card)
        cache = writer.array("vectors", [snapshot.vectors, vectors], (count, card.dimension), np.float32)
        writer.array("ids", [snapshot.ids, ids], (count,), np.int64)
        stale = _outgrown(card, count)
        if not stale:
            # Not the open one: it is a read-only map, and others may be searching it.
            extended = get_kind(card.kind), faiss.read_index(str(self._directory / card.files["index"].name))
            add(extended[1], vectors)
            certificate, reached = certify_index(*extended, cache, card.options)
            if not reached:
                stale = f"recall@10 fell to {certificate.recall[10].value:.4f}, below the {card.options.recall:g} asked"
        if stale:
            built = build_index(cache, card.options)
            built = replace(built, why=f"{built.why} (rebuilt: {stale})")
            why = f"rebuilt as {built.kind.name}: {stale}"
        else:
            kept = (
                choose_kind(count, card.dimension, card.options.memory_bytes)[1] if card.options.kind == "auto" else card.why
            )
            built = BuiltIndex(*extended, certificate.parameters, certificate, kept)
            why = f"extended from {card.count} to {count} vectors; recall@10 {certificate.recall[10].value:.4f}"
        new = writer.commit(built, card.options, count, count if stale else card.built_count, provenance)
        self._snapshot = open_snapshot(self._directory, new, trusted=True)
        return Appended(len(ids), count, bool(stale), why)

    def verify(self) -> None:
        """Compare every file with its SHA-256 and the arrays with the card; `DatabaseError` names the first wrong one."""
        card = IndexCard.read(self._directory)
        try:
            for entry in card.files.values():
                entry.check(self._directory, content=True)
            open_snapshot(self._directory, card, trusted=True)
        except FileNotFoundError as error:
            raise DatabaseError(f"{error.filename} is missing from the index; {REBUILD}") from None


def _outgrown(card: IndexCard, count: int) -> str:
    """Return why an index must not merely be extended to `count` vectors; empty where it may be."""
    if get_kind(card.kind).trained and count > GROWTH_LIMIT * card.built_count:
        return f"{count} vectors are more than {GROWTH_LIMIT} times the {card.built_count} it was trained on"
    if card.options.kind == "auto":
        then, now = (choose_kind(n, card.dimension, card.options.memory_bytes) for n in (card.built_count, count))
        if then[0].name != now[0].name:
            return now[1]
    return ""


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return a dict as JSON would give it back."""
    try:
        return json.loads(json.dumps(values))
    except (TypeError, ValueError) as error:
        raise InputError(f"provenance holds what JSON cannot: {error}; use text, numbers, lists and dicts") from None
