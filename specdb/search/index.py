"""`VectorIndex`: unit vectors under int64 ids in a directory, searched by cosine, with a measured recall.

The directory holds `index.json` (see `specdb.search.card`), FAISS files, and the vectors and ids as plain arrays that are
memory-mapped for scoring and look-up. All of it can be rebuilt from the embeddings in Parquet.

One process writes at a time (the caller holds the database's lock); any number may read meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from specdb.errors import DatabaseError, InputError, QueryError
from specdb.search.build import BuildOptions
from specdb.search.card import REBUILD, IndexCard
from specdb.search.certificate import RecallCertificate
from specdb.search.checks import as_ids, as_queries, as_rows, as_vectors
from specdb.search.exact import drop, within
from specdb.search.generation import Snapshot, open_snapshot
from specdb.search.gpu import on_gpu
from specdb.search.growth import Changed, append_rows, build_generation, certify_again, drop_rows
from specdb.search.kinds import SearchParameters
from specdb.search.planner import Path as SearchPath
from specdb.search.retrieve import path_of, retrieve
from specdb.search.rowfilter import RowFilter

__all__ = ["VectorIndex"]


class VectorIndex:
    """A searchable set of unit vectors; make one with `build` or `open`."""

    def __init__(self, directory: Path, snapshot: Snapshot) -> None:
        self._directory = directory
        self._show(snapshot)

    def _show(self, snapshot: Snapshot, hidden: np.ndarray | None = None) -> None:
        self._snapshot = snapshot
        self._visible = RowFilter(len(snapshot.ids), hidden)

    # -- making and opening --------------------------------------------------------------------------------------------

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
        cross: Mapping[str, np.ndarray] | None = None,
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
        cross : mapping of str to ndarray (m, d), float32, optional
            Unit vectors of other modalities, by name: queries to tune and certify for separately.

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
        parts = [(as_ids(ids, len(vectors)), vectors)]
        return cls.build_from(parts, directory, provenance=provenance, options=options, cross=cross)

    @classmethod
    def build_from(
        cls,
        parts: Iterable[tuple[np.ndarray, np.ndarray]],
        directory: str | Path,
        *,
        provenance: dict[str, Any],
        options: BuildOptions | None = None,
        cross: Mapping[str, np.ndarray] | None = None,
    ) -> VectorIndex:
        """Build an index of vectors that come part by part and may be more than memory holds.

        Parameters
        ----------
        parts : iterable of (ids, vectors)
            (m,) int64 and (m, d) float32, as `build` takes them.

        Raises
        ------
        InputError, RecallError, DatabaseError
            As `build`.
        """
        directory = Path(directory)
        snapshot = build_generation(directory, parts, options or BuildOptions(), cross, provenance)
        return cls(directory, snapshot)

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
            Skip hashing the FAISS files. Reading a damaged or foreign one is unsafe (it can crash the process or worse), so
            by default their SHA-256 are compared with the card first, which takes up to a few seconds per GiB.

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
            card.check_provenance(expected_provenance or {})
            try:
                return cls(directory, open_snapshot(directory, card, trusted=trusted))
            except FileNotFoundError as error:
                latest = IndexCard.read(directory)
                if latest.generation == card.generation:
                    raise DatabaseError(f"{error.filename} is missing from the index; {REBUILD}") from None
                card = latest  # two writes finished between reading the card and opening its files

    # -- what it is ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._snapshot.card.count

    def __repr__(self) -> str:
        card = self._snapshot.card
        return f"<VectorIndex {card.kind}, {card.count} x {card.dimension}, {self._directory}>"

    @property
    def card(self) -> IndexCard:
        """Everything that is known about the index: kind, parameters, certificates, provenance, files."""
        return self._snapshot.card

    @property
    def certificate(self) -> RecallCertificate:
        """The measured recall for queries of the indexed modality; `IndexCard.certificate_for` has those of others."""
        return self._snapshot.card.certificate

    @property
    def ids(self) -> np.ndarray:
        """All ids, memory-mapped (n,), int64, in the order they were added, hidden ones included."""
        return self._snapshot.ids

    @property
    def hidden(self) -> int:
        """Number of vectors that no search finds."""
        return len(self) - self._visible.count

    # -- asking --------------------------------------------------------------------------------------------------------

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        exclude_ids: np.ndarray | None = None,
        keep: np.ndarray | RowFilter | None = None,
        source: str | None = None,
        parameters: SearchParameters | None = None,
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
        keep : ndarray or RowFilter, optional
            The only rows that may be found, for all queries: (n,) bool, (r,) int64, increasing (see `rows_of`), or what
            `only` made of them, which is prepared for being asked for again and again.
        source : str, optional
            Modality of the queries where it is another than that of the index: it has parameters of its own.
        parameters : SearchParameters, optional
            Instead of those that were tuned; see `settings`.

        Returns
        -------
        scores : ndarray (m, j), float32
            Cosines, descending; they may exceed 1 by rounding.
        ids : ndarray (m, j), int64
            j is k, or the number of vectors that every query may find where that is smaller. No answer is ever padded.

        Raises
        ------
        QueryError
            For k below 1, queries of another shape, dimension or length, or filters that make no sense.
        """
        snapshot = self._snapshot
        card = snapshot.card
        queries = as_queries(np.asarray(queries), card.dimension, k)
        common, own = self._excluded(snapshot, exclude_ids, len(queries))
        allowed = self._allowed(keep).narrowed(excluded=common)
        parameters = parameters or card.certificate_for(source).parameters
        parts = (snapshot.kind, snapshot.structure, snapshot.vectors, queries)
        partition = None if allowed.kept is None else snapshot.partition
        if own is None:
            scores, rows = retrieve(*parts, k, parameters, allowed=allowed, partition=partition)
        else:
            own = np.where(allowed.lets_through(own), own, -2)  # what cannot be found need not be dropped
            scores, rows = retrieve(*parts, k + own.shape[1], parameters, allowed=allowed, partition=partition)
            most = int((np.diff(np.sort(own, axis=1), prepend=-2) > 0).sum(axis=1).max(initial=0))
            scores, rows = drop(scores, rows, own, min(k, allowed.count - most))
        return scores, snapshot.ids[rows]

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

    def settings(self) -> list[SearchParameters]:
        """Return the parameters that this index can be searched with, cheapest first."""
        return self._snapshot.kind.settings(self._snapshot.structure)

    def within(
        self, queries: np.ndarray, least: float, *, keep: np.ndarray | RowFilter | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find every vector whose cosine with a query is at least `least`, by comparing all of them.

        Parameters
        ----------
        queries : ndarray (m, d), float32
        least : float
        keep : ndarray or RowFilter, optional
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
        allowed = self._allowed(keep)
        limits, scores, rows = within(snapshot.vectors, queries, least, rows=allowed.rows())
        return limits, scores, snapshot.ids[rows]

    def path(self, keep: np.ndarray | RowFilter, queries: int, k: int) -> SearchPath:
        """Say how `search` goes about that many queries under a filter."""
        snapshot, allowed = self._snapshot, self._allowed(keep)
        return path_of(snapshot.kind, snapshot.partition, snapshot.card.dimension, allowed, queries, k)

    def only(self, keep: np.ndarray) -> RowFilter:
        """Prepare a filter for several searches of this very index.

        Parameters
        ----------
        keep : ndarray
            (n,) bool, or (r,) int64, increasing.

        Returns
        -------
        RowFilter
            The rows that are kept and not hidden; ``count`` is their number.

        Raises
        ------
        QueryError
            For a filter that makes no sense.
        """
        return self._visible.narrowed(kept=as_rows(keep, self.card.count), reused=True)

    def _allowed(self, keep: np.ndarray | RowFilter | None) -> RowFilter:
        """Return the rows that a search may find."""
        if isinstance(keep, RowFilter):
            if keep.n != self.card.count:
                raise QueryError(f"the filter is over {keep.n} rows, the index has {self.card.count}; prepare it anew")
            return keep
        return self._visible if keep is None else self._visible.narrowed(kept=as_rows(keep, self.card.count))

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the row (m,) of each id, int64; -2 for ids that are not in the index."""
        return self._snapshot.rows_of(np.asarray(ids, np.int64))

    def has(self, ids: np.ndarray) -> np.ndarray:
        """Say which ids (m,) searches may find, bool."""
        return self._visible.lets_through(self.rows_of(ids))

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """Return the vectors of some ids, float32 (m, d); `QueryError` names the ids that are not in the index."""
        snapshot = self._snapshot
        ids = np.asarray(ids, dtype=np.int64)
        rows = snapshot.rows_of(ids)
        if (unknown := ids[~self._visible.lets_through(rows)]).size:
            some = ", ".join(str(i) for i in unknown[:3])
            raise QueryError(f"{unknown.size} of {ids.size} ids are not in the index, first {some}; see `specdb status`")
        return snapshot.vectors[rows]

    def hiding(self, ids: np.ndarray) -> VectorIndex:
        """Return the same index with some vectors out of sight, whatever its kind; ids that it lacks do no harm.

        Parameters
        ----------
        ids : ndarray (e,), int64
            Deleted spectra, say, that still lie in the files.
        """
        view = VectorIndex(self._directory, self._snapshot)
        if len(ids):  # else looking them up would sort all ids for nothing
            rows = self._snapshot.rows_of(np.asarray(ids, np.int64))
            view._show(self._snapshot, np.unique(rows[rows >= 0]))
        return view

    def to(self, device: str) -> VectorIndex:
        """Return the same index on another device; its answers are the same.

        Parameters
        ----------
        device : str
            ``cpu``, ``cuda`` or ``cuda:1``. Filtered searches, long answers and kinds that FAISS has no GPU code for go on
            being answered by the CPU.

        Raises
        ------
        DependencyError
            For a GPU that FAISS does not see.
        """
        view = VectorIndex(self._directory, on_gpu(self._snapshot, device))
        view._visible = self._visible
        return view

    # -- changing ------------------------------------------------------------------------------------------------------

    def append(
        self,
        vectors: np.ndarray,
        ids: np.ndarray,
        *,
        provenance: dict[str, Any] | None = None,
        cross: Mapping[str, np.ndarray] | None = None,
    ) -> Changed:
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
        cross : mapping, optional
            As `build`; without it, the queries of other modalities that were certified before are certified again.

        Raises
        ------
        InputError, RecallError, DatabaseError
            As `build`.
        """
        vectors = as_vectors(vectors)
        ids = as_ids(ids, len(vectors))
        if vectors.shape[1] != self.card.dimension:
            raise InputError(
                f"vectors have dimension {vectors.shape[1]}, this index {self.card.dimension}: embed with the index's own "
                "encoder"
            )
        if (known := ids[self._snapshot.rows_of(ids) >= 0]).size:
            raise InputError(f"{known.size} ids are in the index already, first {known[0]}; append new spectra only")
        self._require_current()
        changed, snapshot = append_rows(self._directory, self._snapshot, vectors, ids, provenance, cross)
        self._show(snapshot)
        return changed

    def drop(self, ids: np.ndarray, *, provenance: dict[str, Any] | None = None) -> Changed:
        """Take vectors out for good: the others are sorted into the same lists anew, and certified.

        Parameters
        ----------
        ids : ndarray (e,), int64
            Ids that the index lacks do no harm.

        Raises
        ------
        InputError
            Where no vector would be left.
        RecallError, DatabaseError
            As `append`.
        """
        self._require_current()
        rows = self._snapshot.rows_of(np.asarray(ids, np.int64))
        changed, snapshot = drop_rows(self._directory, self._snapshot, np.unique(rows[rows >= 0]), provenance)
        self._show(snapshot)
        return changed

    def certify(self, cross: Mapping[str, np.ndarray]) -> Changed:
        """Tune and certify anew with queries of other modalities; rebuild where the asked recall is not reached.

        Raises
        ------
        RecallError, DatabaseError
            As `append`.
        """
        self._require_current()
        changed, snapshot = certify_again(self._directory, self._snapshot, cross)
        self._show(snapshot)
        return changed

    def _require_current(self) -> None:
        card = self._snapshot.card
        if (current := IndexCard.read(self._directory)).generation != card.generation:
            raise DatabaseError(
                f"the index on disk is generation {current.generation}, this one was opened at {card.generation}: "
                "another process has written meanwhile; open it again"
            )

    def verify(self) -> None:
        """Compare every file with its SHA-256 and the arrays with the card; `DatabaseError` names the first wrong one."""
        card = IndexCard.read(self._directory)
        try:
            for entry in card.entries:
                entry.check(self._directory, content=True)
            open_snapshot(self._directory, card, trusted=True)
        except FileNotFoundError as error:
            raise DatabaseError(f"{error.filename} is missing from the index; {REBUILD}") from None
