"""Files that are either wholly there or not there at all: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from specdb.errors import DatabaseError

__all__ = ["atomic_path", "canonical_json", "digest", "disk_errors", "sha256_file", "sweep", "write_text"]

_TEMPORARY = ".tmp-"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it becomes `target`, durably, in one step.

    The temporary file is removed on any error, so an interrupted write leaves either the old content or the new one.

    Raises
    ------
    DatabaseError
        When the disk is full or cannot be written; what was committed before is untouched.
    """
    temporary = target.with_name(f"{_TEMPORARY}{os.getpid()}-{target.name}")
    try:
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as handle:
                os.fsync(handle.fileno())
            temporary.replace(target)
            _fsync_folder(target.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Map errors of the operating system while writing `target` to `DatabaseError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DatabaseError(
                f"no space left on the disk while writing {target}; everything committed before is safe: "
                "free some space and run the same command again to go on"
            ) from error
        raise DatabaseError(f"cannot write {target}: {error.strerror or error}; check the folder's permissions") from error


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(target: Path, text: str) -> None:
    """Replace a text file atomically (UTF-8)."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sweep(folder: Path) -> int:
    """Remove temporary files and folders that killed writers left below `folder`; call it only while holding the lock."""
    stale = list(folder.rglob(f"{_TEMPORARY}*"))
    for path in stale:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(stale)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: object) -> str:
    """Return sixteen hexadecimal digits that stand for a JSON-like value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]
