"""The database on disk: immutable Parquet parts, one manifest, one writer at a time."""

from specdb.store.compaction import Compacted, compact_parts
from specdb.store.files import atomic_path, canonical_json, digest, disk_errors, sha256_file
from specdb.store.lock import write_lock
from specdb.store.manifest import Batch, Entry, Manifest
from specdb.store.store import FORMAT_VERSION, Store, Writer
from specdb.store.tables import (
    REJECTED,
    embedding_table,
    matrix,
    open_parts,
    read_schema,
    read_table,
    readable,
    spectra_schema,
    spectra_table,
)
from specdb.store.tombstones import TOMBSTONES, in_sorted
from specdb.store.verify import Problem, can_be_made_again, verify_store

__all__ = [
    "FORMAT_VERSION",
    "REJECTED",
    "TOMBSTONES",
    "Batch",
    "Compacted",
    "Entry",
    "Manifest",
    "Problem",
    "Store",
    "Writer",
    "atomic_path",
    "can_be_made_again",
    "canonical_json",
    "compact_parts",
    "digest",
    "disk_errors",
    "embedding_table",
    "in_sorted",
    "matrix",
    "open_parts",
    "read_schema",
    "read_table",
    "readable",
    "sha256_file",
    "spectra_schema",
    "spectra_table",
    "verify_store",
    "write_lock",
]
