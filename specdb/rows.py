"""Rows of an answer, and the forms that astronomers want them in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.errors import DependencyError

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table

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
        """Return the rows as an astropy table: nulls become masked values; units, descriptions and UCDs are kept."""
        from astropy.table import MaskedColumn, Table

        columns = []
        for field, column in zip(self.rows.schema, self.rows.columns, strict=True):
            note = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
            mask = column.is_null().to_numpy()
            if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
                data = np.array([value or "" for value in column.to_pylist()], dtype=str)
            elif pa.types.is_fixed_size_list(field.type):
                data = np.zeros((len(mask), field.type.list_size), field.type.value_type.to_pandas_dtype())
                data[~mask] = pc.list_flatten(column).to_numpy().reshape(-1, field.type.list_size)
                mask = np.repeat(mask[:, None], field.type.list_size, axis=1)
            elif pa.types.is_nested(field.type):
                data = np.array(column.to_pylist(), dtype=object)
            else:
                data = column.fill_null(0).to_numpy() if mask.any() else column.to_numpy()
            unit, description = note.get("unit"), note.get("description")
            meta = {"ucd": note["ucd"]} if "ucd" in note else None
            columns.append(MaskedColumn(data, name=field.name, mask=mask, unit=unit, description=description, meta=meta))
        return Table(columns, meta=self.meta)
