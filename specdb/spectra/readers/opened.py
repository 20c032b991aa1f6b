"""A source while it is being read: its content is loaded and decompressed once, for all readers that look at it."""

from __future__ import annotations

import gzip
import io
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from specdb.errors import ReadError
from specdb.spectra.sources import Source

if TYPE_CHECKING:
    from astropy.io.fits import HDUList

__all__ = ["FITS_SUFFIXES", "OpenSource", "codec_errors"]

FITS_SUFFIXES = (".fits", ".fits.gz", ".fit", ".fit.gz", ".fts", ".fts.gz")
_GZIP = b"\x1f\x8b"
_IN_MEMORY = 64 << 20  # bytes as stored; larger files are streamed
_HEAD = 8192
_BLOCK = 2880  # FITS files are made of blocks of this many bytes


class OpenSource:
    """Lazy access to the decompressed content of one source.

    Parameters
    ----------
    source : Source

    Notes
    -----
    gzip data are recognised by their first bytes, whatever the name says. Every access raises `ReadError` where the content
    cannot be had: ``unreadable``, ``empty_file``, ``truncated`` or ``corrupt``.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    def name(self) -> str:
        """Name of the source as stored in `source_file`."""
        return self.source.name

    @cached_property
    def _large(self) -> bool:
        try:
            return self.source.offset < 0 and self.source.content is None and self.source.path.stat().st_size > _IN_MEMORY
        except (OSError, ValueError):
            return False  # reading it will say why

    @cached_property
    def data(self) -> bytes:
        """The whole content, decompressed."""
        raw = self.source.read_bytes()
        data = _gunzip(raw) if raw[:2] == _GZIP else raw
        if not data:
            raise ReadError("empty_file", "the file holds no data; expected a spectrum")
        return data

    @cached_property
    def head(self) -> bytes:
        """The first 8192 bytes of the content, decompressed; fewer where there are no more."""
        if not self._large:
            return self.data[:_HEAD]
        with codec_errors("file"), self.stream() as file:
            return file.read(_HEAD)

    def stream(self) -> IO[bytes]:
        """Return the content as a new seekable binary file; large files are not held in memory."""
        if not self._large:
            return io.BytesIO(self.data)
        zipped = self.source.read_bytes(2) == _GZIP
        return cast("IO[bytes]", gzip.open(self.source.path, "rb") if zipped else self.source.path.open("rb"))

    @cached_property
    def random_access(self) -> IO[bytes]:
        """The content as one binary file to be read here and there; large gzip files are unpacked to a temporary one."""
        stream = self.stream()
        if not isinstance(stream, gzip.GzipFile):
            return stream
        with codec_errors("gzip"), stream, tempfile.NamedTemporaryFile() as file:
            shutil.copyfileobj(stream, file, 1 << 20)
            file.flush()
            return Path(file.name).open("rb")  # stays readable when its name is gone

    def between(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`, of large files without reading the rest."""
        if not self._large:
            return self.data[start:stop]
        self.random_access.seek(start)
        return self.random_access.read(stop - start)

    @property
    def is_fits(self) -> bool:
        """True if the content starts as the FITS standard demands."""
        return self.head.startswith(b"SIMPLE  =")

    @cached_property
    def hdus(self) -> HDUList:
        """The header-data units of a FITS file, all headers parsed."""
        from astropy.io import fits

        with codec_errors("FITS"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = self.random_access if self._large else io.BytesIO(self.data)
            size = stream.seek(0, io.SEEK_END)
            stream.seek(0)
            end_card = 0 if self._large else self.data.find(b"END" + b" " * 77)
            if end_card < 0 or end_card // _BLOCK * _BLOCK + _BLOCK > size:
                raise ReadError("truncated", f"the file ends inside its FITS header, after {size} bytes")
            hdus = fits.open(stream, memmap=False, lazy_load_hdus=False, disable_image_compression=True)
            for hdu in hdus:
                place = hdu.fileinfo()
                if place["datLoc"] + place["datSpan"] <= size:
                    continue
                end = place["datLoc"] + hdu.size  # without the padding, which may be missing
                if end > size:
                    raise ReadError("truncated", f"HDU {hdu.name or 0} needs {end} bytes, the file has {size}")
            # astropy passes over an extension whose header it cannot complete.
            behind = place["datLoc"] + place["datSpan"]
            if self.between(behind, behind + 8) == b"XTENSION":
                raise ReadError("truncated", f"the file ends inside the header of HDU {len(hdus)}")
            return hdus


def _gunzip(raw: bytes) -> bytes:
    """Decompress all members of gzip data; several times faster for small files than the `gzip` module."""
    parts = []
    while raw[:2] == _GZIP:  # what follows the last member is padding, ignored as gzip(1) does
        inflate = zlib.decompressobj(wbits=31)
        try:
            parts.append(inflate.decompress(raw))
        except (zlib.error, MemoryError) as error:
            raise ReadError("corrupt", f"gzip: {error}; fetch the file again") from error
        if not inflate.eof:
            raise ReadError("truncated", f"gzip: the data end early, after {sum(map(len, parts))} decompressed bytes")
        raw = inflate.unused_data
    return b"".join(parts)


@contextmanager
def codec_errors(what: str) -> Iterator[None]:
    """Map whatever a codec raises on damaged input into `ReadError`.

    Codecs meet bytes that nobody foresaw and answer with nearly any exception; one such file must become one rejected row,
    not the end of a run over millions.
    """
    try:
        yield
    except ReadError:
        raise
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ReadError("truncated" if isinstance(error, EOFError) else "corrupt", f"{what}: {error}") from error
    except OSError as error:
        reason = "unreadable" if error.errno else "corrupt"  # codecs raise OSError without a number for bad content
        raise ReadError(reason, f"{what}: {error}") from error
    except Exception as error:
        raise ReadError("corrupt", f"{what}: {type(error).__name__}: {error}") from error
