"""The files of an index: opening one generation for reading, and writing the next.

Vectors and ids lie in plain files that only grow. A generation is a number of rows of them and the FAISS segments over these
rows, so that appending costs what is appended, and readers go on with the rows that their generation has.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from specdb.errors import DatabaseError, VersionError
from specdb.search.build import BuildOptions, Certified
from specdb.search.card import CARD_NAME, REBUILD, FileEntry, IndexCard, Segment, file_name, remove_stale
from specdb.search.certificate import Truth, read_truths, write_truths
from specdb.search.checks import blocks
from specdb.search.filters import Partition
from specdb.search.kinds import IndexKind, Structure, get_kind
from specdb.store.files import atomic_path, disk_errors

__all__ = ["GenerationWriter", "Snapshot", "open_snapshot"]

_faiss: Any = faiss  # its type stubs know only part of it

_TYPES: dict[str, type] = {"vectors": np.float32, "half": np.float16, "ids": np.int64}

#: This kind of memory map serves every kind of index, as fast as memory once the pages are loaded.
_MAPPED = faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY


@dataclass(frozen=True)
class Snapshot:
    """One generation, open for reading; searches that began with it end with it."""

    card: IndexCard
    kind: IndexKind
    structure: Structure
    vectors: np.ndarray
    ids: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """Rows in the order of their ids, int64 (n,)."""
        return np.argsort(self.ids)

    @cached_property
    def partition(self) -> Partition | None:
        """Which inverted list holds which row; None for an index without lists."""
        return Partition.of(self.structure, self.vectors)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the row of each id, -2 for ids that are not in the index."""
        place = np.minimum(np.searchsorted(self.ids, ids, sorter=self.order), len(self.ids) - 1)
        rows = self.order[place]
        return np.where(self.ids[rows] == ids, rows, -2)


def _map(directory: Path, role: str, entry: FileEntry, shape: tuple[int, ...]) -> np.ndarray:
    """Memory-map an array, comparing its size with what the card promises."""
    size = int(np.prod(shape)) * np.dtype(_TYPES[role]).itemsize
    if entry.bytes != size:
        raise DatabaseError(
            f"{directory / entry.name} has {entry.bytes} bytes, {shape} {np.dtype(_TYPES[role])} make {size}; {REBUILD}"
        )
    # As a plain array: every look-up in a `memmap` makes another one, which takes longer than the look-up.
    return np.asarray(np.memmap(directory / entry.name, _TYPES[role], "r", shape=shape))


def _read(path: Path, flags: int = 0) -> Any:
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        if not path.exists():
            raise FileNotFoundError(2, "missing", str(path)) from None
        raise DatabaseError(f"{path} cannot be read by FAISS {faiss.__version__} ({error}); {REBUILD}") from None


def open_snapshot(directory: Path, card: IndexCard, *, trusted: bool) -> Snapshot:
    """Open the files of a card; `FileNotFoundError` where one is gone."""
    for entry in card.entries:
        entry.check(directory, content=not trusted and entry.name.endswith(".faiss"))
    segments = tuple(_open_segment(directory, segment, card) for segment in card.segments)
    arrays = {
        role: _map(directory, role, card.files[role], (card.count,) if role == "ids" else (card.count, card.dimension))
        for role in _TYPES
        if role in card.files
    }
    kind = get_kind(card.kind)
    if kind.trained and not segments:
        raise DatabaseError(f"{directory / CARD_NAME} names no segments of its {card.kind} index; {REBUILD}")
    structure = kind.assemble(segments, card.covered, arrays["vectors"], arrays.get("half"))
    return Snapshot(card, kind, structure, arrays["vectors"], arrays["ids"])


def _open_segment(directory: Path, segment: Segment, card: IndexCard) -> Any:
    index = _read(directory / segment.file.name, _MAPPED)
    if (index.ntotal, index.d) != (segment.count, card.dimension):
        raise DatabaseError(
            f"{directory / segment.file.name} holds {index.ntotal} x {index.d}, its card says {segment.count} x "
            f"{card.dimension}; {REBUILD}"
        )
    return index


