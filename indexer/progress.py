"""How long work reports its progress; the library only calls, the command line draws."""

from __future__ import annotations

from typing import Protocol

__all__ = ["NoProgress", "Progress"]


class Progress(Protocol):
    """Receives the progress of one stage after the other."""

    def start(self, stage: str, total: int | None) -> None:
        """Begin a stage; `total` is None where the amount is not known in advance."""
        ...

    def advance(self, n: int) -> None:
        """Report `n` more items done."""
        ...

    def end(self) -> None:
        """End the stage."""
        ...


class NoProgress:
    """Says nothing."""

    def start(self, stage: str, total: int | None) -> None:
        """Ignore."""

    def advance(self, n: int) -> None:
        """Ignore."""

    def end(self) -> None:
        """Ignore."""
