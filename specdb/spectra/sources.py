"""Where spectra come from: files, folders, globs, tar archives and text lists of paths become a stream of `Source`."""

from __future__ import annotations

import fnmatch
import io
import os
import re
import tarfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self

from specdb.errors import InputError, ReadError

__all__ = ["Source", "expand_sources"]

ARCHIVES = (".tar", ".tar.gz", ".tgz")
LISTS = (".lst", ".list")
_MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Source:
    """One file or one member of a tar archive. Small, and safe to send to another process.

    Attributes
    ----------
    path : Path
        The file, or the archive.
    member : str
        Name inside the archive; empty for a plain file.
    named : bool
        True where the user named this very file; False where it was met in a folder, archive or glob.
    offset, size : int
        Position of the member's data in an uncompressed archive, bytes; -1 otherwise.
    content : bytes or None
        The member's data where the archive is compressed: such an archive can only be read from front to back, so the bytes
        travel with the source instead of being searched for again.
    damage : tuple (reason, detail) or None
        Set where already the search found that this source cannot be read; reading it raises that `ReadError`.
    """

    path: Path
    member: str = ""
    named: bool = True
    offset: int = field(default=-1, compare=False)
    size: int = field(default=-1, compare=False)
    content: bytes | None = field(default=None, compare=False, repr=False)
    damage: tuple[str, str] | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """What is stored in `source_file`: the absolute POSIX path, members as ``archive.tar::member``."""
        text = Path(os.path.normpath(self.path.absolute())).as_posix()
        text = f"{text}::{self.member}" if self.member else text
        # Names that are not UTF-8 are held by Python as lone surrogates, which no table can store.
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def endswith(self, suffixes: Collection[str]) -> bool:
        """Return True if the file name has one of these (lower-case) endings."""
        return (self.member or self.path.name).lower().endswith(tuple(suffixes))

    def read_bytes(self, limit: int = -1) -> bytes:
        """Return the stored bytes as they are, at most `limit` of them if that is not negative.

        Raises
        ------
        ReadError
            ``unreadable`` where the system refuses, ``truncated`` where the archive ends inside the member.
        """
        if self.damage is not None:
            raise ReadError(*self.damage)
        if self.content is not None:
            return self.content if limit < 0 else self.content[:limit]
        try:
            with self.path.open("rb") as file:
                if self.offset < 0:
                    return file.read(limit)
                file.seek(self.offset)
                wanted = self.size if limit < 0 else min(limit, self.size)
                data = file.read(wanted)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the name
            raise ReadError("unreadable", f"{error}; check the path, its permissions and the disk") from error
        if len(data) < wanted:
            raise ReadError("truncated", f"the archive ends after {len(data)} of the member's {wanted} bytes")
        return data


def expand_sources(inputs: Iterable[str | Path] | str | Path, suffixes: Collection[str] = ()) -> Iterator[Source]:
    """Turn what the user named into a stream of sources, in the order given.

    Folders are walked in sorted order, through symbolic links but not round in circles; hidden files are left out, archives
    (.tar, .tar.gz, .tgz) are entered, specdb databases are passed by. Every regular file is delivered, whatever its ending,
    so that nothing met goes uncounted. A list of paths is ``@list.txt``, a ``.lst`` or ``.list`` file, or a ``.txt`` file of
    which every line looks like a path. It has one file, folder, glob or archive per line, taken relative to the folder of
    the list or else to the working directory; empty lines and lines starting with ``#`` are ignored.

    Parameters
    ----------
    inputs : iterable of str or Path, or one of them
    suffixes : collection of str
        Endings of spectrum files, e.g. ``(".fits", ".fits.gz")``; a line in a ``.txt`` file that ends so looks like a path.

    Returns
    -------
    iterator of Source
        Never holds more than one directory of each level in memory.

    Raises
    ------
    InputError
        At the call, for an input that does not exist, a glob without a match, a folder, archive or list without any file.
    """
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    streams = [_checked(os.fspath(item), suffixes) for item in inputs]
    if not streams:
        raise InputError("no input was named; name files, folders, globs, tar archives or @list.txt")
    return chain.from_iterable(streams)


def _checked(text: str, suffixes: Collection[str]) -> Iterator[Source]:
    """Sources of one input, after making sure that there is at least one."""
    if text.startswith("@") and not os.path.lexists(text):
        path = Path(text[1:])
        if not path.is_file():
            raise InputError(f"there is no list of paths {str(path)!r}; @ stands before the name of a text file")
        stream, kind = _from_list(path), "list"
    elif os.path.lexists(text):
        path = Path(text)
        if path.is_dir():
            stream, kind = _walk(path), "folder"
        elif path.name.lower().endswith(LISTS) or _is_list(path, suffixes):
            stream, kind = _from_list(path), "list"
        else:
            stream, kind = _file_or_archive(path, named=True), "archive"
    elif _MAGIC.search(text):
        stream, kind = _from_glob(text), "pattern"
    else:
        raise InputError(f"there is no file or folder {text!r}")
    first = list(islice(stream, 1))
    if not first:
        what = "matches no file" if kind == "pattern" else "holds no file"
        raise InputError(f"the {kind} {text!r} {what}; name one that does (hidden files are ignored)")
    return chain(first, stream)


