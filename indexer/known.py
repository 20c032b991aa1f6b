"""Sets of many 64-bit integers in eight bytes each: the ids and sources that a database already holds."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["IntSet", "source_key"]

#: Values are merged into the large array only when so many have come together.
_RECENT = 1 << 15


class IntSet:
    """A growing set of int64: a large sorted array, and a small one of what came last."""

    def __init__(self, values: np.ndarray) -> None:
        self._sorted = np.unique(np.asarray(values, np.int64))
        self._recent = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def add(self, values: np.ndarray) -> np.ndarray:
        """Add values (n,) int64; return (n,) bool, True for each that was new, the first of equal ones."""
        distinct, first = np.unique(values, return_index=True)
        fresh = ~(_contains(self._sorted, distinct) | _contains(self._recent, distinct))
        self._recent = np.union1d(self._recent, distinct[fresh])
        if len(self._recent) >= _RECENT:
            self._sorted, self._recent = np.union1d(self._sorted, self._recent), self._recent[:0]
        new = np.zeros(len(values), bool)
        new[first[fresh]] = True
        return new


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    place = np.searchsorted(ordered, values)
    found = np.zeros(len(values), bool)
    inside = place < len(ordered)
    found[inside] = ordered[place[inside]] == values[inside]
    return found


def source_key(name: str) -> int:
    """Return a 63-bit key of a source's name (BLAKE2b); among 10 million names a clash has a chance of about 5e-6."""
    return int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest(), "big") >> 1
