"""Every vector is compared with the query: exact, no training, time linear in the number of vectors."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from specdb.search.kinds.base import SearchParameters, Structure, flat_view

__all__ = ["FlatKind"]

_faiss: Any = faiss  # its type stubs know only part of it


class FlatKind:
    """The exact scan. It needs nothing but the stored vectors, so appending to it is free."""

    name = "flat"
    step_up: str | None = None
    trained = False
    precise = False  # large batches go through matrix products, which round otherwise
    divisible = True
    half = False

    def validate(self, n: int, dim: int) -> None:
        """Accept any number of vectors."""

    def estimate_bytes(self, n: int, dim: int) -> int:
        """Nothing is kept beside the vectors."""
        return 0

    def tail_limit(self, covered: int) -> int:
        """Every row is compared anyway."""
        return 0

    def train(self, vectors: np.ndarray, seed: int, memory_bytes: int) -> Any:
        """There is nothing to fit."""
        return None

    def fill(self, trained: Any, vectors: np.ndarray, rows: range) -> Any:
        """There is nothing to fill."""
        return None

    def merge(self, first: Any, second: Any) -> Any:
        """There are no segments."""
        return None

    def assemble(self, segments: tuple[Any, ...], covered: int, vectors: np.ndarray, half: np.ndarray | None) -> Structure:
        """View all vectors, whatever `covered` says."""
        return Structure((), len(vectors), (flat_view(vectors),), (vectors,))

    def settings(self, structure: Structure) -> list[SearchParameters]:
        """There is nothing to tune."""
        return [SearchParameters()]

    def search(
        self, structure: Structure, queries: np.ndarray, k: int, parameters: SearchParameters, selector: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the k best (m, k)."""
        extra = None if selector is None else _faiss.SearchParameters(sel=selector)
        return structure.searchers[0].search(queries, k, params=extra)
