"""What is asked: one query or a million, each an id, a spectrum or a vector, as vectors and positions on demand."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.catalog.session import run_sql
from specdb.errors import DatabaseError, InputError, QueryError
from specdb.search.lookups import StarTable
from specdb.search.query import Query, find_modality, parse_question
from specdb.spectra import Spectra, get_modality, modality_names
from specdb.store import matrix, read_table

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["Asked", "ask", "ask_many", "modality_of", "read_ids", "stored_vectors"]

Many: TypeAlias = np.ndarray | Sequence[int] | Spectra | pa.Table | str | Path

_SQL = re.compile(r"\s*(select|with|from|\()\s", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """Queries of one modality.

    Attributes
    ----------
    names : ndarray (m,)
        For people: ids, or names of files.
    ids : ndarray (m,), int64
        spectrum_id; -1 where there is none.
    modality : str or None
        None for plain vectors.
    vectors : callable
        A slice of the queries -> their unit vectors, float32.
    stars : callable
        -> their positions and Gaia ids.
    left_out : int
        Queries that were asked for and could not be used.
    """

    names: np.ndarray
    ids: np.ndarray
    modality: str | None
    vectors: Callable[[slice], np.ndarray]
    stars: Callable[[], StarTable]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def ask(db: Database, query: Query, modality: str | None) -> Asked:
    """Turn one query into a vector.

    Raises
    ------
    QueryError
        For a query that makes no sense.
    """
    if modality is not None and modality not in modality_names():
        raise QueryError(f"there is no modality {modality!r}; the database has {', '.join(db.modalities)}")
    question = parse_question(query, [modality] if modality else db.modalities, foreign=modality is None)
    if question.spectrum_id is not None:
        if modality is not None and modality not in db.modalities:
            raise QueryError(f"the database has no modality {modality!r}; it has {', '.join(db.modalities)}")
        ids = np.array([question.spectrum_id])
        return _of_ids(db, ids, modality or modality_of(db, question.spectrum_id))
    assert question.spectra is not None
    if question.modality is None:
        raise QueryError(f"say of which modality the spectrum is: {', '.join(db.modalities)}")
    return _of_spectra(db, question.spectra, question.modality, [question.name], False)


def ask_many(db: Database, queries: Many, modality: str | None, *, skip_unknown: bool = False) -> Asked:
    """Turn many queries into vectors, block by block where they are stored ones.

    Parameters
    ----------
    db : Database
    queries : ndarray or sequence of int (m,), ndarray (m, d) of float, Spectra, pyarrow.Table, str or Path
        Ids, unit vectors of the encoder, spectra; or a table with a column `spectrum_id`, a file of one, ``-`` for ids on
        standard input, or a question in SQL that has such a column.
    modality : str, optional
    skip_unknown : bool
        Leave out ids that the database does not have, and spectra that the preparation rejects, rather than fail.

    Raises
    ------
    QueryError
        For unknown ids and spectra that cannot be used, which are counted, and queries of several modalities.
    InputError
        For a table without ids.
    """
    if isinstance(queries, Spectra):
        only = db.modalities[0] if len(db.modalities) == 1 else None
        if (modality := modality or only) is None:
            raise QueryError(f"say of which modality the spectra are: {', '.join(db.modalities)}")
        return _of_spectra(db, queries, modality, None, skip_unknown)
    if isinstance(queries, np.ndarray) and queries.ndim == 2:
        vectors = queries
        nobody = np.full(len(vectors), -1)
        unknown = np.full(len(vectors), np.nan)
        stars = StarTable(nobody, unknown, unknown, np.zeros(len(vectors), np.int64))
        return Asked(np.arange(len(vectors)), nobody, modality, lambda part: vectors[part], lambda: stars)
    ids = read_ids(db, queries)
    if len(ids) == 0:
        raise QueryError("there is no id among the queries")
    holders = [modality] if modality else db.modalities
    known = np.array([_known(db, one, ids) for one in holders])
    if (unknown_ids := ids[~known.any(axis=0)]).size and not skip_unknown:
        some = ", ".join(map(str, unknown_ids[:3].tolist()))
        raise QueryError(
            f"{unknown_ids.size} of {ids.size} ids are not among the embedded spectra of {', '.join(holders)}, "
            f"first {some}; leave them out with --skip-unknown (skip_unknown=True)"
        )
    used = np.flatnonzero(known.sum(axis=1))
    if len(used) == 0:
        raise QueryError(f"none of the {ids.size} ids is among the embedded spectra of {', '.join(holders)}")
    if len(used) > 1:
        counts = ", ".join(f"{known[i].sum()} in {holders[i]}" for i in used)
        raise QueryError(f"the ids are of several modalities ({counts}); say which with --modality, and --skip-unknown")
    return _of_ids(db, ids[known[used[0]]], holders[used[0]], unknown_ids.size)


def read_ids(db: Database, queries: Many) -> np.ndarray:
    """Return the ids (m,), int64, that a list, table, file, standard input or SQL names."""
    from specdb.catalog.files import open_catalogue
    from specdb.catalog.keys import check_ids, find_column

    if isinstance(queries, str | Path):
        text = str(queries)
        if text == "-":
            return _listed(sys.stdin.read(), "standard input")
        if isinstance(queries, str) and _SQL.match(text):
            queries, what = run_sql(db.store, text, index=db.index), "the answer"
        else:
            file = open_catalogue(Path(text))
            name = find_column(file.schema, "spectrum_id", text)
            column = pa.chunked_array([batch[name] for batch in file.batches()], file.schema.field(name).type)
            queries, what = pa.table({"spectrum_id": column}), text
    else:
        what = "the table"
    if isinstance(queries, pa.Table):
        column = check_ids(queries[find_column(queries.schema, "spectrum_id", what)], "spectrum_id", what)
        if column.null_count:
            raise InputError(f"{what} has {column.null_count} rows without a spectrum_id; leave them out")
        try:
            return column.cast(pa.int64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise InputError(f"{what}: spectrum_id holds what is no whole number ({error})") from None
    ids: np.ndarray = np.asarray(queries)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise QueryError(
            f"queries are {ids.dtype} of shape {ids.shape}; give integer ids (m,), or unit vectors (m, d) as floating point"
        )
    return ids.astype(np.int64)


def _listed(text: str, what: str) -> np.ndarray:
    """Return ids separated by white space or commas; a heading is passed over."""
    words = text.replace(",", " ").split()
    words = words[1:] if words and words[0].lower().strip('"') == "spectrum_id" else words
    wrong = [word for word in words if not re.fullmatch(r"-?\d{1,18}|[1-8]\d{18}|9[01]\d{17}|92[01]\d{16}", word)]
    if wrong:
        raise InputError(f"{what} has {len(wrong)} words that are no ids, first {wrong[0]!r}; give one spectrum_id per line")
    return np.array([int(word) for word in words], np.int64)


def modality_of(db: Database, spectrum_id: int) -> str:
    """Return the modality that holds an id, asking the indices first: they know without reading Parquet."""
    indexed = []
    for modality in db.modalities:
        with suppress(QueryError, DatabaseError):
            if db.index(modality).rows_of(np.array([spectrum_id]))[0] >= 0:
                indexed.append(modality)
    return indexed[0] if len(indexed) == 1 else find_modality(db.store, spectrum_id)


def stored_vectors(db: Database, modality: str, ids: np.ndarray) -> np.ndarray:
    """Return the stored vectors (m, d) of some ids, from the index's cache or, where that lags behind, from Parquet.

    Raises
    ------
    QueryError
        Naming ids that have not been embedded.
    """
    with suppress(QueryError, DatabaseError):
        return db.index(modality).vectors(ids)
    found: dict[int, np.ndarray] = {}
    for part in db.store.embedding_parts(db.store.default_encoder, modality):
        here = read_table(db.store.root / part, ["spectrum_id"])["spectrum_id"].to_numpy()
        rows = np.flatnonzero(np.isin(here, ids))
        if len(rows):
            vectors = matrix(read_table(db.store.root / part, ["shared"])["shared"])[rows]
            found |= dict(zip(here[rows].tolist(), vectors, strict=True))
    if missing := [i for i in ids.tolist() if i not in found]:
        raise QueryError(f"{modality} has no embedded spectrum with the id {missing[0]}; run `specdb embed` if it is new")
    return np.stack([found[i] for i in ids.tolist()])


def _known(db: Database, modality: str, ids: np.ndarray) -> np.ndarray:
    """Say which ids (m,) have stored vectors."""
    with suppress(DatabaseError):
        known = db.index(modality).rows_of(ids) >= 0
        if known.all():
            return known
    store = db.store
    parts = store.embedding_parts(store.default_encoder, modality)
    columns = [column.to_numpy() for column in store.column(parts, "spectrum_id")]
    return np.isin(ids, np.concatenate([np.empty(0, np.int64), *columns]))


def _of_ids(db: Database, ids: np.ndarray, modality: str, left_out: int = 0) -> Asked:
    def vectors(part: slice) -> np.ndarray:
        return stored_vectors(db, modality, ids[part])

    return Asked(ids, ids, modality, vectors, lambda: db.lookups.stars(modality).take(ids), left_out)


def _of_spectra(db: Database, spectra: Spectra, modality: str, names: list[str] | None, skip: bool) -> Asked:
    prepared = get_modality(modality).preparation([spectra])
    if prepared.rejections and not (skip and len(prepared)):
        first = prepared.rejections[0]
        which = "the spectrum" if len(spectra) == 1 else f"{len(prepared.rejections)} of {len(spectra)} spectra, the first"
        raise QueryError(f"{which} cannot be used as a query: {first.reason}: {first.detail}")
    embedded = db.encoder.encode(prepared.flux, modality, device=db.device, pad=False)["shared"]
    n, rows = len(prepared), prepared.rows

    def column(name: str, missing: float, kind: type) -> np.ndarray:
        if spectra.metadata.num_rows == 0 or name not in spectra.metadata.column_names:
            return np.full(n, missing, kind)
        return pc.fill_null(spectra.metadata[name].take(rows), missing).to_numpy().astype(kind)

    ids = column("spectrum_id", -1, np.int64)
    stars = StarTable(ids, column("ra", np.nan, float), column("dec", np.nan, float), column("gaia_source_id", 0, np.int64))
    shown = np.array(names) if names else np.where(ids >= 0, ids, rows)
    return Asked(shown, ids, modality, lambda part: embedded[part], lambda: stars, len(prepared.rejections))
