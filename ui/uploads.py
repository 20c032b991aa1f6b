"""Spectra of strangers: their size is bounded before anything is parsed, and nothing of them is kept."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from specdb.database import Database
from specdb.errors import InputError, QueryError
from specdb.search.query import Question
from ui.reading import read_apart

if TYPE_CHECKING:
    import h5py

__all__ = ["MOST_BYTES", "MOST_UNPACKED", "SUFFIXES", "check_upload", "read_upload"]

#: Bytes of an upload, and of what may come out of it.
MOST_BYTES, MOST_UNPACKED = 20 << 20, 200 << 20
SUFFIXES = (
    ".fits",
    ".fit",
    ".fits.gz",
    ".fit.gz",
    ".csv",
    ".csv.gz",
    ".txt",
    ".dat",
    ".ecsv",
    ".parquet",
    ".h5",
    ".hdf5",
    ".npz",
)

_BLOCK, _CARD = 2880, 80
_MOST_HEADER = 200 * _BLOCK
_MOST_HDUS = 100
_MOST_OBJECTS = 10_000


def read_upload(db: Database, name: str, content: bytes, modality: str | None = None) -> Question:
    """Read the one spectrum of an uploaded file.

    Parameters
    ----------
    db : Database
        Its modalities are tried in turn, then the others that specdb knows.
    name : str
        As the sender calls it; only the ending matters.
    content : bytes
    modality : str, optional
        The only one to try.

    Returns
    -------
    Question

    Raises
    ------
    InputError
        For a file outside the limits.
    QueryError
        For one that holds no spectrum of the database's modalities, or several.
    """
    suffix = check_upload(name, content)
    shown = re.sub(r"[^\w.\-+ ]", "_", Path(name).name)[-80:] or "upload"
    with tempfile.TemporaryDirectory(prefix="specdb-upload-") as folder:
        path = Path(folder) / f"upload{suffix}"
        path.write_bytes(content)
        try:
            found = read_apart(path, [modality] if modality else db.modalities, foreign=modality is None)
        except (InputError, QueryError) as error:
            raise type(error)(str(error).replace(str(path), shown)) from None
        return Question(shown, spectra=found.spectra, modality=found.modality)


def check_upload(name: str, content: bytes) -> str:
    """Return the ending of a file that is safe to parse.

    Raises
    ------
    InputError
        For an unknown ending, too many bytes, too many when unpacked, or a FITS header that promises more than is there.
    """
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), None)
    if suffix is None:
        raise InputError(f"files like this are not read here; send one spectrum as {', '.join(SUFFIXES)}")
    if not content:
        raise InputError("the file is empty")
    if len(content) > MOST_BYTES:
        raise InputError(f"the file has {len(content) / 2**20:.0f} MB; up to {MOST_BYTES >> 20} MB are taken")
    if content[:2] == b"\x1f\x8b":
        content = _unpacked(content)
    if suffix == ".npz":
        _check_npz(content)
    elif suffix == ".parquet":
        _check_parquet(content)
    elif suffix in (".h5", ".hdf5"):
        _check_hdf5(content)
    elif ".fit" in suffix or content[:9] == b"SIMPLE  =":
        _check_fits(content)
    return suffix


def _too_much(count: float) -> InputError:
    return InputError(f"unpacked the file has {count / 2**20:.0f} MB or more; up to {MOST_UNPACKED >> 20} MB are taken")


def _unpacked(content: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        out = stream.decompress(content, MOST_UNPACKED)
    except zlib.error:
        raise InputError("the gzip data are damaged") from None
    if stream.unconsumed_tail or len(out) >= MOST_UNPACKED:
        raise _too_much(MOST_UNPACKED)
    if not stream.eof:
        raise InputError("the gzip data end too early; the file was cut off")
    return out


def _check_npz(content: bytes) -> None:
    try:
        total = sum(item.file_size for item in zipfile.ZipFile(io.BytesIO(content)).infolist())
    except zipfile.BadZipFile:
        raise InputError("this is no npz file") from None
    if total > MOST_UNPACKED:
        raise _too_much(total)


def _check_parquet(content: bytes) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        facts = pq.ParquetFile(io.BytesIO(content)).metadata
        groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
        total = sum(group.total_byte_size for group in groups)
        # Dictionaries and run lengths pack equal values better than that tells: what counts is how many there are.
        values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    except (pa.ArrowException, OSError):
        raise InputError("this is no readable Parquet file") from None
    if max(total, 8 * values, 8 * facts.num_rows) > MOST_UNPACKED:
        raise _too_much(max(total, 8 * values, 8 * facts.num_rows))


def _check_hdf5(content: bytes) -> None:
    import h5py

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            total = _walk_hdf5(file)
    except (OSError, RuntimeError, ValueError, KeyError):  # whatever h5py finds in damaged files
        raise InputError("this is no readable HDF5 file") from None
    if total > MOST_UNPACKED:
        raise _too_much(total)


def _walk_hdf5(file: h5py.File) -> int:
    """Return the bytes of all datasets, having seen that none is read from other files of this machine.

    Raises
    ------
    InputError
        For links to other files, data kept in them, or too many objects.
    """
    import h5py

    total, seen, waiting = 0, set(), [file["/"]]
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise InputError("the file links to other files; send one that stands alone")
            if not isinstance(link, h5py.HardLink):
                continue
            item = group[name]
            place = h5py.h5o.get_info(item.id).addr
            if place in seen:  # groups may contain one another
                continue
            seen.add(place)
            if len(seen) > _MOST_OBJECTS:
                raise InputError(f"the file has more than {_MOST_OBJECTS} groups and datasets; send one spectrum")
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise InputError("the file keeps its data in other files; send one that stands alone")
                total += item.nbytes
    return total


def _check_fits(content: bytes) -> None:
    """Walk the headers: sizes that they promise must be there, so that nobody is made to reserve memory for them."""
    at = 0
    for _ in range(_MOST_HDUS):
        cards: dict[str, int] = {}
        end = None
        for place in range(at, min(len(content), at + _MOST_HEADER) - _CARD + 1, _CARD):
            card = content[place : place + _CARD]
            if card[:8] == b"END     ":
                end = place + _CARD
                break
            match = re.match(rb"(BITPIX|NAXIS\d{0,3}|PCOUNT|GCOUNT) *= +(-?\d+)", card)
            if match:
                cards[match[1].decode()] = int(match[2])
        if end is None:
            raise InputError("this is no complete FITS file: a header has no end")
        axes = (
            [cards.get(f"NAXIS{i}", 0) for i in range(1, cards.get("NAXIS", 0) + 1)]
            if cards.get("NAXIS", 0) <= 999
            else [-1]
        )
        if any(n < 0 for n in axes) or cards.get("PCOUNT", 0) < 0 or cards.get("GCOUNT", 1) < 0:
            raise InputError("a FITS header has negative or absurd sizes")
        size = 1 if axes else 0
        for n in axes:
            size *= n
        size = (size + cards.get("PCOUNT", 0)) * cards.get("GCOUNT", 1) * abs(cards.get("BITPIX", 8)) // 8
        start = -(-end // _BLOCK) * _BLOCK
        if size > MOST_UNPACKED or start + size > len(content):
            raise InputError(
                f"a FITS header promises {size} bytes, {max(len(content) - start, 0)} are there; it is cut off or damaged"
            )
        at = start + -(-size // _BLOCK) * _BLOCK
        if at >= len(content):
            return
        if not content[at : at + 8].startswith(b"XTENSION"):
            return  # what follows the last extension is not read
    raise InputError(f"the FITS file has more than {_MOST_HDUS} extensions")
