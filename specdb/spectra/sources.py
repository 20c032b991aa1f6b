"""Where spectra come from: files, folders, globs, tar archives and text lists of paths become a stream of `Source`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """One file or one member of a tar archive.

    Attributes
    ----------
    path : Path
        The file, or the archive.
    member : str
        Name inside the archive; empty for a plain file.
    named : bool
        True where the user named this very file; False where it was met in a folder, archive or glob.
    """

    path: Path
    member: str = ""
    named: bool = True
    offset: int = field(default=-1, compare=False)  # of the member's data in an uncompressed archive
    size: int = field(default=-1, compare=False)
