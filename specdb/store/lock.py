"""One writer at a time; readers never wait."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from specdb.errors import DatabaseError, LockError

__all__ = ["write_lock"]


@contextmanager
def write_lock(root: Path) -> Iterator[None]:
    """Hold the write lock of a database; the operating system releases it when the process dies, however it dies.

    Raises
    ------
    LockError
        At once when another process holds it, naming that process.
    """
    note = root / "lock.json"
    lock = FileLock(root / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise LockError(
            f"{root} is being written by {_holder(note)}; wait for it to end (reading and searching go on meanwhile)"
        ) from None
    except OSError as error:
        raise DatabaseError(f"cannot lock {root}: {error.strerror or error}; check the folder's permissions") from error
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
        note.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _holder(note: Path) -> str:
    try:
        held = json.loads(note.read_text(encoding="utf-8"))
        return f"process {held['pid']} on {held['host']} since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