def _walk(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Source]:
    """All regular files below a folder, depth first, names in sorted order."""
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link back to a folder we are inside of
            return
        with os.scandir(folder) as entries:
            found = sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    except OSError as error:
        yield Source(folder, named=False, damage=("unreadable", f"{error}; the folder cannot be listed"))
        return
    if ("specdb.toml", False) in found:
        return  # a database that lies among the survey's files is not part of the survey
    for name, is_dir in found:
        if is_dir:
            yield from _walk(folder / name, (*above, here))
        else:
            yield from _file_or_archive(folder / name, named=False)


def _file_or_archive(path: Path, named: bool) -> Iterator[Source]:
    if path.name.lower().endswith(ARCHIVES):
        yield from _members(path)
    elif path.is_file() or not path.exists():  # not: pipes, sockets, devices; a dangling link is a file that cannot be read
        yield Source(path, named=named)


_CUT_HEADERS = (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]


class _Member(tarfile.TarInfo):
    """A header that is cut, or missing where the end mark should be, is an error; tarfile takes it for the end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> Self:
        """Read the next header."""
        try:
            return super().fromtarfile(tarfile)
        except _CUT_HEADERS as error:
            raise EOFError(f"it ends early, without an end mark ({error})") from error


def _members(path: Path) -> Iterator[Source]:
    """Regular members of a tar archive, in the order of the archive, without unpacking it."""
    try:
        mode: Any = "r|*" if not path.name.lower().endswith(".tar") else "r:*"
        with tarfile.open(path, mode, tarinfo=_Member) as tar:
            # tarfile gives "r:*" a plain file object only where nothing has to be decompressed.
            seekable = tar.mode == "r" and isinstance(tar.fileobj, io.BufferedReader)
            while (info := tar.next()) is not None:
                # tarfile would remember every member: gigabytes for an archive of millions.
                tar.members = []  # type: ignore[attr-defined]
                if info.isdir() or info.name.rpartition("/")[2].startswith("."):
                    continue
                make = partial(Source, path, info.name, named=False)
                if not info.isfile():
                    yield make(damage=("unreadable", "the member is a link or a special file; unpack the archive first"))
                elif seekable and not info.issparse():
                    yield make(offset=info.offset_data, size=info.size)
                else:
                    file = tar.extractfile(info)
                    yield make(content=file.read() if file else b"")
    except (EOFError, tarfile.ReadError) as error:
        cut = isinstance(error, EOFError) or "unexpected end of data" in str(error)
        yield Source(path, damage=("truncated" if cut else "corrupt", f"tar archive: {error}; fetch it again"))
    except (tarfile.TarError, zlib.error, OSError, ValueError) as error:
        reason = "unreadable" if isinstance(error, OSError) and error.errno else "corrupt"
        yield Source(path, damage=(reason, f"tar archive: {error}; fetch it again"))


def _from_glob(pattern: str, folder: Path = Path()) -> Iterator[Source]:
    path = Path(pattern)
    start = Path(path.anchor) if path.anchor else folder
    for match in _match(start, [part for part in path.parts if part != path.anchor]):
        yield from _walk(match) if match.is_dir() else _file_or_archive(match, named=False)


def _match(base: Path, parts: list[str]) -> Iterator[Path]:
    """Paths that match a pattern, sorted folder by folder; `glob.iglob` would deliver them in the order of the disk."""
    if not parts:
        yield base
        return
    head, rest = parts[0], parts[1:]
    if not _MAGIC.search(head):
        if os.path.lexists(base / head):
            yield from _match(base / head, rest)
        return
    try:
        with os.scandir(base) as entries:
            found = sorted((e.name, e.is_dir(), e.is_symlink()) for e in entries if not e.name.startswith("."))
    except OSError:
        return
    if head == "**":
        if rest:  # a final ** means every file below, which walking the folder delivers
            yield from _match(base, rest)
        else:
            yield base
            return
    for name, is_dir, is_link in found:
        if head == "**":
            if is_dir and not is_link:
                yield from _match(base / name, parts)
        elif fnmatch.fnmatchcase(name, head):
            yield from _match(base / name, rest)


def _list_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line in file:
            entry = line.strip()
            if entry and not entry.startswith("#"):
                yield entry


def _located(entry: str, folder: Path) -> Path:
    beside = folder / entry
    return beside if os.path.lexists(beside) or not os.path.lexists(entry) else Path(entry)


def _from_list(path: Path) -> Iterator[Source]:
    """Sources of a list; each line gives at least one, so that a wrong line is counted as a failure."""
    try:
        for entry in _list_lines(path):
            target = _located(entry, path.parent)
            if target.is_dir():
                stream = _walk(target)
            elif not os.path.lexists(target) and _MAGIC.search(entry):
                stream = _from_glob(entry, path.parent)
            else:
                stream = _file_or_archive(target, named=True)
            first = next(stream, None)
            if first is None and _MAGIC.search(entry):
                stream = _from_glob(entry)
                first = next(stream, None)
            yield first or Source(target, damage=("unreadable", f"line {entry!r} of {path.name} leads to no file"))
            yield from stream
    except (OSError, ValueError) as error:
        yield Source(path, damage=("unreadable", f"list of paths: {error}"))


def _is_list(path: Path, suffixes: Collection[str]) -> bool:
    """Tell a ``.txt`` list of paths from a ``.txt`` spectrum by its first hundred lines."""
    if path.suffix.lower() != ".txt":
        return False
    endings = (*suffixes, *ARCHIVES)

    def like_a_path(entry: str) -> bool:
        return entry.lower().endswith(endings) or os.path.lexists(_located(entry, path.parent))

    try:
        lines = list(islice(_list_lines(path), 100))
        return bool(lines) and all("\0" not in line and like_a_path(line) for line in lines)
    except OSError:
        return False
