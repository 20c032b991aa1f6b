"""Which rows a search may find."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import faiss
import numpy as np

from specdb.search.filters import Grouped, Partition

__all__ = ["RowFilter"]

_faiss: Any = faiss  # its type stubs know only part of it

_NONE = np.empty(0, np.int64)

#: FAISS looks a row up in a small set faster than in a bitmap that has to be made first.
_SMALL = 1000

#: Where more than one in so many rows is excluded, the others are a selection and searched as such.
_FEW_LEFT = 2


class RowFilter:
    """All rows but some, or only some.

    Parameters
    ----------
    n : int
        Rows there are.
    excluded : ndarray (e,), int64, optional
        Distinct rows below n that must not be found.
    kept : ndarray (r,), int64, increasing, optional
        The only rows that may be found, unless they are excluded.
    reused : bool
        Whether more searches than one will ask for it, so that grouping its rows costs none of them in particular.

    Attributes
    ----------
    n : int
        Rows there are.
    kept : ndarray or None
        The only rows that may be found, where these are a selection; None where they are all rows but a few.
    reused : bool
    """

    def __init__(
        self, n: int, excluded: np.ndarray | None = None, kept: np.ndarray | None = None, *, reused: bool = False
    ) -> None:
        self.n = n
        self.reused = reused
        self._groups: tuple[Partition, Grouped] | None = None
        self._excluded = _NONE if excluded is None else excluded
        if kept is None and _FEW_LEFT * len(self._excluded) > n:
            kept = np.arange(n)
        self.kept = kept if kept is None or not self._excluded.size else np.setdiff1d(kept, self._excluded, True)

    @property
    def count(self) -> int:
        """Number of rows that may be found."""
        return self.n - len(self._excluded) if self.kept is None else len(self.kept)

    @property
    def open(self) -> bool:
        """Whether every row may be found."""
        return self.kept is None and not self._excluded.size

    def narrowed(
        self, *, excluded: np.ndarray | None = None, kept: np.ndarray | None = None, reused: bool = False
    ) -> RowFilter:
        """Return a filter that lets through what this one does and the new condition does, too."""
        if excluded is None and kept is None:
            return self
        both = self._excluded if excluded is None else np.union1d(self._excluded, excluded)
        if kept is None:
            kept = self.kept
        elif self.kept is not None:
            kept = np.intersect1d(kept, self.kept, assume_unique=True)
        return RowFilter(self.n, both, kept, reused=reused)

    def lets_through(self, rows: np.ndarray) -> np.ndarray:
        """Return (...,) bool: whether each row may be found; False for negative ones."""
        if self.kept is not None:
            return np.isin(rows, self.kept)
        return (rows >= 0) & ~np.isin(rows, self._excluded)

    def rows(self, first: int = 0) -> np.ndarray | None:
        """Return the rows from `first` on that may be found, increasing; None where that is every row there is."""
        if self.kept is not None:
            return self.kept[np.searchsorted(self.kept, first) :]
        if first == 0 and not self._excluded.size:
            return None
        return np.setdiff1d(np.arange(first, self.n), self._excluded, assume_unique=True)

    def grouped(self, partition: Partition) -> Grouped:
        """Return the kept rows list by list; there are some."""
        assert self.kept is not None
        if self._groups is None or self._groups[0] is not partition:
            self._groups = partition, partition.group(self.kept)
        return self._groups[1]

    @cached_property
    def selector(self) -> Any:
        """The same for FAISS; None where every row may be found."""
        if self.open:
            return None
        if self.kept is None and self._excluded.size < _SMALL:
            return faiss.IDSelectorNot(faiss.IDSelectorBatch(self._excluded))
        bits = np.full(self.n, self.kept is None)
        bits[self._excluded if self.kept is None else self.kept] = self.kept is not None
        return _faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
