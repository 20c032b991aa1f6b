"""`index.json`: what an index directory holds. A file that the card does not name is not part of the index.

Every write makes files under the name of a new generation and replaces the card last, so a process killed at any moment
leaves the previous index in force. The files of the previous generation stay until the next write: a reader that has just
read the old card can still open them, and memory maps outlive removal anyway.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specdb.errors import DatabaseError, InputError, ProvenanceError, VersionError
from specdb.search.build import BuildOptions
from specdb.search.certificate import RecallCertificate
from specdb.store.files import sha256_file, sweep, write_text

__all__ = ["CARD_NAME", "FileEntry", "IndexCard", "remove_stale"]

CARD_NAME = "index.json"
FORMAT_VERSION = 1
REBUILD = "rebuild it with `specdb index`"

_ROLES = {"index": ".faiss", "vectors": ".npy", "ids": ".npy"}


@dataclass(frozen=True)
class FileEntry:
    """One file: name inside the directory, size and SHA-256."""

    name: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Describe a file that was just written."""
        return cls(path.name, path.stat().st_size, sha256_file(path))

    def check(self, directory: Path, *, content: bool) -> None:
        """Raise `DatabaseError` unless the file is there with its size and, if asked, its content.

        A missing file raises `FileNotFoundError`: a reader may have been overtaken by writers and can try again.
        """
        path = directory / self.name
        if (size := path.stat().st_size) != self.bytes:
            raise DatabaseError(f"{path} has {size} bytes, its card says {self.bytes}: the index is damaged; {REBUILD}")
        if content and sha256_file(path) != self.sha256:
            raise DatabaseError(f"{path} does not match the SHA-256 in {CARD_NAME}: the index is damaged; {REBUILD}")


@dataclass(frozen=True)
class IndexCard:
    """The content of `index.json`.

    Attributes
    ----------
    generation : int
        Number of the write that made it; part of the file names.
    kind, why : str
        Kind of index, and one sentence on why it is this one.
    metric : str
        ``inner_product``, which for unit vectors is the cosine.
    dimension, count : int
    built_count : int
        Number of vectors at the last build from scratch; those beyond it were appended.
    options : BuildOptions
    certificate : RecallCertificate
        Holds the search parameters too.
    faiss_version : str
    files : dict of str to FileEntry
        ``index`` (FAISS), ``vectors`` (n, d) float32 and ``ids`` (n,) int64, both `.npy`.
    provenance : dict
        JSON values handed over by the caller: encoder and its hash, preparation, sources.
    """

    generation: int
    kind: str
    why: str
    metric: str
    dimension: int
    count: int
    built_count: int
    options: BuildOptions
    certificate: RecallCertificate
    faiss_version: str
    files: dict[str, FileEntry]
    provenance: dict[str, Any]

    def write(self, directory: Path) -> None:
        """Replace the card of a directory atomically; this is the moment at which a new index takes effect."""
        values = {
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "certificate": self.certificate.to_dict(),
        }
        write_text(directory / CARD_NAME, json.dumps(values, indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, directory: Path) -> IndexCard:
        """Read the card of a directory.

        Raises
        ------
        DatabaseError
            Where there is none or it is damaged.
        VersionError
            Where a newer specdb wrote it.
        """
        path = directory / CARD_NAME
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values.pop("format_version")
            if version > FORMAT_VERSION:
                raise VersionError(
                    f"{path} has format {version}, this specdb reads up to {FORMAT_VERSION}: update specdb, or {REBUILD}"
                )
            values["options"] = BuildOptions(**values["options"])
            values["certificate"] = RecallCertificate.from_dict(values["certificate"])
            values["files"] = {role: FileEntry(**values["files"][role]) for role in _ROLES}
            return cls(**values)
        except FileNotFoundError:
            raise DatabaseError(f"{directory} holds no index; make one with `specdb index`") from None
        except (ValueError, KeyError, TypeError, AttributeError, InputError) as error:
            raise DatabaseError(f"{path} is not a valid index card ({type(error).__name__}: {error}); {REBUILD}") from error

    def check_provenance(self, expected: dict[str, Any]) -> None:
        """Raise `ProvenanceError` unless every expected value is the recorded one; ``dimension`` may be asked for too."""
        recorded = {"dimension": self.dimension, **self.provenance}
        wrong = [
            f"{key} is {recorded.get(key)!r}, expected {value!r}"
            for key, value in expected.items()
            if recorded.get(key) != value
        ]
        if wrong:
            raise ProvenanceError(f"the index was made from something else: {'; '.join(wrong)}; {REBUILD}")


def file_name(role: str, generation: int) -> str:
    """Return the name of a file of one generation, e.g. ``vectors-3.npy``."""
    return f"{role}-{generation}{_ROLES[role]}"


def remove_stale(directory: Path, keep: IndexCard | None) -> None:
    """Remove what earlier writes left behind; only for the writer, before it writes."""
    sweep(directory)
    names = set() if keep is None else {entry.name for entry in keep.files.values()}
    for role, suffix in _ROLES.items():
        for path in directory.glob(f"{role}-*{suffix}"):
            if path.name not in names:
                path.unlink(missing_ok=True)
