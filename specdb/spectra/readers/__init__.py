"""Readers: one small file per format, found through the registry."""

from specdb.spectra.readers.opened import OpenSource, codec_errors
from specdb.spectra.readers.registry import (
    OtherInstrument,
    Reader,
    find_reader,
    get_reader,
    read_source,
    reader_names,
    register,
    suffixes_of,
)

__all__ = [
    "OpenSource",
    "OtherInstrument",
    "Reader",
    "codec_errors",
    "find_reader",
    "get_reader",
    "read_source",
    "reader_names",
    "register",
    "suffixes_of",
]
