"""The list that goes to the telescope: the most unusual spectra with positions, magnitudes and reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.anomaly.reasons import finder
from specdb.anomaly.review import latest_marks, rerank
from specdb.anomaly.run import anomaly_table
from specdb.errors import QueryError
from specdb.rows import Rows
from specdb.search.query import metadata_of

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["AnomalyList", "anomaly_list"]

#: Where a magnitude is looked for, in this order.
_MAGNITUDES = (("phot_g_mean_mag", "G"), ("mag_ps_r", "Pan-STARRS r"), ("mag_r", "r as in the survey's input catalogue"))


@dataclass(frozen=True, repr=False)
class AnomalyList(Rows):
    """The most unusual spectra of a modality, most unusual first.

    Attributes
    ----------
    modality : str
    provenance : dict
        What made the scores.
    """

    modality: str
    provenance: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        """Facts for the header of a file."""
        kept = ("encoder", "weight_hash", "scores", "skipped", "settings", "calibrated_on")
        return {"modality": self.modality} | {name: self.provenance[name] for name in kept if name in self.provenance}


def anomaly_list(
    db: Database, modality: str, top: int = 100, *, by_review: bool = False, rejected: bool = False
) -> AnomalyList:
    """Return the most unusual spectra.

    Parameters
    ----------
    db : Database
    modality : str
    top : int
    by_review : bool
        Order by what reviewers would accept instead of by the score.
    rejected : bool
        Keep spectra that a reviewer has rejected.

    Raises
    ------
    QueryError
        For `top` below 1.
    DatabaseError
        Where nothing has been scored yet.
    """
    if top < 1:
        raise QueryError(f"top is {top}; ask for at least one spectrum")
    table = anomaly_table(db, modality)
    marks = latest_marks(db, modality)
    ids = table["spectrum_id"].to_numpy()
    order_by = rerank(db, modality)["interest"].to_numpy() if by_review else table["score"].to_numpy(zero_copy_only=False)
    value = np.where(np.isfinite(order_by), order_by, -np.inf)
    if not rejected:
        value = np.where([i in marks and marks[i].mark == "reject" for i in ids.tolist()], -np.inf, value)
    rows = np.argsort(-value, kind="stable")[:top]
    rows = rows[np.isfinite(value[rows])]
    chosen = table.take(pa.array(rows))
    facts = metadata_of(db.store, modality, ids[rows])
    ra, dec = (facts[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in ("ra", "dec"))
    magnitude, band = _magnitude(facts)

    def note(name: str, kind: pa.DataType, description: str, **more: str) -> pa.Field:
        return pa.field(name, kind, metadata={"description": description, **more})

    front: list[tuple[pa.Field, Any]] = [
        (note("rank", pa.int32(), "1: the most unusual"), np.arange(1, len(rows) + 1)),
        (chosen.schema.field("spectrum_id"), chosen["spectrum_id"]),
        (facts.schema.field("ra"), facts["ra"]),
        (facts.schema.field("dec"), facts["dec"]),
        (
            note("finder", pa.string(), "position as hh mm ss.ss +dd mm ss.s, for Aladin, SIMBAD and finder charts"),
            finder(ra, dec),
        ),
        (note("magnitude", pa.float64(), "as far as the survey gives one", unit="mag"), magnitude),
        (note("band", pa.string(), "band of the magnitude"), band),
    ]
    back: list[tuple[pa.Field, Any]] = [
        (facts.schema.field(name), facts[name]) for name in ("object_name", "class", "subclass", "snr", "source_file")
    ]
    back.append(
        (note("mark", pa.string(), "latest review"), [marks[i].mark if i in marks else None for i in ids[rows].tolist()])
    )
    middle = [(f, chosen[f.name]) for f in chosen.schema if f.name != "spectrum_id"]
    columns = [*front, *middle, *back]
    arrays = [c if isinstance(c, pa.ChunkedArray) else pa.array(c, f.type, from_pandas=True) for f, c in columns]
    rows_out = pa.Table.from_arrays(arrays, schema=pa.schema([f for f, _ in columns]))
    return AnomalyList(rows_out, modality, db.store.provenance(f"anomalies/{modality}.parquet"))


def _magnitude(facts: pa.Table) -> tuple[pa.Array, list[str | None]]:
    """Return the first known magnitude of each row and its band."""
    known = [(facts[name].cast(pa.float64()), band) for name, band in _MAGNITUDES if name in facts.column_names]
    value = pa.chunked_array([pa.nulls(facts.num_rows, pa.float64())])
    bands: list[str | None] = [None] * facts.num_rows
    for column, band in known:
        usable = pc.if_else(pc.and_(pc.is_finite(column), pc.less(column, 40)), column, None)
        fresh = pc.and_(pc.is_null(value), pc.is_valid(usable)).to_pylist()
        bands = [band if new else old for new, old in zip(fresh, bands, strict=True)]
        value = pc.coalesce(value, usable)
    return value.combine_chunks(), bands
