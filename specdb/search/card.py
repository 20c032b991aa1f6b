"""`index.json`: what an index directory holds. A file that the card does not name is not part of the index.

Every write makes files under the name of a new generation, or appends to files behind the end that the card states, and
replaces the card last, so a process killed at any moment leaves the previous index in force. The files of the previous
generation stay until the next write: a reader that has just read the old card can still open them, and memory maps outlive
removal anyway.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specdb.errors import DatabaseError, InputError, ProvenanceError, VersionError
from specdb.search.build import BuildOptions
from specdb.search.certificate import RecallCertificate
from specdb.store.files import sweep, write_text

__all__ = ["CARD_NAME", "FileEntry", "IndexCard", "Segment", "file_name", "remove_stale"]

CARD_NAME = "index.json"
FORMAT_VERSION = 2
REBUILD = "rebuild it with `specdb index`"

#: Bytes under one checksum. A file that grows is hashed again from the last whole chunk on, not from its beginning.
CHUNK_BYTES = 1 << 26

_SUFFIX = {"vectors": ".f32", "half": ".f16", "ids": ".i64", "trained": ".faiss", "index": ".faiss", "truth": ".npz"}
_REQUIRED = ("vectors", "ids", "truth")


@dataclass(frozen=True)
class FileEntry:
    """One file: name inside the directory, bytes that count, and the SHA-256 of each 64 MiB of them."""

    name: str
    bytes: int
    sha256: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, before: FileEntry | None = None) -> FileEntry:
        """Describe a file that was just written, or one that has grown since it was described as `before`."""
        whole = 0 if before is None else before.bytes // CHUNK_BYTES
        known = () if before is None else before.sha256[:whole]
        size = path.stat().st_size
        return cls(path.name, size, (*known, *_hashes(path, whole, size)))

    def check(self, directory: Path, *, content: bool) -> None:
        """Raise `DatabaseError` unless the file is there with its size and, if asked, its content.

        A file may be longer: what an append left behind the end that counts when it was killed does no harm. A missing
        file raises `FileNotFoundError`: a reader may have been overtaken by writers and can try again.
        """
        path = directory / self.name
        if (size := path.stat().st_size) < self.bytes:
            raise DatabaseError(f"{path} has {size} bytes, its card says {self.bytes}: the index is damaged; {REBUILD}")
        if content and _hashes(path, 0, self.bytes) != self.sha256:
            raise DatabaseError(f"{path} does not match the SHA-256 in {CARD_NAME}: the index is damaged; {REBUILD}")


def _hashes(path: Path, first: int, size: int) -> tuple[str, ...]:
    """Return the SHA-256 of each chunk from number `first` on, up to `size` bytes."""
    found = []
    with path.open("rb") as handle:
        for start in range(first * CHUNK_BYTES, size, CHUNK_BYTES):
            digest, left = hashlib.sha256(), min(CHUNK_BYTES, size - start)
            handle.seek(start)
            while left and (piece := handle.read(min(left, 1 << 20))):
                digest.update(piece)
                left -= len(piece)
            found.append(digest.hexdigest())
    return tuple(found)


@dataclass(frozen=True)
class Segment:
    """One FAISS file and the rows that it covers, ``first`` to ``first + count - 1``."""

    first: int
    count: int
    file: FileEntry


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
        For queries of the indexed modality; holds the search parameters too.
    cross : dict of str to RecallCertificate
        The same for queries of other modalities, by their names.
    faiss_version : str
    files : dict of str to FileEntry
        ``vectors`` (n, d) float32 and ``ids`` (n,) int64, plain little-endian arrays without a header; where the kind needs
        them ``half`` (n, d) float16 and ``trained`` (the empty FAISS structure); ``truth``, the certificate's queries.
    segments : tuple of Segment
        The FAISS files. Rows behind the last are few and compared one by one.
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
    cross: dict[str, RecallCertificate]
    faiss_version: str
    files: dict[str, FileEntry]
    segments: tuple[Segment, ...]
    provenance: dict[str, Any]

    @property
    def entries(self) -> list[FileEntry]:
        """Every file."""
        return [*self.files.values(), *(segment.file for segment in self.segments)]

    @property
    def covered(self) -> int:
        """Rows in the segments together."""
        return sum(segment.count for segment in self.segments)

    def certificate_for(self, source: str | None) -> RecallCertificate:
        """Return the certificate for queries of another modality (None: of the indexed one).

        Where those were never measured, the one of the costliest parameters: queries from elsewhere are the harder ones.
        """
        if source is None or source in self.cross:
            return self.certificate if source is None else self.cross[source]
        known = [self.certificate, *self.cross.values()]
        return max(known, key=lambda c: (c.parameters.nprobe * c.parameters.k_factor, c.parameters.ef))

    def write(self, directory: Path) -> None:
        """Replace the card of a directory atomically; this is the moment at which a new index takes effect."""
        values = {
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "certificate": self.certificate.to_dict(),
            "cross": {source: certificate.to_dict() for source, certificate in self.cross.items()},
        }
        write_text(directory / CARD_NAME, json.dumps(values, indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, directory: Path) -> IndexCard:
        """Read the card of a directory.

        Raises
        ------
        DatabaseError
            Where there is none, it is damaged, or an older specdb wrote it.
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
            if version < FORMAT_VERSION:
                raise DatabaseError(f"{path} has format {version}, this specdb writes {FORMAT_VERSION}; {REBUILD}")
            values["options"] = BuildOptions(**values["options"])
            values["certificate"] = RecallCertificate.from_dict(values["certificate"])
            values["cross"] = {source: RecallCertificate.from_dict(c) for source, c in values["cross"].items()}
            values["files"] = {role: _entry(entry) for role, entry in values["files"].items()}
            values["segments"] = tuple(Segment(s["first"], s["count"], _entry(s["file"])) for s in values["segments"])
            if missing := set(_REQUIRED) - set(values["files"]):
                raise KeyError(", ".join(sorted(missing)))
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


def _entry(values: dict[str, Any]) -> FileEntry:
    return FileEntry(values["name"], values["bytes"], tuple(values["sha256"]))


def file_name(role: str, generation: int, number: int | None = None) -> str:
    """Return the name of a file of one generation, e.g. ``vectors-3.f32``, ``index-3-0.faiss``."""
    return f"{role}-{generation}{'' if number is None else f'-{number}'}{_SUFFIX[role]}"


def remove_stale(directory: Path, keep: IndexCard | None) -> None:
    """Remove what earlier writes left behind; only for the writer, before it writes."""
    sweep(directory)
    names = set() if keep is None else {entry.name for entry in keep.entries}
    for path in directory.glob("*-*.*"):
        # .npy: the vectors and ids of format 1.
        if path.suffix in (*_SUFFIX.values(), ".npy") and path.name not in names:
            path.unlink(missing_ok=True)
