"""Rows of spectra by id: only the row groups that hold them are read, and those of metadata are kept for the next query.

Answers lie anywhere in the files. Scanning all of these for ten rows takes a hundred times as long as the search itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from specdb.store import Manifest, Store, in_sorted, readable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Pages", "Places"]

#: Bytes of metadata that are kept.
_KEPT_BYTES = 1 << 28

_PIXELS = ("flux", "ivar")


@dataclass(frozen=True)
class Places:
    """Where the spectra of a modality lie, for one state of the database.

    Attributes
    ----------
    ids : ndarray (n,), int64
        spectrum_id, increasing.
    rows : ndarray (n,), int64
        Number of each in the order of the files.
    starts : ndarray (g + 1,), int64
        Number of the first row of each row group.
    groups : list of (str, str, int), length g
        File of each row group, SHA-256 of the file, and number of the group in it.
    """

    ids: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    groups: list[tuple[str, str, int]]

    @classmethod
    def read(cls, store: Store, manifest: Manifest, modality: str) -> Places:
        """Read the ids of the `spectra` parts."""
        ids, sizes, groups = [np.empty(0, np.int64)], [0], []
        for name, entry in manifest.under(f"spectra/{modality}"):
            if "/part-" not in name:
                continue
            with readable(store.root / name), pq.ParquetFile(store.root / name) as file:
                ids.append(file.read(["spectrum_id"])["spectrum_id"].to_numpy())
                here = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            sizes += here
            groups += [(name, entry.sha256, i) for i in range(len(here))]
        joined = np.concatenate(ids)
        order = np.argsort(joined)
        return cls(joined[order], order, np.cumsum(sizes), groups)

    def unknown(self, ids: np.ndarray) -> np.ndarray:
        """Return those of some ids that there are not, int64."""
        return ids[~in_sorted(ids, self.ids)]

    def find(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row group (m,) of each id, int64, and its row in there; all ids are known."""
        rows = self.rows[np.searchsorted(self.ids, ids)]
        group = np.searchsorted(self.starts, rows, side="right") - 1
        return group, rows - self.starts[group]


class Pages:
    """Row groups of a database's spectra, those of metadata kept up to a limit."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[tuple[str, str, int], pa.Table] = {}  # least recently used first
        self._bytes = 0
        self._lock = Lock()

    def take(self, places: Places, ids: np.ndarray, *, pixels: bool) -> pa.Table:
        """Return the rows of some ids, in their order; an id may be named more than once.

        Parameters
        ----------
        places : Places
        ids : ndarray (m,), int64
            Known ones.
        pixels : bool
            With flux and ivar.
        """
        group, row = places.find(ids)
        wanted, which = np.unique(group, return_inverse=True)
        with self._lock:
            tables = self._read([places.groups[i] for i in wanted] or places.groups[:1], pixels)
        firsts = np.cumsum([0, *(len(table) for table in tables[:-1])])
        return pa.concat_tables(tables).take(pa.array(firsts[which] + row))

    def _read(self, groups: Sequence[tuple[str, str, int]], pixels: bool) -> list[pa.Table]:
        tables: list[Any] = [None if pixels else self._kept.pop(group, None) for group in groups]
        for name in dict.fromkeys(group[0] for group, table in zip(groups, tables, strict=True) if table is None):
            path = self._store.root / name
            with readable(path), pq.ParquetFile(path) as file:
                columns = None if pixels else [column for column in file.schema_arrow.names if column not in _PIXELS]
                for i, (other, _, number) in enumerate(groups):
                    if other == name and tables[i] is None:
                        tables[i] = file.read_row_group(number, columns)
                        self._bytes += 0 if pixels else tables[i].nbytes
        if not pixels:
            self._kept |= dict(zip(groups, tables, strict=True))
            while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.pop(next(iter(self._kept))).nbytes
        return tables
