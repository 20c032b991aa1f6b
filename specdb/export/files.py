"""Rows written to a file, in the format that its name asks for.

Parquet, CSV and JSON lines are streamed: rows may be more than memory holds. FITS, VOTable and ECSV go through astropy,
which holds the table; above `HELD_LIMIT` rows they are refused with the advice to use a streamed format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from pyarrow import RecordBatchReader as Reader

from specdb._version import __version__
from specdb.errors import InputError
from specdb.export.votable import VOPARQUET_CONTENT, VOPARQUET_VERSION, signed, votable_header, write_votable
from specdb.rows import Rows
from specdb.store.files import atomic_path
from specdb.store.tables import write_rows

if TYPE_CHECKING:
    from astropy.table import Column, MaskedColumn

__all__ = ["HELD_LIMIT", "save_rows", "suffixes"]

#: Rows that astropy's writers are trusted with.
HELD_LIMIT = 5_000_000

Meta = dict[str, Any]


@dataclass(frozen=True)
class _Format:
    write: Callable[[Reader, Path, Meta], int]
    suffixes: tuple[str, ...]


def suffixes() -> list[str]:
    """Return the endings of file names that `save_rows` knows."""
    return [suffix for kind in _FORMATS for suffix in kind.suffixes]


def save_rows(rows: pa.Table | Reader | Rows, path: str | Path, meta: Meta | None = None) -> int:
    """Write rows to a file; the ending of its name decides the format.

    Columns keep their units, descriptions and UCDs (``unit``, ``description``, ``ucd`` of the Arrow field) where the format
    can hold them: Parquet, ECSV, FITS, VOTable. Missing values stay missing: null, empty, or masked.

    Parameters
    ----------
    rows : pyarrow.Table, RecordBatchReader or Rows
    path : path-like
        Ending in one of `suffixes`. An existing file is replaced when the new one is complete.
    meta : dict, optional
        Provenance (query, encoder, ...) for the file's header; that of `Rows` is taken as it is.

    Returns
    -------
    int
        Number of rows written.

    Raises
    ------
    InputError
        For an unknown ending, or more rows than a format can take.
    DatabaseError
        When the disk is full or the folder cannot be written.
    """
    path = Path(path)
    for kind in _FORMATS:
        if path.name.lower().endswith(kind.suffixes):
            break
    else:
        raise InputError(f"{path.name}: the ending says no format; use one of {', '.join(suffixes())}")
    if isinstance(rows, Rows):
        rows, meta = rows.rows, rows.meta | (meta or {})
    reader = rows.to_reader() if isinstance(rows, pa.Table) else rows
    with atomic_path(path) as temporary:
        return kind.write(reader, temporary, {"creator": f"specdb {__version__}"} | (meta or {}))


def _parquet(reader: Reader, path: Path, meta: Meta) -> int:
    header = {VOPARQUET_VERSION: b"1.0", VOPARQUET_CONTENT: votable_header(reader.schema, meta).encode()}
    facts = {k.encode(): str(v).encode() for k, v in meta.items()} | (reader.schema.metadata or {}) | header
    noted = reader.schema.with_metadata(facts)
    return write_rows(Reader.from_batches(noted, (batch.replace_schema_metadata(noted.metadata) for batch in reader)), path)


def _csv(reader: Reader, path: Path, meta: Meta) -> int:
    # Lists have no form in CSV; JSON inside the cell is what readers can parse again.
    nested = [f.name for f in reader.schema if pa.types.is_nested(f.type)]
    schema = pa.schema([pa.field(f.name, pa.string()) if f.name in nested else f.remove_metadata() for f in reader.schema])
    count = 0
    with pa_csv.CSVWriter(path, schema, write_options=pa_csv.WriteOptions(quoting_style="needed")) as writer:
        for batch in reader:
            columns = [
                pa.array([None if v is None else json.dumps(v) for v in column.to_pylist()]) if name in nested else column
                for name, column in zip(schema.names, batch.columns, strict=True)
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            count += batch.num_rows
    return count


def _json_lines(reader: Reader, path: Path, meta: Meta) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as handle:
        for batch in reader:
            handle.writelines(json.dumps(row, default=str) + "\n" for row in batch.to_pylist())
            count += batch.num_rows
    return count


def _json(reader: Reader, path: Path, meta: Meta) -> int:
    rows = [row for batch in _limited(reader, path) for row in batch.to_pylist()]
    path.write_text(json.dumps({"meta": meta, "rows": rows}, indent=1, default=str), encoding="utf-8")
    return len(rows)


def _votable(reader: Reader, path: Path, meta: Meta) -> int:
    rows = _held(reader, path)
    write_votable(rows, path, meta)
    return rows.num_rows


def _ecsv(reader: Reader, path: Path, meta: Meta) -> int:
    table = Rows(_held(reader, path)).to_table()
    table.meta |= {k: v if isinstance(v, (str, int, float)) else json.dumps(v, default=str) for k, v in meta.items()}
    table.write(path, format="ascii.ecsv", overwrite=True)
    return len(table)


def _fits(reader: Reader, path: Path, meta: Meta) -> int:
    from astropy.table import Table

    table = Rows(signed(_held(reader, path))).to_table()
    texts = {k: v if isinstance(v, (str, int, float)) else json.dumps(v, default=str) for k, v in meta.items()}
    facts: Meta = {_keyword(k): _ascii(v) if isinstance(v, str) else v for k, v in texts.items()}
    for number, column in enumerate(table.itercols(), 1):
        # FITS has no place for UCDs but keywords of their own; TUCDn is what TOPCAT writes and reads, as TCOMMn.
        notes = {"TUCD": (column.info.meta or {}).get("ucd"), "TCOMM": column.description}
        facts |= {f"{key}{number}": _ascii(text) for key, text in notes.items() if text}
    Table([_fits_column(c) for c in table.itercols()], meta=facts).write(path, format="fits", overwrite=True)
    return len(table)


def _fits_column(column: MaskedColumn) -> Column:
    """Return a column that FITS can hold: ASCII text, and missing integers and truths as the least integer (TNULL)."""
    from astropy.table import Column, MaskedColumn

    values, kind = column.data, column.dtype.kind
    if kind == "U":
        return Column(np.char.encode(column.filled(""), "ascii", "replace"), column.name)
    if not column.mask.any() or kind == "f":
        return Column(values.filled(np.nan) if kind == "f" else values.data, column.name, unit=column.unit)
    values = values.astype(np.int16) if kind == "b" else values
    least = 255 if values.dtype == np.uint8 else np.iinfo(values.dtype).min
    return MaskedColumn(values, column.name, unit=column.unit, fill_value=least)


def _ascii(text: str) -> str:
    """Return text as FITS allows it: printable ASCII in one line."""
    return " ".join(text.encode("ascii", "replace").decode().split())


def _keyword(name: str) -> str:
    """Return the long form of a FITS keyword where the name is no short one."""
    return name.upper() if len(name) <= 8 else f"HIERARCH {name.upper()}"


def _held(reader: Reader, path: Path) -> pa.Table:
    return pa.Table.from_batches(_limited(reader, path), reader.schema)


def _limited(reader: Reader, path: Path) -> Iterator[pa.RecordBatch]:
    count = 0
    for batch in reader:
        count += batch.num_rows
        if count > HELD_LIMIT:
            raise InputError(
                f"more than {HELD_LIMIT:,} rows do not go into {''.join(path.suffixes)}; write .parquet or .csv, "
                "which are streamed"
            )
        yield batch


_FORMATS = (
    _Format(_parquet, (".parquet",)),
    _Format(_ecsv, (".ecsv",)),
    _Format(_csv, (".csv",)),
    _Format(_json_lines, (".jsonl",)),
    _Format(_json, (".json",)),
    _Format(_fits, (".fits", ".fits.gz")),
    _Format(_votable, (".vot", ".votable", ".xml")),
)
