"""VOTables: as files, and without data as the header of a Parquet file that Virtual Observatory tools understand.

VOTable 1.4 is an IVOA Recommendation. A Parquet file that carries a data-less VOTable in its metadata is what the IVOA note
"Parquet in the VO" calls VOParquet, convention 1.0: TOPCAT and STILTS take units, UCDs and descriptions from it.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from specdb.rows import Rows

if TYPE_CHECKING:
    from astropy.io.votable.tree import Field, VOTableFile

__all__ = ["VOPARQUET_CONTENT", "VOPARQUET_VERSION", "signed", "votable_header", "write_votable"]

#: Keys of the Parquet file's metadata.
VOPARQUET_VERSION = b"IVOA.VOTable-Parquet.version"
VOPARQUET_CONTENT = b"IVOA.VOTable-Parquet.content"

#: Integers that neither VOTable nor FITS knows, and the next larger one that they do. Ids of 64 bits are signed here.
_WIDER = {pa.int8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.int64()}


def signed(rows: pa.Table) -> pa.Table:
    """Return rows with integers that VOTable and FITS have: uint8, int16, int32, int64."""
    return rows.cast(pa.schema([f.with_type(_WIDER.get(f.type, f.type)) for f in rows.schema]))


def write_votable(rows: pa.Table, path: Path, meta: dict[str, Any]) -> None:
    """Write rows as a VOTable (BINARY2) with units, UCDs, descriptions, and `meta` as INFO elements.

    Parameters
    ----------
    rows : pyarrow.Table
    path : Path
    meta : dict
        Provenance; ``title`` becomes the table's description.
    """
    document = _document(rows, meta)
    document.to_xml(str(path), tabledata_format="binary2")


def votable_header(schema: pa.Schema, meta: dict[str, Any]) -> str:
    """Return a VOTable without data that describes columns.

    Parameters
    ----------
    schema : pyarrow.Schema
    meta : dict
        See `write_votable`.
    """
    out = io.BytesIO()
    _document(schema.empty_table(), meta).to_xml(out)
    return out.getvalue().decode()


def _document(rows: pa.Table, meta: dict[str, Any]) -> VOTableFile:
    from astropy.io.votable.exceptions import VOWarning
    from astropy.io.votable.tree import Info, VOTableFile

    table = Rows(signed(rows)).to_table()
    table.meta.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VOWarning)  # units that VOUnits does not know: they are the catalogue's, and kept
        document = VOTableFile.from_table(table)
        resource = document.resources[0]
        element = resource.tables[0]
        kinds = [_votable_type(f.type) for f in rows.schema]
        element.fields[:] = [_retyped(document, f, *kind) for f, kind in zip(element.fields, kinds, strict=True)]
    element.description = meta.get("title")
    for key, value in meta.items():
        resource.infos.append(Info(name=key, value=value if isinstance(value, str) else json.dumps(value, default=str)))
    return document


def _votable_type(kind: pa.DataType) -> tuple[str | None, str | None]:
    """Return datatype and arraysize where those that astropy chooses are not the best: None where they are.

    Truths would be bits, which STILTS 3.4 cannot read, and text as wide as the longest value of the moment.
    """
    if pa.types.is_boolean(kind):
        return "boolean", None
    listed = pa.types.is_fixed_size_list(kind) and not pa.types.is_boolean(kind.value_type)
    numbers = kind.value_type if listed else kind
    number = pa.types.is_integer(numbers) or pa.types.is_floating(numbers)
    number = number or pa.types.is_decimal(kind) or pa.types.is_null(kind)
    return (None, None) if number else ("unicodeChar", "*")


def _retyped(document: VOTableFile, field: Field, datatype: str | None, arraysize: str | None) -> Field:
    from astropy.io.votable.tree import Field

    size = arraysize or field.arraysize
    new = Field(
        document, ID=field.ID, name=field.name, ucd=field.ucd, unit=field.unit, datatype=datatype or field.datatype,
        **({"arraysize": size} if size else {}),
    )  # fmt: skip
    new.description = field.description
    return new
