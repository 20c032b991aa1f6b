"""Where the files are that ship with specdb: beside the package in a checkout, inside it in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from specdb.errors import InputError

__all__ = ["shipped_file"]


def shipped_file(name: str) -> Path:
    """Return the path of a file of the `data/` folder.

    Raises
    ------
    InputError
        When this installation lacks the file.
    """
    package = Path(__file__).parent
    for folder in (package / "_data", package.parent / "data"):
        if (folder / name).exists():
            return folder / name
    raise InputError(f"the file {name!r} that ships with specdb is not in {package / '_data'}; install specdb again")
