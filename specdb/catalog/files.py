"""Catalogue files as streams of Arrow batches, with units, UCDs and descriptions as field metadata.

FITS tables are read in blocks of rows through a memory map, Parquet in batches, CSV and ECSV through Arrow's streaming
parser: these may be larger than memory. VOTables are held, up to a stated size.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from specdb.errors import InputError
from specdb.store import digest, sha256_file

if TYPE_CHECKING:
    from specdb.catalog.hats import Cell

__all__ = ["CatalogueFile", "open_catalogue", "parquet_schema"]

#: Bytes of a VOTable, whose parser holds it several times over.
VOTABLE_LIMIT = 2 << 30

_BLOCK_ROWS = 1 << 17
_CSV_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class CatalogueFile:
    """A table in a file.

    Attributes
    ----------
    path : Path
    schema : pyarrow.Schema
        Field metadata: ``unit``, ``ucd``, ``description`` where the file gives them.
    batches : callable
        Starts a new pass over the rows; yields `pyarrow.RecordBatch`.
    left_out : tuple of str
        Columns that no stored table can hold.
    files : tuple of Path
        The files of a catalogue that is a folder (HATS).
    position : (str, str) or None
        Columns of right ascension and declination, where the catalogue names them.
    narrowed : callable or None
        For a catalogue in cells of the sky: returns the same with only those cells for which a function of them is true.
    """

    path: Path
    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]
    left_out: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    position: tuple[str, str] | None = None
    narrowed: Callable[[Callable[[tuple[Cell, ...]], np.ndarray]], CatalogueFile] | None = None

    def fingerprint(self) -> str:
        """Return the SHA-256 of the file, or what stands for those of all files."""
        if not self.files:
            return sha256_file(self.path)
        return digest([[path.relative_to(self.path).as_posix(), sha256_file(path)] for path in self.files])


def open_catalogue(path: Path) -> CatalogueFile:
    """Recognise a catalogue file by its first bytes, and a HATS catalogue by its folder.

    Raises
    ------
    InputError
        For a file that is missing, empty, of another kind, or too large for its format.
    """
    if path.is_dir():
        from specdb.catalog.hats import open_hats

        return open_hats(path)
    try:
        with path.open("rb") as handle:
            head = handle.read(1 << 16)
        if head[:2] == b"\x1f\x8b":
            with gzip.open(path) as unpacked:
                head = unpacked.read(1 << 16)
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not head.strip():
        raise InputError(f"{path} is empty; a catalogue has a header and rows")
    text = _votable if b"<VOTABLE" in head.upper() else _csv
    opener = _fits if head.startswith(b"SIMPLE  =") else _parquet if head.startswith(b"PAR1") else text
    try:
        return opener(path, head)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, IndexError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as {opener.__name__[1:]}: {error}") from error


def _field(name: str, kind: pa.DataType, **notes: Any) -> pa.Field:
    metadata = {key: str(value).strip() for key, value in notes.items() if value not in (None, "")}
    return pa.field(name, kind, metadata=metadata or None)


# -- FITS --------------------------------------------------------------------------------------------------------------


def _fits(path: Path, head: bytes) -> CatalogueFile:
    from astropy.io import fits

    with fits.open(path, memmap=True) as hdus:
        number = next((i for i, hdu in enumerate(hdus) if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)), None)
        if number is None:
            raise InputError(f"{path} holds no FITS table; spectra go in with `specdb build-index`")
        hdu = hdus[number]
        fields, left_out = [], []
        first = hdu.data[:1] if len(hdu.data) else hdu.data
        for i, column in enumerate(hdu.columns, 1):
            if column.format[0] in "PQ" or re.match(r"\d*[PQ]", column.format):
                left_out.append(column.name)
                continue
            kind = _from_numpy(np.asarray(first[column.name]), None).type
            ucd = hdu.header.get(f"TUCD{i}")
            fields.append(_field(column.name, kind, unit=column.unit, ucd=ucd, description=hdu.header.get(f"TCOMM{i}")))
        nulls = {column.name: column.null for column in hdu.columns if column.null not in (None, "")}
    schema = pa.schema(fields)

    def batches() -> Iterator[pa.RecordBatch]:
        with fits.open(path, memmap=True) as hdus:
            data = hdus[number].data
            for start in range(0, len(data), _BLOCK_ROWS):
                block = data[start : start + _BLOCK_ROWS]
                arrays = [_from_numpy(np.asarray(block[f.name]), nulls.get(f.name)).cast(f.type) for f in schema]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return CatalogueFile(path, schema, batches, tuple(left_out))


def _from_numpy(values: np.ndarray, null: Any, mask: Any = None) -> pa.Array:
    """Turn a column, of one or more dimensions and any byte order, into Arrow."""
    if null is not None and values.dtype.kind in "iu":
        mask = values == null if mask is None else mask | (values == null)
    if values.ndim > 1:
        flat = _from_numpy(values.reshape(-1), None)
        return pa.FixedSizeListArray.from_arrays(flat, int(np.prod(values.shape[1:])))
    if values.dtype.kind == "S":
        values = np.char.rstrip(np.char.decode(values, "utf-8", "replace"))
    elif values.dtype.kind not in "UO":
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    kind = pa.string() if values.dtype.kind in "UO" else None
    return pa.array(values if kind is None else values.astype(object), kind, mask=mask)


# -- Parquet -----------------------------------------------------------------------------------------------------------


def _parquet(path: Path, head: bytes) -> CatalogueFile:
    schema = parquet_schema(pq.read_schema(path))

    def batches() -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_BLOCK_ROWS):
                yield pa.RecordBatch.from_arrays(
                    [c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)], schema=schema
                )

    return CatalogueFile(path, schema, batches)


def parquet_schema(stored: pa.Schema) -> pa.Schema:
    """Return a Parquet file's columns without dictionaries, and with the notes of the VOTable that VOParquet files carry."""
    from specdb.export.votable import VOPARQUET_CONTENT

    content = (stored.metadata or {}).get(VOPARQUET_CONTENT)
    notes = _votable_notes(content) if content else {}
    plain = [f.with_type(f.type.value_type) if pa.types.is_dictionary(f.type) else f for f in stored]
    return pa.schema([f.with_metadata(notes.get(f.name, {}) | (f.metadata or {}) or None) for f in plain])


