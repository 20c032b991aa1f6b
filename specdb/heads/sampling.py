"""Draws from the joint posterior of stored spectra, part by part: more than memory holds can be asked for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from specdb.errors import QueryError
from specdb.heads.head import Head
from specdb.heads.inputs import input_parts, read_part
from specdb.heads.train import check_source
from specdb.store import Store, in_sorted, read_table

__all__ = ["draw_posteriors"]

_ROWS = 1024  # spectra whose draws are held at once


def draw_posteriors(
    store: Store, head: Head, ids: np.ndarray | None = None, *, n: int = 1000, seed: int = 0
) -> pa.RecordBatchReader:
    """Stream draws from a head's joint posterior as rows: ``spectrum_id``, ``draw`` and one column per label.

    Parameters
    ----------
    store : Store
    head : Head
        Of a kind that holds a posterior.
    ids : ndarray (m,), int64, optional
        Spectra, in any order; answers come in that of the database. All by default.
    n : int
        Draws per spectrum.
    seed : int

    Raises
    ------
    InputError
        For a head that holds no posterior.
    ProvenanceError
        For a head of another encoder.
    QueryError
        For ids that the database has no embedding of.
    """
    head.require_joint()
    check_source(store, head)
    parts = input_parts(store, head.card.modality, head.card.config.inputs, store.default_encoder)
    wanted = None if ids is None else np.unique(np.asarray(ids, np.int64))
    if wanted is not None:
        known = np.sort(np.concatenate([column.to_numpy() for column in store.column(parts, "spectrum_id")]))
        missing = wanted[~in_sorted(wanted, known)]
        if missing.size:
            raise QueryError(
                f"{head.card.modality} has no spectrum with the id {missing[0]} ({missing.size} ids are unknown)"
            )
    notes = [{"unit": facts.unit} if facts.unit else None for facts in head.card.labels]
    labels = [pa.field(f.name, pa.float32(), metadata=m) for f, m in zip(head.card.labels, notes, strict=True)]
    schema = pa.schema([("spectrum_id", pa.int64()), ("draw", pa.int32()), *labels])
    return pa.RecordBatchReader.from_batches(schema, _batches(store, head, parts, wanted, n, seed, schema))


def _batches(
    store: Store, head: Head, parts: list[str], wanted: np.ndarray | None, n: int, seed: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for part in parts:
        here = read_table(store.root / part, ["spectrum_id"])["spectrum_id"].to_numpy()
        rows = np.flatnonzero(in_sorted(here, wanted)) if wanted is not None else np.arange(len(here))
        if not len(rows):
            continue
        piece = read_part(store, part, head.card.config.inputs)
        for at in np.array_split(rows, -(-len(rows) // _ROWS)):
            draws = head.sample(piece.x[at], n, seed)  # (b, n, L)
            numbers = np.tile(np.arange(n, dtype=np.int32), len(at))
            values = [pa.array(draws[..., i].ravel(), from_pandas=True) for i in range(draws.shape[-1])]
            columns = [pa.array(np.repeat(piece.ids[at], n)), pa.array(numbers), *values]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
