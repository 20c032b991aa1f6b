"""The database directory: where things are, what is committed, and the only way to commit more."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb._version import __version__
from specdb.errors import DatabaseError, InputError, ProvenanceError, VersionError
from specdb.spectra import Modality
from specdb.store.compaction import clear_replaced
from specdb.store.files import atomic_path, sha256_file, sweep, write_text
from specdb.store.lock import write_lock
from specdb.store.manifest import Batch, Entry, Manifest
from specdb.store.tables import REJECTED, matrix, read_table, write_rows, write_table
from specdb.store.tombstones import in_sorted, read_tombstones, tombstone_table

__all__ = ["FORMAT_VERSION", "Store", "Writer"]

#: Raised when an older specdb could not read what a newer one writes.
FORMAT_VERSION = 1

#: Folders whose files have their own ways in.
_OWNED = ("spectra", "embeddings", "index", "deleted")

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Store:
    """A database directory, opened for reading; `writing` gives the lock and the right to commit.

    Attributes
    ----------
    root : Path
    name : str
    default_encoder : str
        Name of the encoder whose embeddings and index answer searches.
    encoder_location : str
        Where that encoder is loaded from: its name where it is a registered one, else its folder.
    """

    root: Path
    name: str
    default_encoder: str
    encoder_location: str
    _pinned: Manifest | None = field(default=None, repr=False, compare=False, kw_only=True)

    # -- opening -------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, root: Path, default_encoder: str, encoder_location: str | None = None) -> Store:
        """Create an empty database, or open the one that is there.

        Parameters
        ----------
        root : Path
        default_encoder : str
            Used where the database is new; one that exists keeps its own.
        encoder_location : str, optional
            By default the name.

        Raises
        ------
        DatabaseError
            When `root` is a file or a folder with other content, which is never touched.
        """
        if (root / "specdb.toml").exists():
            return cls.open(root)
        try:
            root.mkdir(parents=True, exist_ok=True)
            ours = ("lock", "lock.json", "manifest.json")
            foreign = [path.name for path in root.iterdir() if path.name not in ours]
        except OSError as error:
            raise DatabaseError(f"cannot create a database at {root}: {error.strerror or error}") from error
        if foreign:
            raise DatabaseError(
                f"{root} holds other files ({', '.join(sorted(foreign)[:3])}, ...) and no specdb.toml; "
                "a database is created only in an empty or a new folder"
            )
        settings = {
            "format_version": FORMAT_VERSION,
            "name": root.resolve().name,
            "default_encoder": default_encoder,
            "encoder_location": encoder_location or default_encoder,
        }
        Manifest().save(root / "manifest.json")
        # A JSON string or integer is a TOML value, too.
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
        write_text(root / "specdb.toml", f"# made by specdb {__version__}\n" + "\n".join(lines) + "\n")
        return cls.open(root)

    @classmethod
    def open(cls, root: Path) -> Store:
        """Open an existing database.

        Raises
        ------
        DatabaseError
            When there is none, or its settings are damaged.
        VersionError
            When it was written in a newer format.
        """
        path = root / "specdb.toml"
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
            version = int(settings["format_version"])
            if version <= FORMAT_VERSION:
                return cls(root, *(str(settings[key]) for key in ("name", "default_encoder", "encoder_location")))
        except FileNotFoundError:
            raise DatabaseError(
                f"{root} is no specdb database (it has no specdb.toml); `specdb build-index` makes one"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatabaseError(
                f"{path} cannot be read ({error}); it should give format_version, name, default_encoder, encoder_location"
            ) from error
        raise VersionError(
            f"{root} has format version {version}, this specdb {__version__} reads up to {FORMAT_VERSION}; upgrade specdb"
        )

    # -- what is there -------------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest:
        """Return the current snapshot."""
        if self._pinned is not None:
            return self._pinned
        path = self.root / "manifest.json"
        try:
            stamp = path.stat()
        except FileNotFoundError:
            raise DatabaseError(
                f"{path} is missing, so nobody knows which files belong to the database; restore it from a copy, "
                "or build a new database"
            ) from None
        return _load_manifest(path, (stamp.st_mtime_ns, stamp.st_ino, stamp.st_size))

    def pinned(self) -> Store:
        """Return the database as it is now, for reading: it sees nothing of what is committed from here on.

        Whoever looks at the manifest more than once for one answer needs it. Files that are replaced stay for a while only,
        so it should not be kept for longer than an answer takes.
        """
        return replace(self, _pinned=self.manifest())

    def modalities(self) -> list[str]:
        """Return the modalities that anything has been ingested for, sorted."""
        return sorted(self.manifest().batches)

    def encoders(self, modality: str) -> list[str]:
        """Return the encoders that have embedded a modality, sorted."""
        names = {name.split("/")[1] for name, _ in self.manifest().under("embeddings") if name.split("/")[2] == modality}
        return sorted(names)

    def spectra_parts(self, modality: str) -> list[str]:
        """Return the relative paths of the committed `spectra` parts in order."""
        return [name for name, _ in self.manifest().under(f"spectra/{modality}") if "/part-" in name]

    def embedding_parts(self, encoder: str, modality: str) -> list[str]:
        """Return the relative paths of the committed `embeddings` parts in order."""
        return [name for name, _ in self.manifest().under(f"embeddings/{encoder}/{modality}")]

    def index_folder(self, encoder: str, modality: str) -> Path:
        """Return the folder of the index over one modality's embeddings."""
        return self.root / "index" / encoder / modality

    def rejected(self, modality: str) -> pa.Table:
        """Return the table of what did not get in, without rows of a step that was never committed."""
        path = self.root / _rejected_name(modality)
        if not path.exists():
            return REJECTED.empty_table()
        table = read_table(path)
        numbers = pa.array([b.number for b in self.manifest().batches.get(modality, ())], pa.int32())
        return table.filter(pc.is_in(table["batch"], numbers))

    def deleted(self, modality: str) -> np.ndarray:
        """Return the ids of a modality's deleted spectra, int64, increasing, read-only.

        Their rows stay in the files until `specdb compact`, so whoever reads `spectra` or `embeddings` leaves them out:
        ``rows[~in_sorted(ids, store.deleted(modality))]``, or in SQL an anti-join. Cheap to ask again: it is kept until the
        next deletion.
        """
        return read_tombstones(self, modality)

    def counts(self, modality: str) -> tuple[int, int]:
        """Return the number of a modality's spectra, and of deleted ones whose rows are still in the files."""
        rows = sum(entry.rows for name, entry in self.manifest().under(f"spectra/{modality}") if "/part-" in name)
        deleted = self.deleted(modality)
        here = int(in_sorted(deleted, np.sort(self.ids(modality, deleted=True))).sum()) if len(deleted) else 0
        return rows - here, here

    def column(self, parts: Sequence[str], name: str) -> Iterator[pa.ChunkedArray]:
        """Yield one column part by part."""
        for part in parts:
            yield read_table(self.root / part, [name])[name]

    def ids(self, modality: str, *, deleted: bool = False) -> np.ndarray:
        """Return the spectrum_id of every spectrum of a modality in order, int64; deleted ones only where asked for."""
        columns = self.column(self.spectra_parts(modality), "spectrum_id")
        found = np.concatenate([np.empty(0, np.int64), *(column.to_numpy() for column in columns)])
        return found if deleted else found[~in_sorted(found, self.deleted(modality))]

    def embedded_ids(self, encoder: str, modality: str) -> np.ndarray:
        """Return the spectrum_id of every embedding in order, int64, deleted ones included."""
        columns = self.column(self.embedding_parts(encoder, modality), "spectrum_id")
        return np.concatenate([np.empty(0, np.int64), *(column.to_numpy() for column in columns)])

    def vectors(self, encoder: str, modality: str, output: str = "shared") -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (ids, vectors) part by part, without deleted spectra: (n,) int64 and (n, d) float32."""
        deleted = self.deleted(modality)
        for part in self.embedding_parts(encoder, modality):
            table = read_table(self.root / part, ["spectrum_id", output])
            ids, vectors = table["spectrum_id"].to_numpy(), matrix(table[output])
            kept = ~in_sorted(ids, deleted)
            yield (ids, vectors) if kept.all() else (ids[kept], vectors[kept])

    def tables(self, folder: str) -> list[str]:
        """Return the relative paths of the committed Parquet files below a folder (``labels``), sorted."""
        return [name for name, _ in self.manifest().under(folder) if name.endswith(".parquet")]

    def provenance(self, name: str) -> dict[str, Any]:
        """Return the provenance record of one file."""
        manifest = self.manifest()
        return manifest.provenance[manifest.files[name].provenance]

    def matches(self, name: str, entry: Entry) -> bool:
        """Whether a file on disk is the one that a manifest entry describes (size and SHA-256)."""
        path = self.root / name
        return path.exists() and path.stat().st_size == entry.bytes and sha256_file(path) == entry.sha256

    # -- writing -------------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """Hold the write lock; what a killed writer left half-done is cleared first."""
        with write_lock(self.root):
            sweep(self.root)
            clear_replaced(self)
            yield Writer(self)


class Writer:
    """The right to commit; obtained from `Store.writing`. Every method leaves the database consistent on disk."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def require_same(self, names: Sequence[str], keys: dict[str, Any], what: str) -> None:
        """Refuse to go on when stored files were made differently.

        Parameters
        ----------
        names : sequence of str
            Files already in the database.
        keys : dict
            What must be equal in the provenance of each of them.
        what : str
            For the message: "spectra", "embeddings by specclip-mini".

        Raises
        ------
        ProvenanceError
        """
        manifest = self.store.manifest()
        for key in {manifest.files[name].provenance for name in names}:
            record = manifest.provenance[key]
            different = [f"{k}: stored {record.get(k)!r}, now {v!r}" for k, v in keys.items() if record.get(k) != v]
            if different:
                raise ProvenanceError(
                    f"the {what} in {self.store.root} were made differently ({'; '.join(different)}); "
                    "use the same settings, or build a new database"
                )

    def commit_ingest(
        self,
        modality: Modality,
        batch: Batch,
        spectra: pa.Table,
        rejected: pa.Table,
        provenance: dict[str, Any],
        embeddings: tuple[str, pa.Table, dict[str, Any]] | None = None,
    ) -> None:
        """Commit one ingest step: accepted spectra, rejected rows and, when given, (encoder, embeddings, provenance)."""
        manifest = self.store.manifest()
        files: dict[str, Entry] = {}
        if rejected.num_rows:
            # Rows carry their step's number: should we die before the manifest is written, they are ignored and replaced.
            name = _rejected_name(modality.name)
            table = pa.concat_tables([self.store.rejected(modality.name), rejected])
            files[name], manifest = self._write(name, table, {"specdb_version": __version__}, manifest)
        if spectra.num_rows:
            name = f"spectra/{modality.name}/{batch.part}"
            files[name], manifest = self._write(name, spectra, provenance, manifest)
            if embeddings is not None:
                encoder, table, record = embeddings
                name = _embedding_name(encoder, modality.name, batch.part)
                files[name], manifest = self._write(name, table, record, manifest)
        self._save(manifest.with_files(files).with_batch(modality.name, batch))

    def commit_embeddings(self, encoder: str, modality: str, part: str, table: pa.Table, provenance: dict[str, Any]) -> None:
        """Commit the embeddings of one `spectra` part."""
        name = _embedding_name(encoder, modality, part)
        entry, manifest = self._write(name, table, provenance, self.store.manifest())
        self._save(manifest.with_files({name: entry}))

    def commit_index(self, encoder: str, modality: str, rows: int, provenance: dict[str, Any]) -> None:
        """Register the index that now lies in `Store.index_folder`; its own `index.json` lists and checks its files."""
        key, manifest = self.store.manifest().record({"specdb_version": __version__} | provenance)
        name = f"index/{encoder}/{modality}/index.json"
        self._save(manifest.with_files({name: Entry.of(self.store.root / name, rows, key)}))

    def forget_failures(self, modality: str) -> int:
        """Drop the failed rows of the rejected table, so that their sources are read again; return how many there were."""
        return self.forget_rejected(modality, status="failed")

    def forget_rejected(self, modality: str, **what: str) -> int:
        """Drop the rows of the rejected table whose column has a value (``reason="deleted"``); return how many."""
        ((column, value),) = what.items()
        table = self.store.rejected(modality)
        chosen = pc.equal(table[column], value)
        count = int(pc.sum(chosen).as_py() or 0)
        if count:
            name = _rejected_name(modality)
            kept = table.filter(pc.invert(chosen))
            entry, manifest = self._write(name, kept, {"specdb_version": __version__}, self.store.manifest())
            self._save(manifest.with_files({name: entry}))
        return count

    def mark_deleted(self, modality: str, ids: np.ndarray, *, deleted: bool = True, reason: str = "") -> int:
        """Delete spectra, or take that back, with immediate effect; return how many were not in that state before.

        Parameters
        ----------
        modality : str
        ids : ndarray (n,), int64
        deleted : bool
            False takes a deletion back.
        reason : str
            Kept with the tombstone.
        """
        already = in_sorted(ids := np.unique(np.asarray(ids, np.int64)), self.store.deleted(modality))
        changed = ids[~already if deleted else already]
        if changed.size:
            number = len(list(self.store.manifest().under(f"deleted/{modality}")))
            name = f"deleted/{modality}/part-{number:05d}.parquet"
            table = tombstone_table(changed, deleted, reason)
            entry, manifest = self._write(name, table, {"kind": "deleted", "modality": modality}, self.store.manifest())
            self._save(manifest.with_files({name: entry}))
        return len(changed)

    def replace(self, new: dict[str, Entry], old: Sequence[str]) -> None:
        """Put files that were just written in the place of others, in one step; the others stay on the disk for readers."""
        self._save(self.store.manifest().with_files(new, drop=set(old)))

    def put(self, name: str, rows: pa.Table | pa.RecordBatchReader, provenance: dict[str, Any]) -> int:
        """Commit a table that stands on its own (labels, pairs, predictions, anomalies), replacing the one of that name.

        A table that is replaced leaves the manifest before the new one takes its place: whoever dies in between leaves a
        database without the table, never one whose manifest describes another table. What cannot be made again
        belongs into parts that are never replaced.

        Parameters
        ----------
        name : str
            Path relative to the database, with forward slashes: ``labels/lasp.parquet``.
        rows : pyarrow.Table or RecordBatchReader
            A reader is streamed: it may be larger than memory.
        provenance : dict
            What made it.

        Returns
        -------
        int
            Number of rows.

        Raises
        ------
        InputError
            For a name that could leave the database's folders.
        DatabaseError
            Where it cannot be written; the table that was there before is untouched when the disk is full.
        """
        folder, *rest = name.split("/")
        if not rest or folder in _OWNED or not all(_SAFE_NAME.fullmatch(part) for part in (folder, *rest)):
            raise InputError(f"{name!r} cannot be the name of a table; use letters, digits, '.', '_' and '-' in its parts")
        path = self.store.root / name
        with atomic_path(path) as temporary:
            count = write_rows(rows, temporary)
            if name in self.store.manifest().files:
                self.forget([name])
        key, manifest = self.store.manifest().record({"specdb_version": __version__} | provenance)
        self._save(manifest.with_files({name: Entry.of(path, count, key)}))
        return count

    def remove(self, names: Sequence[str]) -> None:
        """Take files out of the database, then from the disk."""
        self.forget(names)
        for name in names:
            (self.store.root / name).unlink(missing_ok=True)

    def forget(self, names: Sequence[str]) -> None:
        """Take files that can be made again (embeddings, indices) out of the manifest; the next run makes them."""
        manifest = self.store.manifest()
        self._save(manifest.with_files({}, drop=set(names)))

    def _write(self, name: str, table: pa.Table, provenance: dict[str, Any], manifest: Manifest) -> tuple[Entry, Manifest]:
        path = self.store.root / name
        key, manifest = manifest.record({"specdb_version": __version__} | provenance)
        write_table(table, path)
        return Entry.of(path, table.num_rows, key), manifest

    def _save(self, manifest: Manifest) -> None:
        manifest.save(self.store.root / "manifest.json")


@lru_cache(maxsize=8)
def _load_manifest(path: Path, stamp: tuple[int, int, int]) -> Manifest:
    # The manifest is replaced as a whole, so its stamp tells whether it is still the one read before.
    return Manifest.load(path)


def _rejected_name(modality: str) -> str:
    return f"spectra/{modality}/rejected.parquet"


def _embedding_name(encoder: str, modality: str, part: str) -> str:
    if not _SAFE_NAME.fullmatch(encoder):
        raise InputError(f"encoder name {encoder!r} cannot be a folder name; use letters, digits, '.', '_' and '-'")
    return f"embeddings/{encoder}/{modality}/{part}"
