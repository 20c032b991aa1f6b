"""Where the files are that ship with specdb: inside the package in an installed wheel, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

from specdb.errors import InputError

__all__ = ["data_folder", "shipped_file"]


def data_folder() -> Path:
    """Return the folder of the files that ship with specdb."""
    package = Path(__file__).resolve().parent
    installed = package / "_data"
    return installed if installed.is_dir() else package.parent / "data"


def shipped_file(name: str) -> Path:
    """Return the path of a file that ships with specdb.

    Raises
    ------
    InputError
        When this installation lacks the file.
    """
    path = data_folder() / name
    if not path.exists():
        raise InputError(f"the file {name!r} that ships with specdb is not in {path.parent}; install specdb again")
    return path
