"""The answer to a query: ranked rows with their metadata and a statement of how good the answer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from specdb.search.card import IndexCard

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table

__all__ = ["Hits"]


@dataclass(frozen=True)
class Hits:
    """Nearest spectra of one query.

    Attributes
    ----------
    rows : pyarrow.Table
        ``rank`` (from 1), ``score`` (cosine similarity, at most 1), ``spectrum_id``, then the columns of the `spectra` table
        but flux and ivar, best first.
    query : str
        What was asked for: an id or a file name.
    modality : str
        Modality of the answers.
    encoder : str
        Encoder of both sides.
    index : IndexCard
        The index that answered; its `certificate` says how often such answers are the exact ones.
    """

    rows: pa.Table
    query: str
    modality: str
    encoder: str
    index: IndexCard

    def __len__(self) -> int:
        return self.rows.num_rows

    @property
    def ids(self) -> np.ndarray:
        """spectrum_id of the hits, int64, best first."""
        return self.rows["spectrum_id"].to_numpy()

    @property
    def scores(self) -> np.ndarray:
        """Cosine similarities, float32, descending."""
        return self.rows["score"].to_numpy()

    def to_arrow(self) -> pa.Table:
        """Return the rows as they are."""
        return self.rows

    def to_pandas(self) -> pd.DataFrame:
        """Return the rows as a pandas data frame."""
        return self.rows.to_pandas()

    def to_table(self) -> Table:
        """Return the rows as an astropy table with units, descriptions and the query in its `meta`."""
        meta = {
            "query": self.query,
            "modality": self.modality,
            "encoder": self.encoder,
            "recall": str(self.index.certificate),
        }
        return astropy_table(self.rows, meta)


def astropy_table(rows: pa.Table, meta: dict[str, Any] | None = None) -> Table:
    """Convert an Arrow table to an astropy table: nulls become masked values, units and descriptions are kept."""
    from astropy.table import MaskedColumn, Table

    columns = []
    for field, column in zip(rows.schema, rows.columns, strict=True):
        note = {k.decode(): v.decode() for k, v in (field.metadata or {}).items()}
        mask = column.is_null().to_numpy(zero_copy_only=False)
        if pa.types.is_string(field.type):
            data = np.array([value or "" for value in column.to_pylist()], dtype=str)
        elif pa.types.is_nested(field.type):
            data = np.array(column.to_pylist(), dtype=object)
        else:
            data = column.fill_null(0).to_numpy() if mask.any() else column.to_numpy()
        columns.append(
            MaskedColumn(data, name=field.name, mask=mask, unit=note.get("unit"), description=note.get("description"))
        )
    return Table(columns, meta=meta or {})
