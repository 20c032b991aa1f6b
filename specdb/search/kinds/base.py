"""What every kind of index has in common: the protocol, the parameters of a search, and views of stored vectors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import faiss
import numpy as np

from specdb.search.checks import blocks

__all__ = ["IndexKind", "SearchParameters", "Structure", "add_rows", "flat_view", "half_view", "one_thread"]

_faiss: Any = faiss  # its type stubs know only part of it


@dataclass(frozen=True)
class SearchParameters:
    """The knobs of one search; a kind ignores those it does not have.

    Attributes
    ----------
    nprobe : int
        Inverted lists visited per query.
    k_factor : int
        Candidates fetched per wanted neighbour, to be re-ranked with better vectors.
    ef : int
        Length of the queue of a graph search.
    """

    nprobe: int = 1
    k_factor: int = 1
    ef: int = 16

    def __str__(self) -> str:
        """Name those that matter."""
        said = [
            f"{name} {value}"
            for name, value, plain in (("nprobe", self.nprobe, 1), ("k_factor", self.k_factor, 1))
            if value != plain
        ]
        return ", ".join(said + [f"ef {self.ef}"] * (self.ef != 16)) or "no parameters"


@dataclass(frozen=True)
class Structure:
    """What a kind made of the first `covered` rows of a vector cache, ready to be searched.

    Attributes
    ----------
    segments : tuple
        FAISS indices, each over a range of rows, labelled by row number.
    covered : int
        Rows in the segments together. Those behind are few and compared one by one.
    searchers : tuple
        What the kind searches: the segments themselves, or segments joined to the vectors that they lack.
    keep : tuple
        Arrays and indices that `searchers` point into; FAISS does not count references.
    """

    segments: tuple[Any, ...]
    covered: int
    searchers: tuple[Any, ...]
    keep: tuple[Any, ...] = field(default=(), repr=False)


class IndexKind(Protocol):
    """One way to organise vectors for search."""

    name: str
    #: The kind to try where this one does not reach the asked recall; None where it is exact.
    step_up: str | None
    #: True where the structure was fitted to the vectors, so that it ages as others are appended.
    trained: bool
    #: True where the scores of `search` are those of `specdb.search.exact.inner_products`, whatever the batch.
    precise: bool
    #: True where segments over any rows can be made, one at a time; False where the structure is one piece.
    divisible: bool
    #: True where candidates are re-ranked with a copy of the vectors in half precision.
    half: bool

    def validate(self, n: int, dim: int) -> None:
        """Raise `InputError` if n vectors of this dimension cannot be indexed this way."""
        ...

    def estimate_bytes(self, n: int, dim: int) -> int:
        """Return the size of the structure in memory and on disk, without the vectors that are kept beside it."""
        ...

    def tail_limit(self, covered: int) -> int:
        """Return how many appended rows may be compared one by one before the structure takes them in."""
        ...

    def train(self, vectors: np.ndarray, seed: int, memory_bytes: int) -> Any:
        """Return an empty structure fitted to a random sample of the vectors; None where nothing is fitted."""
        ...

    def fill(self, trained: Any, vectors: np.ndarray, rows: range) -> Any:
        """Return a segment with some rows of the vectors; None where the kind needs no segments."""
        ...

    def merge(self, first: Any, second: Any) -> Any:
        """Return one segment for two neighbours; None where that takes a new `fill`."""
        ...

    def assemble(self, segments: tuple[Any, ...], covered: int, vectors: np.ndarray, half: np.ndarray | None) -> Structure:
        """Join segments and stored vectors, (n, d) float32 and (n, d) float16, n >= covered, into what can be searched."""
        ...

    def settings(self, structure: Structure) -> list[SearchParameters]:
        """Return the parameters worth trying, cheapest first."""
        ...

    def search(
        self, structure: Structure, queries: np.ndarray, k: int, parameters: SearchParameters, selector: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return scores and rows of candidates (m, >= k), float32 and int64, in no binding order.

        Where what was visited held too few, rows are -1 and their scores lower than any similarity.
        """
        ...


def add_rows(index: Any, vectors: np.ndarray, rows: range, *, label: bool) -> None:
    """Add rows to an index block by block, so that a memory map is never copied whole.

    Parameters
    ----------
    label : bool
        Store row numbers as labels, so that segments over different rows need no translation.
    """
    for part in blocks(len(rows), vectors.shape[1]):
        first, last = rows.start + part.start, rows.start + part.stop
        block = np.ascontiguousarray(vectors[first:last])
        if label:
            index.add_with_ids(block, np.arange(first, last))
        else:
            index.add(block)


def _view(index: Any, array: np.ndarray) -> Any:
    """Let an empty index read its codes from an array, which must outlive it; nothing is copied."""
    codes = _faiss.MaybeOwnedVectorUInt8
    # The owner of an empty vector is the empty owner: FAISS shall not free what NumPy holds.
    index.codes = codes.create_view(_faiss.swig_ptr(array), array.nbytes, codes().owner)
    index.ntotal = len(array)
    return index


def flat_view(vectors: np.ndarray) -> Any:
    """Return an exact index over vectors (n, d) float32, C-contiguous, in memory or mapped, without a copy."""
    return _view(faiss.IndexFlatIP(vectors.shape[1]), vectors)


def half_view(half: np.ndarray) -> Any:
    """Return an exact index over vectors (n, d) float16, C-contiguous, in memory or mapped, without a copy."""
    index = _faiss.IndexScalarQuantizer(half.shape[1], _faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.is_trained = True  # half precision has nothing to fit
    return _view(index, half)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let FAISS work in one thread: what depends on the order of work becomes repeatable."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
