"""The files of an index: opening one generation for reading, and writing the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from specdb.errors import DatabaseError
from specdb.search.build import BuildOptions, BuiltIndex
from specdb.search.card import REBUILD, FileEntry, IndexCard, file_name, remove_stale
from specdb.search.checks import blocks
from specdb.search.filters import Partition
from specdb.store.files import atomic_path

__all__ = ["GenerationWriter", "Snapshot", "open_snapshot"]


@dataclass(frozen=True)
class Snapshot:
    """One generation, open for reading; searches that began with it end with it."""

    card: IndexCard
    index: Any
    vectors: np.ndarray
    ids: np.ndarray

    @cached_property
    def order(self) -> np.ndarray:
        """Rows in the order of their ids, int64 (n,)."""
        return np.argsort(self.ids)

    @cached_property
    def partition(self) -> Partition | None:
        """Which inverted list holds which row; None for an index without lists."""
        return Partition.of(self.index)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the row of each id, -2 for ids that are not in the index."""
        place = np.minimum(np.searchsorted(self.ids, ids, sorter=self.order), len(self.ids) - 1)
        rows = self.order[place]
        return np.where(self.ids[rows] == ids, rows, -2)


def _load(path: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Memory-map a `.npy` file for reading and compare it with what the card promises."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DatabaseError(f"{path} is not an array file ({error}); {REBUILD}") from None
    if array.shape != shape or array.dtype != dtype:
        raise DatabaseError(f"{path} holds {array.dtype} {array.shape}, its card says {np.dtype(dtype)} {shape}; {REBUILD}")
    return array


def open_snapshot(directory: Path, card: IndexCard, *, trusted: bool) -> Snapshot:
    """Open the files of a card; `FileNotFoundError` where one is gone."""
    for role, entry in card.files.items():
        entry.check(directory, content=role == "index" and not trusted)
    path = directory / card.files["index"].name
    try:
        # This kind of memory map serves flat and inverted lists alike, as fast as memory once the pages are loaded.
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise DatabaseError(f"{path} cannot be read by FAISS {faiss.__version__} ({error}); {REBUILD}") from None
    if (index.ntotal, index.d) != (card.count, card.dimension):
        raise DatabaseError(
            f"{path} holds {index.ntotal} x {index.d}, its card says {card.count} x {card.dimension}; {REBUILD}"
        )
    vectors = _load(directory / card.files["vectors"].name, (card.count, card.dimension), np.float32)
    ids = _load(directory / card.files["ids"].name, (card.count,), np.int64)
    return Snapshot(card, index, vectors, ids)


class GenerationWriter:
    """Writes the files of one new generation and, last, the card that makes them the index."""

    def __init__(self, directory: Path, previous: IndexCard | None) -> None:
        self._directory = directory
        self._generation = 1 if previous is None else previous.generation + 1
        self._files: dict[str, FileEntry] = {}
        remove_stale(directory, previous)

    def _path(self, role: str) -> Path:
        return self._directory / file_name(role, self._generation)

    def array(self, role: str, pieces: Iterable[np.ndarray], shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Write pieces one after the other as one `.npy` file and return it memory-mapped."""
        path = self._path(role)
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
        with atomic_path(path) as temporary, temporary.open("wb") as handle:
            np.lib.format.write_array_header_1_0(handle, header)
            for block in _bounded(pieces):
                handle.write(np.ascontiguousarray(block).data)
        self._files[role] = FileEntry.of(path)
        return _load(path, shape, dtype)

    def commit(
        self, built: BuiltIndex, options: BuildOptions, count: int, built_count: int, provenance: dict[str, Any]
    ) -> IndexCard:
        """Write the FAISS file and the card."""
        path = self._path("index")
        with atomic_path(path) as temporary:
            try:
                faiss.write_index(built.index, str(temporary))
            except RuntimeError as error:
                raise DatabaseError(
                    f"cannot write {path} ({error}); free some space and run the same command again"
                ) from None
        self._files["index"] = FileEntry.of(path)
        card = IndexCard(
            generation=self._generation,
            kind=built.kind.name,
            why=built.why,
            metric="inner_product",
            dimension=built.index.d,
            count=count,
            built_count=built_count,
            options=options,
            certificate=built.certificate,
            faiss_version=faiss.__version__,
            files=self._files,
            provenance=provenance,
        )
        card.write(self._directory)
        return card


def _bounded(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Cut arrays into blocks of bounded size."""
    for piece in pieces:
        for part in blocks(len(piece), piece.shape[1] if piece.ndim == 2 else 1):
            yield piece[part]
