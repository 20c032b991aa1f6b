"""Deleted spectra: tombstones that take effect at once, and compaction, which takes the rows out of the files.

A tombstone cannot be made again from anything else, so tombstones lie in parts that are never replaced:
``deleted/<modality>/part-*.parquet``. The last word on an id counts. They stay after compaction, so that a deleted spectrum
does not come back with the next ingest of its file.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from specdb.store.tables import read_table

if TYPE_CHECKING:
    from specdb.store.store import Store

__all__ = ["TOMBSTONES", "in_sorted", "read_tombstones", "tombstone_table"]

#: One row for each id and change of mind.
TOMBSTONES = pa.schema(
    [
        pa.field("spectrum_id", pa.int64()),
        pa.field("deleted", pa.bool_(), metadata={"description": "false: taken back"}),
        pa.field("reason", pa.string(), metadata={"description": "as the user put it"}),
        pa.field("when", pa.timestamp("s", tz="UTC")),
    ]
)


def tombstone_table(ids: np.ndarray, deleted: bool, reason: str) -> pa.Table:
    """Return rows of one decision about ids (n,), int64."""
    n, now = len(ids), datetime.now(UTC).replace(microsecond=0)
    columns = [pa.array(ids, pa.int64()), [deleted] * n, [reason] * n, [now] * n]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, TOMBSTONES, strict=True)], schema=TOMBSTONES)


def read_tombstones(store: Store, modality: str) -> np.ndarray:
    """Return the ids that are deleted, int64, increasing; read again only where a part has been added."""
    manifest = store.manifest()
    parts = tuple((name, entry.sha256) for name, entry in manifest.under(f"deleted/{modality}"))
    return _read(store.root, parts)


@lru_cache(maxsize=16)
def _read(root: Path, parts: tuple[tuple[str, str], ...]) -> np.ndarray:
    tables = [read_table(root / name, ["spectrum_id", "deleted"]) for name, _ in parts]
    if not tables:
        return np.empty(0, np.int64)
    table = pa.concat_tables(tables)
    ids, deleted = table["spectrum_id"].to_numpy(), table["deleted"].to_numpy()
    # The first of equal ids from behind is the last word on it.
    distinct, last = np.unique(ids[::-1], return_index=True)
    found = distinct[deleted[::-1][last]]
    found.flags.writeable = False  # all callers share it
    return found


def in_sorted(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return (n,) bool: which values are among the increasing ones."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    return ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values
