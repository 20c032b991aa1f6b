"""Looking at candidates: marks are kept in the database for good, and a classifier made from them ranks the rest anew.

Marks are append-only parts, ``reviews/<modality>-00000.parquet`` and so on; the latest mark of a spectrum counts. The
classifier is a logistic regression on leading components of the embedding and on the calibrated scores. What to look at
next is where it is least certain, weighted by how unusual the spectrum is (uncertainty sampling: Lewis & Gale 1994).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from specdb.anomaly.run import anomaly_table
from specdb.errors import InputError, QueryError
from specdb.store import read_table

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["MARKS", "Mark", "add_marks", "latest_marks", "read_marks", "rerank"]

MARKS = ("accept", "reject", "unsure")

_FOLDER = "reviews"
_AXES = 12  # principal components of the embedding that the classifier sees
_SCHEMA = pa.schema(
    [
        pa.field("spectrum_id", pa.int64(), metadata={"description": "spectrum that was looked at"}),
        pa.field("mark", pa.string(), metadata={"description": f"one of {', '.join(MARKS)}"}),
        pa.field("note", pa.string(), metadata={"description": "what the reviewer wrote"}),
        pa.field("time", pa.timestamp("us", tz="UTC"), metadata={"description": "when the mark was made"}),
    ]
)


@dataclass(frozen=True)
class Mark:
    """A verdict: `mark` is one of `MARKS`."""

    spectrum_id: int
    mark: str
    note: str = ""


def add_marks(db: Database, modality: str, marks: Sequence[Mark]) -> str:
    """Store marks as one new part, and return its name; earlier parts are never touched.

    Raises
    ------
    InputError
        For no marks, or a word that is not one of `MARKS`.
    QueryError
        For ids that the modality does not have.
    """
    if not marks:
        raise InputError("there are no marks to store")
    for mark in marks:
        if mark.mark not in MARKS:
            raise InputError(f"{mark.mark!r} is no mark; use one of {', '.join(MARKS)}")
    if modality not in db.modalities:
        raise QueryError(f"the database has no modality {modality!r}; it has {', '.join(db.modalities) or 'none'}")
    ids = np.array([mark.spectrum_id for mark in marks], np.int64)
    unknown = ids[~np.isin(ids, db.store.ids(modality))]
    if len(unknown):
        raise QueryError(f"{modality} has no spectrum with the id {unknown[0]}; nothing was stored")
    now = datetime.now(UTC)
    columns = [ids, [m.mark for m in marks], [m.note for m in marks], [now] * len(marks)]
    table = pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)
    with db.store.writing() as writer:
        taken = [int(n.rsplit("-", 1)[1].removesuffix(".parquet")) for n in _parts(db, modality)]
        name = f"{_FOLDER}/{modality}-{max(taken, default=-1) + 1:05d}.parquet"
        writer.put(name, table, {"made_by": "review"})
    return name


def read_marks(db: Database, modality: str) -> pa.Table:
    """Return all marks ever made, oldest first."""
    parts = [read_table(db.store.root / name) for name in _parts(db, modality)]
    return pa.concat_tables([_SCHEMA.empty_table(), *parts])


def latest_marks(db: Database, modality: str) -> dict[int, Mark]:
    """Return the last mark of each spectrum that has one."""
    return {row["spectrum_id"]: Mark(row["spectrum_id"], row["mark"], row["note"] or "") for row in
            read_marks(db, modality).to_pylist()}  # fmt: skip


def rerank(db: Database, modality: str) -> pa.Table:
    """Rank all spectra anew by what was accepted and rejected so far.

    Returns
    -------
    pyarrow.Table
        ``spectrum_id``, ``interest`` (the probability that a reviewer would accept it), ``uncertainty`` (what to look at
        next has the highest) and ``mark`` (null where it was not looked at), in the order of the spectra. Before there is at
        least one accepted and one rejected spectrum, interest is 1 - p of the anomaly score.
    """
    table = anomaly_table(db, modality)
    ids, p = table["spectrum_id"].to_numpy(), _filled(table["p_value"].to_numpy(zero_copy_only=False), 1.0)
    latest = latest_marks(db, modality)
    verdict = np.array([{"accept": 1, "reject": 0}.get(latest[i].mark, -1) if i in latest else -1 for i in ids.tolist()])
    both = (verdict == 1).any() and (verdict == 0).any()
    interest = _taught(_features(db, modality, table), verdict) if both else 1 - p
    # Certain and uncertain ones alike are worth a look only where something is unusual.
    unsettled = 4 * interest * (1 - interest) if both else np.ones(len(p))
    uncertainty = unsettled * np.sqrt(-np.log10(np.clip(p, 1e-30, 1)))
    marks = [latest[i].mark if i in latest else None for i in ids.tolist()]
    uncertainty[[mark is not None for mark in marks]] = -1.0
    fields = [
        pa.field("spectrum_id", pa.int64()),
        pa.field("interest", pa.float64(), metadata={"description": "probability that a reviewer would accept it"}),
        pa.field("uncertainty", pa.float64(), metadata={"description": "look at the highest next; -1 where marked"}),
        pa.field("mark", pa.string(), metadata={"description": "latest mark"}),
    ]
    return pa.Table.from_arrays(
        [pa.array(ids), pa.array(interest), pa.array(uncertainty), pa.array(marks, pa.string())], schema=pa.schema(fields)
    )


def _taught(features: np.ndarray, verdict: np.ndarray) -> np.ndarray:
    """Return the probability (n,) of being accepted."""
    from sklearn.linear_model import LogisticRegression

    seen = verdict >= 0
    model = LogisticRegression(C=0.3, class_weight="balanced", max_iter=1000)
    return model.fit(features[seen], verdict[seen]).predict_proba(features)[:, 1]


def _features(db: Database, modality: str, table: pa.Table) -> np.ndarray:
    """Return whitened components of the embeddings and surprises of the scores, (n, f), in the order of the table."""
    parts = list(db.store.vectors(db.store.default_encoder, modality))
    known = np.concatenate([ids for ids, _ in parts])
    order = np.argsort(known)
    rows = order[np.searchsorted(known, table["spectrum_id"].to_numpy(), sorter=order)]
    vectors = np.concatenate([v for _, v in parts])[rows]
    centred = vectors - vectors.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred / len(centred))
    leading = slice(-1, -1 - _AXES, -1)
    place = centred @ (axes[:, leading] / np.sqrt(np.maximum(values[leading], 1e-12)))
    names = [name for name in table.column_names if f"{name}_p" in table.column_names]
    surprise = [
        np.sqrt(-np.log10(np.clip(_filled(table[f"{name}_p"].to_numpy(zero_copy_only=False), 1.0), 1e-30, 1)))
        for name in names
    ]
    return np.column_stack([place, *surprise])


def _filled(values: np.ndarray, filler: float) -> np.ndarray:
    return np.where(np.isfinite(values), values, filler)


def _parts(db: Database, modality: str) -> list[str]:
    pattern = re.compile(rf"{_FOLDER}/{re.escape(modality)}-\d+\.parquet")
    return [name for name in db.store.tables(_FOLDER) if pattern.fullmatch(name)]
