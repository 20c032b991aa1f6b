"""Answers to many queries at once, block by block: neither the vectors nor the answers of a million queries are held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from specdb.errors import DatabaseError, QueryError
from specdb.export import save_rows
from specdb.rows import Rows
from specdb.search.answer import Found, Request, Target, find, make_plan
from specdb.search.asked import Asked, Many, ask_many
from specdb.search.joins import labels_of
from specdb.search.planner import Plan
from specdb.search.query import metadata_of, take_rows

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["BLOCK", "Answers", "answer_many"]

#: Queries searched at once.
BLOCK = 4096

#: Answers held at once: a search within a radius may find very many per query.
_HELD = 1 << 24


@dataclass(frozen=True)
class Answers:
    """Answers to many queries, made while they are read.

    Attributes
    ----------
    schema : pyarrow.Schema
        ``query_id`` (id of the query, or its number where it has none), ``rank``, ``score``, ``spectrum_id``, then what was
        asked for.
    modality : str
        Modality of the answers.
    plan : Plan
    queries, left_out : int
        Queries that are answered, and those that were left out as unknown or unusable.
    """

    schema: pa.Schema
    modality: str
    plan: Plan
    queries: int
    left_out: int
    _blocks: Any

    def reader(self) -> pa.RecordBatchReader:
        """Return a new stream of all answers, in the order of the queries."""
        return pa.RecordBatchReader.from_batches(self.schema, self._blocks())

    def rows(self) -> Rows:
        """Return all answers, held in memory."""
        reader = self.reader()
        return Rows(pa.Table.from_batches(reader, reader.schema))

    def save(self, path: str | Path) -> int:
        """Write the answers to a file (see `specdb.export.save_rows`) and return how many there are."""
        return save_rows(self.reader(), path, {"plan": str(self.plan), "modality": self.modality})


def answer_many(
    db: Database,
    queries: Many,
    request: Request,
    *,
    to: str | None = None,
    modality: str | None = None,
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    skip_unknown: bool = False,
) -> Answers:
    """Answer many queries; see `specdb.database.Database.search_many`."""
    if not db.modalities:
        raise DatabaseError(f"{db.store.root} holds no spectra yet; fill it with `specdb build-index`")
    for name in (modality, to):
        if name is not None and name not in db.modalities:
            raise QueryError(f"the database has no modality {name!r}; it has {', '.join(db.modalities)}")
    asked = ask_many(db, queries, modality, skip_unknown=skip_unknown)
    searched = to or asked.modality
    if searched is None:
        raise QueryError(f"say which modality is searched for these vectors: {', '.join(db.modalities)}")
    while True:
        state = db.store.manifest()
        target = Target.of(db, searched, request.where)
        beside = _beside(db, searched, columns, labels)
        if db.store.manifest() is state:  # else they may be of two states of the database
            break
    plan = make_plan(target, request, min(len(asked), BLOCK))
    head = [
        pa.field("query_id", pa.int64(), metadata={"description": "spectrum_id of the query, or its number"}),
        pa.field("rank", pa.int32(), metadata={"description": "1 is the nearest"}),
        pa.field("score", pa.float32(), metadata={"description": "cosine similarity"}),
        pa.field("spectrum_id", pa.int64(), metadata={"description": "id of the answer"}),
    ]
    schema = pa.schema([*head, *(field for table in beside for field in table.schema if field.name != "spectrum_id")])

    def blocks() -> Iterator[pa.RecordBatch]:
        step = BLOCK if request.least is None else max(1, min(BLOCK, _HELD // max(plan.n_searched, 1)))
        for start in range(0, len(asked), step):
            part = slice(start, min(start + step, len(asked)))
            yield from _batches(asked, part, find(db, target, asked, part, request), beside, schema)

    return Answers(schema, searched, plan, len(asked), asked.left_out, blocks)


def _beside(db: Database, modality: str, columns: Sequence[str], labels: Sequence[str]) -> list[pa.Table]:
    """Return tables with a column spectrum_id that are laid beside the answers: held once, since every block needs them."""
    tables = []
    ids = db.store.ids(modality)
    if columns:
        known = db.metadata_columns(modality)
        if wrong := [name for name in columns if name not in known]:
            raise QueryError(f"{modality} has no column {wrong[0]!r}; it has {', '.join(known)}")
        tables.append(metadata_of(db.store, modality, ids, columns))
    return tables + [labels_of(db, name, ids).append_column("spectrum_id", pa.array(ids)) for name in labels]


def _batches(asked: Asked, part: slice, found: Found, beside: list[pa.Table], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    names = np.where(asked.ids[part] >= 0, asked.ids[part], np.arange(part.start, part.stop))
    arrays: list[Any] = [
        pa.array(names[found.owner]),
        pa.array(found.rank),
        pa.array(np.minimum(found.scores, 1), pa.float32()),
        pa.array(found.ids),
    ]
    for table in beside:
        taken = take_rows(table, found.ids)
        arrays += [taken[name] for name in taken.column_names if name != "spectrum_id"]
    yield from pa.Table.from_arrays(arrays, schema=schema).to_batches()
