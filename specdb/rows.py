"""Rows of an answer, and the forms that astronomers want them in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.errors import DependencyError

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import MaskedColumn, QTable, Table

__all__ = ["Rows"]


@dataclass(frozen=True, repr=False)
class Rows:
    """An answer as an Arrow table, with conversions.

    Attributes
    ----------
    rows : pyarrow.Table
    """

    rows: pa.Table

    def __repr__(self) -> str:
        names = ", ".join(self.rows.column_names[:6])
        return f"<{type(self).__name__}: {len(self)} rows, columns {names}{', ...' if self.rows.num_columns > 6 else ''}>"

    def __len__(self) -> int:
        return self.rows.num_rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows.to_pylist())

    @property
    def meta(self) -> dict[str, Any]:
        """Facts that go into the `meta` of an astropy table."""
        return {}

    def to_arrow(self) -> pa.Table:
        """Return the rows as they are."""
        return self.rows

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas data frame.

        Raises
        ------
        DependencyError
            When pandas is not installed.
        """
        try:
            return self.rows.to_pandas()
        except ImportError:
            raise DependencyError("to_pandas needs pandas: pip install pandas; to_table and to_arrow work without") from None

    def to_table(self) -> Table:
        """Return the rows as an astropy table: nulls become masked values; units, descriptions and UCDs are kept.

        Exact decimals (sums of integers in SQL) become numbers, times ISO 8601 text, and lists of varying length JSON text.
        """
        from astropy.table import Table

        return Table([_column(f, c) for f, c in zip(self.rows.schema, self.rows.columns, strict=True)], meta=self.meta)

    def to_qtable(self) -> QTable:
        """Return the rows as an astropy table of quantities; those of columns with nulls are masked.

        A column whose unit astropy does not know stays a plain one, with a warning.
        """
        from astropy.table import Column, QTable

        table = self.to_table()
        whole = [c if c.mask.any() else Column(c.data.data, c.name, copy=False) for c in table.itercols()]
        for new, old in zip(whole, table.itercols(), strict=True):
            new.unit, new.description, new.info.meta = old.unit, old.description, old.info.meta
        return QTable(whole, meta=table.meta)


def _column(field: pa.Field, values: pa.ChunkedArray) -> MaskedColumn:
    """Return a column with its notes; rows of fixed-size lists become the second axis."""
    from astropy.table import MaskedColumn

    values, note = _plain(values), {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
    mask = values.is_null().to_numpy()
    if pa.types.is_string(values.type):
        data = np.array([value or "" for value in values.to_pylist()], dtype=str)
    elif pa.types.is_fixed_size_list(values.type):
        data = np.zeros((len(mask), values.type.list_size), values.type.value_type.to_pandas_dtype())
        data[~mask] = pc.list_flatten(values).to_numpy().reshape(-1, values.type.list_size)
        mask = np.repeat(mask[:, None], values.type.list_size, axis=1)
    else:
        data = values.fill_null(pa.scalar(0).cast(values.type)).to_numpy()
    meta = {"ucd": note["ucd"]} if "ucd" in note else None
    unit, description = note.get("unit"), note.get("description")
    return MaskedColumn(data, name=field.name, mask=mask, unit=unit, description=description, meta=meta)


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return values as numbers, truths, text, or fixed-size lists of numbers."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _plain(values.cast(kind.value_type))
    if pa.types.is_null(kind):
        return values.cast(pa.float64())
    if pa.types.is_decimal(kind):
        try:
            return values.cast(pa.int64())
        except pa.ArrowInvalid:  # a fraction, or beyond 64 bits
            return values.cast(pa.float64())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return pc.replace_substring(values.cast(pa.string()), " ", "T")
    if pa.types.is_large_string(kind):
        return values.cast(pa.string())
    numbers = kind.value_type if pa.types.is_fixed_size_list(kind) else kind
    if (
        pa.types.is_integer(numbers)
        or pa.types.is_floating(numbers)
        or pa.types.is_boolean(kind)
        or pa.types.is_string(kind)
    ):
        return values
    texts = [None if value is None else json.dumps(value, default=str) for value in values.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])
