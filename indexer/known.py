"""Sets of many 64-bit integers in eight bytes each: the ids and sources that a database already holds."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["IntSet", "source_key"]

_PENDING = 1 << 18


class IntSet:
    """A growing set of int64: a sorted array plus a small buffer that is merged into it now and then."""

    def __init__(self, values: np.ndarray) -> None:
        self._sorted = np.unique(np.asarray(values, np.int64))
        self._pending: set[int] = set()

    def __len__(self) -> int:
        return len(self._sorted) + len(self._pending)

    def __contains__(self, value: int) -> bool:
        if value in self._pending:
            return True
        place = int(np.searchsorted(self._sorted, value))
        return place < len(self._sorted) and int(self._sorted[place]) == value

    def add(self, value: int) -> None:
        """Add one value."""
        if value in self:
            return
        self._pending.add(value)
        if len(self._pending) >= _PENDING:
            self._sorted = np.union1d(self._sorted, np.fromiter(self._pending, np.int64, len(self._pending)))
            self._pending = set()


def source_key(name: str) -> int:
    """Return a 63-bit key of a source's name (BLAKE2b); among 10 million names a clash has a chance of about 1e-5."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "big") >> 1
