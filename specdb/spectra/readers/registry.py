"""The registry of readers and the one question it answers: which reader takes this source?

A reader is a small class in a file of its own with a `name`, the file-name `suffixes` it may claim, `identify` and `read`.
`identify` returns None if the reader takes the source, else one clause saying why not, so that an unknown format can be
explained instead of merely refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from specdb.errors import FormatError, InputError
from specdb.spectra.sources import Source
from specdb.spectra.spectrum import Spectra

__all__ = ["Reader", "find_reader", "get_reader", "reader_names", "register"]


class Reader(Protocol):
    """How one survey format becomes `Spectra`."""

    name: str
    #: Lower-case endings of file names, e.g. ``(".fits", ".fits.gz")``. A folder is searched for these only.
    suffixes: tuple[str, ...]
    #: True where the format is the survey's own; generic formats are read only when a file or the format is named.
    native: bool

    def identify(self, source: Source) -> str | None:
        """Return None to claim the source, else why it is not this format. Must not raise for damaged files."""
        ...

    def read(self, source: Source) -> Iterator[Spectra]:
        """Yield the spectra of a source in order, in batches of bounded size.

        Raises
        ------
        specdb.errors.ReadError
            With a reason of `specdb.spectra.REASONS`; never an error of the underlying library.
        """
        ...


_READERS: dict[str, Reader] = {}


def register(reader: Reader) -> Reader:
    """Add a reader under its name."""
    _READERS[reader.name] = reader
    return reader


def reader_names() -> list[str]:
    """Return the names of all readers, sorted."""
    return sorted(_READERS)


def get_reader(name: str) -> Reader:
    """Return the reader of that name, or raise `InputError` listing the known ones."""
    try:
        return _READERS[name]
    except KeyError:
        raise InputError(f"no reader is called {name!r}; known readers: {', '.join(reader_names())}") from None


def find_reader(source: Source, names: tuple[str, ...]) -> Reader:
    """Return the first of the named readers that claims a source.

    Raises
    ------
    FormatError
        With reason ``other_instrument`` or ``unknown_format`` and a detail that lists what each reader looked for and why
        it declined.
    """
    declined = []
    for name in names:
        reader = get_reader(name)
        why_not = reader.identify(source)
        if why_not is None:
            return reader
        declined.append((name, why_not))
    listed = "; ".join(f"{name}: {why}" for name, why in declined)
    raise FormatError("unknown_format", f"no reader takes it ({listed})")
