"""The registry of readers and the one question it answers: which reader takes this source?

A reader is a small class in a file of its own with a `name`, the file-name `suffixes` it may claim, `identify` and `read`.
`identify` returns None if the reader takes the source, else one clause saying why not, so that an unknown format can be
explained instead of merely refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from specdb.errors import FormatError, InputError
from specdb.spectra.readers.opened import FITS_SUFFIXES, OpenSource, codec_errors
from specdb.spectra.sources import Source
from specdb.spectra.spectrum import Spectra

__all__ = [
    "OtherInstrument",
    "Reader",
    "find_reader",
    "get_reader",
    "read_source",
    "reader_names",
    "register",
    "suffixes_of",
]


class OtherInstrument(str):
    """A clause from `Reader.identify` about a file that is a spectrum, or at least an observation, of something else."""


class Reader(Protocol):
    """How one survey format becomes `Spectra`."""

    name: str
    #: Lower-case endings of file names, e.g. ``(".fits", ".fits.gz")``. Other files met in a folder are not even opened.
    suffixes: tuple[str, ...]
    #: True where the format is the survey's own; generic formats are read only when a file or the format is named.
    native: bool

    def identify(self, opened: OpenSource) -> str | None:
        """Return None to claim the source, else why it is not this format; an `OtherInstrument` where that is plain.

        Raises nothing but the `ReadError` that `OpenSource` raises for damaged content.
        """
        ...

    def read(self, opened: OpenSource) -> Iterator[Spectra]:
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


def suffixes_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return all endings of file names that the named readers may claim, sorted."""
    return tuple(sorted({suffix for name in names for suffix in get_reader(name).suffixes}))


def get_reader(name: str) -> Reader:
    """Return the reader of that name, or raise `InputError` listing the known ones."""
    try:
        return _READERS[name]
    except KeyError:
        raise InputError(f"no reader is called {name!r}; known readers: {', '.join(reader_names())}") from None


def find_reader(opened: OpenSource, names: Sequence[str]) -> Reader:
    """Return the first of the named readers that claims a source.

    Raises
    ------
    FormatError
        The detail lists what each reader looked for and why it declined. The reason is ``other_instrument`` where a reader
        could tell; else ``not_a_spectrum`` for a file that was merely met and has a foreign ending, or is not called a FITS
        file (tables of labels lie beside spectra); else ``unknown_format``.
    ReadError
        Where the content cannot be had at all.
    """
    source = opened.source
    readers = [get_reader(name) for name in names]
    if not source.named:
        readers = [reader for reader in readers if reader.native]
        claimed = tuple(suffix for reader in readers for suffix in reader.suffixes)
        if source.damage is None and not source.endswith(claimed):
            raise FormatError("not_a_spectrum", f"met on the way; spectra here end in {', '.join(sorted(set(claimed)))}")
    _ = opened.head  # damage is found here, before any reader is asked
    declined: list[tuple[str, str]] = []
    for reader in readers:
        why_not = reader.identify(opened)
        if why_not is None:
            return reader
        declined.append((reader.name, why_not))
    listed = "; ".join(f"{name}: {why}" for name, why in declined)
    if any(isinstance(why, OtherInstrument) for _, why in declined):
        reason = "other_instrument"
    elif source.named or source.endswith(FITS_SUFFIXES):
        reason = "unknown_format"
    else:
        reason = "not_a_spectrum"
    raise FormatError(reason, f"no reader takes it ({listed})")


def read_source(source: Source, names: Sequence[str], file_format: str | None = None) -> Iterator[Spectra]:
    """Read one source with whichever of the named readers takes it.

    Parameters
    ----------
    source : Source
    names : sequence of str
        Readers to try, in this order.
    file_format : str, optional
        Name of the one reader to use without asking it, where the user knows better.

    Yields
    ------
    Spectra

    Raises
    ------
    ReadError
        With the reason for the `rejected` table; a `FormatError` where no reader takes it. Earlier spectra stay valid.
    InputError
        For a reader that does not exist.
    """
    opened = OpenSource(source)
    chosen = get_reader(file_format) if file_format else find_reader(opened, names)
    batches = chosen.read(opened)
    while True:
        with codec_errors(chosen.name):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
