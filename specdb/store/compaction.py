"""Taking deleted rows out of the files.

A part that holds deleted spectra is written anew under a new name, its embeddings by every encoder with it, and one
replacement of the manifest puts the new files in the place of the old. Killed at any moment, a part is either as it was or
as it shall be, and the next run goes on with the parts that are left. The old files stay for a while, so that readers who
have just read the manifest can still open them; the first process that writes after that removes them.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from specdb.store.manifest import Entry
from specdb.store.tables import read_table, write_table
from specdb.store.tombstones import in_sorted

if TYPE_CHECKING:
    from specdb.store.store import Store, Writer

__all__ = ["GRACE_S", "Compacted", "clear_replaced", "compact_parts"]

#: Seconds that readers have to open files that were replaced.
GRACE_S = 60.0

_PART = re.compile(r"part-(\d+)(?:-c(\d+))?\.parquet")


@dataclass(frozen=True)
class Compacted:
    """What compaction did to one modality.

    Attributes
    ----------
    dropped : int
        Spectra taken out of the files.
    parts : int
        Parts written anew, or dropped as a whole.
    bytes : int
        Size of the files that these replaced; freed by the first process that writes after `GRACE_S`.
    """

    dropped: int
    parts: int
    bytes: int


def compact_parts(writer: Writer, modality: str) -> Compacted:
    """Take the deleted spectra of a modality, and their embeddings, out of the files."""
    store = writer.store
    deleted = store.deleted(modality)
    dropped = parts = size = 0
    for spectra in store.spectra_parts(modality):
        ids = read_table(store.root / spectra, ["spectrum_id"])["spectrum_id"].to_numpy()
        kept = np.flatnonzero(~in_sorted(ids, deleted))
        if len(kept) == len(ids):
            continue
        name = spectra.rsplit("/", 1)[1]
        manifest = store.manifest()
        together = [spectra, *(f"embeddings/{e}/{modality}/{name}" for e in store.encoders(modality))]
        old = [path for path in together if path in manifest.files]
        new: dict[str, Entry] = {}
        for path in old if len(kept) else []:
            target = f"{path.rsplit('/', 1)[0]}/{_next_name(name)}"
            write_table(read_table(store.root / path).take(pa.array(kept)), store.root / target)
            new[target] = Entry.of(store.root / target, len(kept), manifest.files[path].provenance)
        size += sum(manifest.files[path].bytes for path in old)
        for path in old:
            os.utime(store.root / path)  # its time of removal counts from now
        writer.replace(new, old)
        dropped, parts = dropped + len(ids) - len(kept), parts + 1
    return Compacted(dropped, parts, size)


def _next_name(name: str) -> str:
    """Return the name of a part after one more compaction; it sorts where the part was."""
    found = _PART.fullmatch(name)
    assert found is not None
    return f"part-{found[1]}-c{int(found[2] or 0) + 1}.parquet"


def clear_replaced(store: Store) -> int:
    """Remove the files of committed steps that compaction has replaced; only for the writer, before it writes.

    Parts of steps that the manifest knows nothing about are left alone: should it be an older copy, they are all there is.
    """
    manifest = store.manifest()
    removed = 0
    for modality, batches in manifest.batches.items():
        numbers = {batch.number for batch in batches}
        for folder in (f"spectra/{modality}", f"embeddings/*/{modality}"):
            for path in store.root.glob(f"{folder}/part-*.parquet"):
                found = _PART.fullmatch(path.name)
                known = path.relative_to(store.root).as_posix() in manifest.files
                if found and not known and int(found[1]) in numbers and path.stat().st_mtime + GRACE_S <= time.time():
                    path.unlink(missing_ok=True)
                    removed += 1
    return removed
