"""One exception tree for the whole project.

Every error that specdb raises on purpose derives from `SpecdbError`; the command line prints such errors as one line and
exits with status 1. Messages say what was found, the rule, and what to do next.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DatabaseError",
    "DependencyError",
    "FormatError",
    "InputError",
    "LockError",
    "PreparationError",
    "ProvenanceError",
    "QueryError",
    "ReadError",
    "RecallError",
    "SpecdbError",
    "TrainingError",
    "VersionError",
]


class SpecdbError(Exception):
    """Base of every error raised on purpose by specdb."""


class InputError(SpecdbError):
    """An argument, path or array that the caller handed over cannot be used."""


class ReadError(SpecdbError):
    """One source could not be turned into spectra.

    Parameters
    ----------
    reason : str
        Machine-readable reason, one of `specdb.spectra.REASONS`; stored in the `rejected` table.
    detail : str
        One line for people: what was found and what was expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[ReadError], tuple[str, str]]:
        # Reading happens in worker processes; the default would rebuild the error from the joined message alone.
        return type(self), (self.reason, self.detail)


class FormatError(ReadError):
    """No reader recognised a source; the detail lists why each of them declined."""


class PreparationError(SpecdbError):
    """A preparation was called with arrays or settings it cannot work with."""


class CheckpointError(SpecdbError):
    """A model file is damaged, of another architecture, or holds something that must not be executed."""


class DatabaseError(SpecdbError):
    """The database directory is missing, damaged or cannot be written."""


class VersionError(DatabaseError):
    """The database was written in a format newer than this specdb understands."""


class LockError(DatabaseError):
    """Another process is writing to the database."""


class ProvenanceError(DatabaseError):
    """Artefacts made with different encoders, preparations or sources would have been mixed."""


class QueryError(SpecdbError):
    """A search or SQL request cannot be answered as it was put."""


class RecallError(SpecdbError):
    """An index did not reach the recall that was asked of it."""


class TrainingError(SpecdbError):
    """A training cannot go on, for instance because its loss is not finite."""


class DependencyError(SpecdbError):
    """An optional package is needed for this; the message names the extra that brings it."""
