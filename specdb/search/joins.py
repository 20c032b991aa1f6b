"""What is laid beside the answers on request: their spectra, and labels of catalogues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from specdb.catalog.selection import catalogues
from specdb.catalog.session import connect
from specdb.catalog.view import quoted
from specdb.errors import QueryError

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["add_labels", "add_spectra", "labels_of"]


def add_spectra(db: Database, modality: str, rows: pa.Table) -> pa.Table:
    """Append ``flux`` and ``ivar``; the schema's metadata gives the wavelengths (``wavelength_vac_angstrom``)."""
    if rows.num_rows == 0:
        return rows
    ids, place = np.unique(rows["spectrum_id"].to_numpy(), return_inverse=True)
    spectra = db.spectra(ids, modality).take(pa.array(place))
    for name in ("flux", "ivar"):
        rows = rows.append_column(spectra.schema.field(name), spectra[name])
    return rows.replace_schema_metadata(spectra.schema.metadata)


def add_labels(db: Database, rows: pa.Table, labels: Sequence[str]) -> pa.Table:
    """Append the columns of catalogues as ``<catalogue>_<column>``; null where a spectrum has no label.

    Raises
    ------
    QueryError
        For a catalogue that there is not.
    """
    for name in labels:
        table = labels_of(db, name, rows["spectrum_id"].to_numpy())
        for column in table.schema:
            rows = rows.append_column(column, table[column.name])
    return rows


def labels_of(db: Database, name: str, ids: np.ndarray) -> pa.Table:
    """Return the labels that a catalogue has for some ids, in their order, null for those without."""
    with connect(db.store) as session:
        known = catalogues(session, db.store)
        if name not in known:
            raise QueryError(f"there is no catalogue {name!r}; there are {', '.join(sorted(known)) or 'none'}")
        distinct = ", ".join(map(str, np.unique(ids).tolist())) or "NULL"
        found = session.query(f"SELECT * FROM {quoted(name)} WHERE spectrum_id IN ({distinct})")
    here = found["spectrum_id"].to_numpy()
    here, first = np.unique(here, return_index=True)  # the first where a catalogue has several rows of one spectrum
    place = np.minimum(np.searchsorted(here, ids), max(len(here) - 1, 0))
    known_rows = here[place] == ids if len(here) else np.zeros(len(ids), bool)
    indices = pa.array(first[place] if len(here) else np.zeros(len(ids), np.int64), mask=~known_rows)
    taken = found.drop_columns(["spectrum_id"]).take(indices)
    fields = [field.with_name(f"{name}_{field.name}") for field in taken.schema]
    return pa.Table.from_arrays(taken.columns, schema=pa.schema(fields))
