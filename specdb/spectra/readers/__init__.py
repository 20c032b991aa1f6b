"""Readers: one small file per format, found through the registry."""

from specdb.spectra.readers.arrays import content_ids, from_arrays
from specdb.spectra.readers.columnar import ColumnarReader
from specdb.spectra.readers.desi import DESI_COLUMNS, DesiReader
from specdb.spectra.readers.gaia_xp import XP_COLUMNS, GaiaXpContinuous, GaiaXpSampled
from specdb.spectra.readers.lamost import LAMOST_COLUMNS, LamostReader
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
from specdb.spectra.readers.sdss import SDSS_COLUMNS, SdssReader
from specdb.spectra.readers.specclip_hdf5 import specclip_readers
from specdb.spectra.readers.text import TextReader

register(LamostReader())
register(GaiaXpContinuous())
register(GaiaXpSampled())
register(SdssReader())
register(DesiReader())
for _reader in specclip_readers():
    register(_reader)
register(ColumnarReader())
register(TextReader())

__all__ = [
    "DESI_COLUMNS",
    "LAMOST_COLUMNS",
    "SDSS_COLUMNS",
    "XP_COLUMNS",
    "OpenSource",
    "OtherInstrument",
    "Reader",
    "codec_errors",
    "content_ids",
    "find_reader",
    "from_arrays",
    "get_reader",
    "read_source",
    "reader_names",
    "register",
    "suffixes_of",
]
