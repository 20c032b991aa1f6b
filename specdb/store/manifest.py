"""The manifest: every file of a database with its rows, checksum and provenance, replaced atomically.

A file that the manifest does not list is not part of the database. That one rule makes every write safe: files are
written first, the manifest last, and a process killed in between leaves only files that nobody looks at and that the next
writer replaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from specdb.errors import DatabaseError
from specdb.store.files import digest, sha256_file, write_text

__all__ = ["Batch", "Entry", "Manifest"]


@dataclass(frozen=True)
class Entry:
    """One file: its size, SHA-256, number of rows, and the key of its provenance record."""

    rows: int
    bytes: int
    sha256: str
    provenance: str

    @classmethod
    def of(cls, path: Path, rows: int, provenance: str) -> Entry:
        """Describe a file that was just written."""
        return cls(rows, path.stat().st_size, sha256_file(path), provenance)


@dataclass(frozen=True)
class Batch:
    """One committed step of an ingest.

    Attributes
    ----------
    number : int
        Names the part: ``part-<number:05d>.parquet``. There is no such file where the step accepted nothing.
    records : int
        Spectra and unreadable sources that the step consumed.
    open_sources : dict
        Sources of many spectra that are only partly read after this step -> spectra consumed so far.
    """

    number: int
    records: int
    open_sources: dict[str, int] = field(default_factory=dict)

    @property
    def part(self) -> str:
        """File name of the part."""
        return f"part-{self.number:05d}.parquet"


@dataclass(frozen=True)
class Manifest:
    """An immutable snapshot of what the database holds.

    Attributes
    ----------
    files : dict
        Path relative to the database, with forward slashes -> `Entry`.
    batches : dict
        Modality -> ingest steps in order.
    provenance : dict
        Key -> record: code version, preparation, encoder and weight hash, seed, whatever made the file.
    """

    files: dict[str, Entry] = field(default_factory=dict)
    batches: dict[str, tuple[Batch, ...]] = field(default_factory=dict)
    provenance: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest; raise `DatabaseError` when it is damaged."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                {name: Entry(**entry) for name, entry in raw["files"].items()},
                {name: tuple(Batch(**b) for b in batches) for name, batches in raw["batches"].items()},
                raw["provenance"],
            )
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatabaseError(
                f"{path} is damaged ({error}); restore it from a copy or build the database again"
            ) from error

    def save(self, path: Path) -> None:
        """Replace the manifest on disk atomically."""
        write_text(path, json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")

    def under(self, prefix: str) -> Iterator[tuple[str, Entry]]:
        """Yield the files below a folder, sorted by path."""
        for name in sorted(self.files):
            if name.startswith(prefix.rstrip("/") + "/"):
                yield name, self.files[name]

    def record(self, provenance: dict[str, Any]) -> tuple[str, Manifest]:
        """Return the key of a provenance record and a manifest that holds it."""
        key = digest(provenance)
        return key, replace(self, provenance=self.provenance | {key: provenance})

    def with_files(self, files: dict[str, Entry], drop: frozenset[str] | set[str] = frozenset()) -> Manifest:
        """Return a manifest with files added or replaced and others dropped."""
        kept = {name: entry for name, entry in self.files.items() if name not in drop}
        return replace(self, files=kept | files)

    def with_batch(self, modality: str, batch: Batch) -> Manifest:
        """Return a manifest with one more ingest step."""
        return replace(self, batches=self.batches | {modality: (*self.batches.get(modality, ()), batch)})