class GenerationWriter:
    """Writes the files of one new generation and, last, the card that makes them the index.

    Parameters
    ----------
    directory : Path
    previous : IndexCard, optional
        The generation to go on from. Without one everything is new, and an index that is there is replaced.
    """

    def __init__(self, directory: Path, previous: IndexCard | None = None) -> None:
        self._directory = directory
        current = previous or _current(directory)
        remove_stale(directory, current)
        self._generation = 1 if current is None else current.generation + 1
        self.files: dict[str, FileEntry] = {} if previous is None else dict(previous.files)
        self.segments: list[Segment] = [] if previous is None else list(previous.segments)
        self._made = 0

    # -- arrays --------------------------------------------------------------------------------------------------------

    def extend(self, role: str, pieces: Iterable[np.ndarray]) -> int:
        """Write pieces behind the end of an array, or as a new one, and return the number of rows written."""
        before = self.files.get(role)
        path = self._directory / (file_name(role, self._generation) if before is None else before.name)
        count = 0
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb" if before is None else "rb+") as handle:
                # Nobody has mapped what lies behind the end that the card states: a killed writer left it.
                handle.truncate(0 if before is None else before.bytes)
                handle.seek(0, os.SEEK_END)
                for piece in pieces:
                    for part in blocks(len(piece), piece.shape[1] if piece.ndim == 2 else 1):
                        handle.write(np.ascontiguousarray(piece[part], _TYPES[role]).data)
                    count += len(piece)
                handle.flush()
                os.fsync(handle.fileno())
        self.files[role] = FileEntry.of(path, before)
        return count

    def map(self, role: str, dim: int | None = None) -> np.ndarray:
        """Memory-map an array as far as it is written: (n,), or (n, dim)."""
        entry = self.files[role]
        rows = entry.bytes // (np.dtype(_TYPES[role]).itemsize * (dim or 1))
        return _map(self._directory, role, entry, (rows,) if dim is None else (rows, dim))

    def half(self, vectors: np.ndarray) -> np.ndarray:
        """Write the vectors that are not yet there in half precision, and return all of them, memory-mapped (n, d)."""
        dim = vectors.shape[1]
        done = self.files["half"].bytes // (2 * dim) if "half" in self.files else 0
        missing = vectors[done:]
        if len(missing):
            self.extend("half", (missing[part].astype(np.float16) for part in blocks(*missing.shape)))
        return self.map("half", dim)

    # -- FAISS files ---------------------------------------------------------------------------------------------------

    def trained(self, index: Any) -> None:
        """Write the empty structure that segments are filled from."""
        self.files["trained"] = self._write(index, self._directory / file_name("trained", self._generation))

    def read_trained(self) -> Any:
        """Read the empty structure."""
        return _read(self._directory / self.files["trained"].name)

    def segment(self, index: Any, rows: range) -> Any:
        """Write a segment and return it memory-mapped, so that its memory can be freed."""
        path = self._directory / file_name("index", self._generation, self._made)
        self._made += 1
        self.segments.append(Segment(rows.start, len(rows), self._write(index, path)))
        return _read(path, _MAPPED)

    def read_segment(self, number: int) -> Any:
        """Read a segment into memory, to be changed."""
        return _read(self._directory / self.segments[number].file.name)

    def map_segments(self) -> tuple[Any, ...]:
        """Return all segments, memory-mapped."""
        return tuple(_read(self._directory / segment.file.name, _MAPPED) for segment in self.segments)

    def clear(self) -> None:
        """Forget segments and empty structure; those that this writer made leave the disk, too."""
        for entry in [*(s.file for s in self.segments), *(self.files.pop(r) for r in ("trained",) if r in self.files)]:
            self._discard(entry)
        self.segments = []

    def _discard(self, entry: FileEntry) -> None:
        """Remove a file if this writer made it; one of the previous generation is still in force."""
        if re.match(rf"[a-z]+-{self._generation}\b", entry.name):
            (self._directory / entry.name).unlink(missing_ok=True)

    def _write(self, index: Any, path: Path) -> FileEntry:
        with atomic_path(path) as temporary:
            try:
                # A graph leaves its vectors to the cache.
                _faiss.write_index(index, str(temporary), _faiss.IO_FLAG_SKIP_STORAGE)
            except RuntimeError as error:
                raise DatabaseError(
                    f"cannot write {path} ({error}); free some space and run the same command again"
                ) from None
        return FileEntry.of(path)

    # -- the card ------------------------------------------------------------------------------------------------------

    def read_truths(self, vectors: np.ndarray) -> dict[str, Truth]:
        """Read the queries and answers that the previous certificates were measured with."""
        return read_truths(self._directory / self.files["truth"].name, vectors)

    def commit(
        self,
        *,
        kind: IndexKind,
        why: str,
        certified: Certified,
        options: BuildOptions,
        dimension: int,
        count: int,
        built_count: int,
        provenance: dict[str, Any],
    ) -> IndexCard:
        """Write the certificates' queries and the card."""
        path = self._directory / file_name("truth", self._generation)
        with atomic_path(path) as temporary:
            write_truths(certified.truths, temporary)
        self.files["truth"] = FileEntry.of(path)
        if not kind.half and "half" in self.files:
            self._discard(self.files.pop("half"))
        card = IndexCard(
            generation=self._generation,
            kind=kind.name,
            why=why,
            metric="inner_product",
            dimension=dimension,
            count=count,
            built_count=built_count,
            options=options,
            certificate=certified.certificate,
            cross=certified.cross,
            faiss_version=faiss.__version__,
            files=self.files,
            segments=tuple(self.segments),
            provenance=provenance,
        )
        card.write(self._directory)
        return card


def _current(directory: Path) -> IndexCard | None:
    """Return the card that is in force; None where there is none, or one that nobody can read."""
    if not (directory / CARD_NAME).is_file():
        return None
    try:
        return IndexCard.read(directory)
    except VersionError:
        raise
    except DatabaseError:
        return None