def _votable_notes(content: bytes) -> dict[str, dict[bytes, bytes]]:
    """Return unit, UCD and description by column from a VOTable without data; nothing from one that cannot be read."""
    from astropy.io.votable import parse_single_table

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fields = parse_single_table(io.BytesIO(content)).fields
    except (ValueError, IndexError, OSError):  # ValueError: also what astropy's E... exceptions are
        return {}
    return {
        f.name: _field(f.name, pa.null(), unit=f.unit, ucd=f.ucd, description=f.description).metadata or {} for f in fields
    }


# -- VOTable -----------------------------------------------------------------------------------------------------------


def _votable(path: Path, head: bytes) -> CatalogueFile:
    from astropy.io.votable import parse_single_table

    if os.path.getsize(path) > VOTABLE_LIMIT:  # noqa: PTH202
        raise InputError(
            f"{path} has {os.path.getsize(path):,} bytes; VOTables are read up to {VOTABLE_LIMIT:,}: "  # noqa: PTH202
            "convert it to Parquet or FITS, which are streamed"
        )
    table = parse_single_table(path)
    columns, fields = [], []
    for one in table.fields:
        values = table.array[one.name if one.name in table.array.dtype.names else one.ID]
        mask = None if values.dtype == object else np.asarray(values.mask).reshape(len(values), -1).all(axis=1)
        columns.append(_from_numpy(np.asarray(values.data), None, mask))
        fields.append(_field(one.name, columns[-1].type, unit=one.unit, ucd=one.ucd, description=one.description))
    whole = pa.Table.from_arrays(columns, schema=pa.schema(fields))
    return CatalogueFile(path, whole.schema, lambda: iter(whole.to_batches(_BLOCK_ROWS)))


# -- CSV and ECSV ------------------------------------------------------------------------------------------------------


def _csv(path: Path, head: bytes) -> CatalogueFile:
    text = head.decode("utf-8-sig", "replace")
    if "\x00" in text:
        raise InputError(f"{path} is of no format that catalogues come in: FITS, Parquet, VOTable, ECSV, CSV (also .gz)")
    lines = text.splitlines()
    comments = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    if comments == len(lines):
        raise InputError(f"{path} has no header line; the first line that is no comment names the columns")
    header = lines[comments]
    delimiter = max(",|;\t", key=header.count)
    delimiter = " " if delimiter not in header and " " in header.strip() else delimiter
    notes = _ecsv_notes(lines[: comments + 1]) if text.startswith("# %ECSV") else {}
    types = {name: kind for name, (kind, _) in notes.items() if kind is not None}

    def reader() -> pa_csv.CSVStreamingReader:
        return pa_csv.open_csv(
            pa.input_stream(str(path), compression="gzip" if path.open("rb").read(2) == b"\x1f\x8b" else None),
            pa_csv.ReadOptions(skip_rows=comments, block_size=_CSV_BLOCK_BYTES),
            pa_csv.ParseOptions(delimiter=delimiter),
            pa_csv.ConvertOptions(column_types=types, strings_can_be_null=True),
        )

    with reader() as first:
        fields = [
            _field(f.name, f.type if f.type != pa.null() else pa.string(), **notes.get(f.name, (None, {}))[1])
            for f in first.schema
        ]
    schema = pa.schema(fields)

    def batches() -> Iterator[pa.RecordBatch]:
        row = 0
        with reader() as stream:
            while True:
                try:
                    batch = stream.read_next_batch()
                except StopIteration:
                    return
                except pa.ArrowInvalid as error:
                    raise InputError(
                        f"{path}, after row {row}: {error}; the rows before were of another type. Make the column of one "
                        "kind, or hand it over as Parquet or ECSV, which state their types"
                    ) from error
                row += batch.num_rows
                yield pa.RecordBatch.from_arrays(
                    [c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)], schema=schema
                )

    return CatalogueFile(path, schema, batches)


def _ecsv_notes(lines: list[str]) -> dict[str, tuple[pa.DataType | None, dict[str, Any]]]:
    """Return type and notes of each column from an ECSV header, which astropy parses."""
    from astropy.table import Table

    table = Table.read(io.StringIO("\n".join(lines) + "\n").getvalue().splitlines(), format="ascii.ecsv")
    found: dict[str, tuple[pa.DataType | None, dict[str, Any]]] = {}
    for column in table.itercols():
        kind = pa.from_numpy_dtype(column.dtype) if column.dtype.kind in "iufb" and column.ndim == 1 else pa.string()
        notes = {
            "unit": column.unit,
            "description": column.description,
            "ucd": column.info.meta and column.info.meta.get("ucd"),
        }
        found[column.name] = (kind, notes)
    return found
