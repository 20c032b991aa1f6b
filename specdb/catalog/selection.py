"""Which spectra satisfy a condition: SQL over the metadata and labels of one modality, as `--where` takes it.

The condition is one boolean expression. It may name columns of the modality's spectra, and those of any catalogue that is
keyed by `spectrum_id`: plainly where only one has the column, as ``lasp.teff`` always. What a head has predicted is a table
under the head's name: ``atm.teff`` and ``atm.teff_sigma``. Columns of the spectra come first.
Catalogues are joined only where they are named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from specdb.catalog.session import Session, connect
from specdb.catalog.view import quoted
from specdb.errors import QueryError
from specdb.store import Store

if TYPE_CHECKING:
    from specdb.search import VectorIndex

__all__ = ["catalogues", "select_ids", "select_values"]

_RULE = "a condition is one true-or-false expression such as \"snr_g > 30 AND subclass LIKE 'K%'\""


def select_ids(store: Store, modality: str, where: str, *, index: Callable[[str], VectorIndex] | None = None) -> np.ndarray:
    """Return the ids of the spectra that satisfy a condition.

    Parameters
    ----------
    store : Store
    modality : str
    where : str
        What would follow WHERE. Rows for which it is unknown (a missing label) do not satisfy it.
    index : callable, optional
        See `specdb.catalog.connect`; for conditions that contain ``knn`` or ``similarity``.

    Returns
    -------
    ndarray (r,), int64
        Sorted, each once.

    Raises
    ------
    QueryError
        For anything but one condition over known columns, and a column that several catalogues have.
    """
    with connect(store, index=index) as session:
        used = list(_columns(_expression(session, where)))
        source = _source(session, store, modality, used)
        if (kind := session.query(f"DESCRIBE SELECT (\n{where}\n) AS c {source}")["column_type"][0].as_py()) != "BOOLEAN":
            raise QueryError(f"{where!r} is a value of type {kind}; {_RULE}")
        found = session.query(f"SELECT DISTINCT spectrum_id {source} WHERE (\n{where}\n)")
    return np.sort(found["spectrum_id"].to_numpy().astype(np.int64))


def select_values(
    store: Store,
    modality: str,
    values: dict[str, str],
    where: str | None = None,
    *,
    index: Callable[[str], VectorIndex] | None = None,
) -> pa.Table:
    """Return values of SQL expressions over the metadata and labels of a modality's spectra.

    Parameters
    ----------
    store : Store
    modality : str
    values : dict
        Name of a result column -> one expression over columns as in `select_ids`: ``{"value": "lasp.feh"}``.
    where : str, optional
        As in `select_ids`.
    index : callable, optional
        See `specdb.catalog.connect`.

    Returns
    -------
    pyarrow.Table
        ``spectrum_id`` and the values, one row per spectrum (and per row of a catalogue that has several for it).

    Raises
    ------
    QueryError
        For anything but expressions over known columns.
    """
    with connect(store, index=index) as session:
        texts = [*values.values(), *([where] if where else [])]
        used = [path for text in texts for path in _columns(_expression(session, text))]
        chosen = "".join(f", (\n{text}\n) AS {quoted(name)}" for name, text in values.items())
        condition = f" WHERE (\n{where}\n)" if where else ""
        return session.query(f"SELECT spectrum_id{chosen} {_source(session, store, modality, used)}{condition}")


def catalogues(session: Session, store: Store) -> dict[str, dict[str, str]]:
    """Return the tables keyed by spectrum_id that are not spectra or vectors: lower-case column -> column, by table."""
    found: dict[str, dict[str, str]] = {}
    for row in session.schema().select(["table", "column"]).to_pylist():
        found.setdefault(row["table"], {})[row["column"].lower()] = row["column"]
    # `labels` lists the catalogues, and `<catalogue>_all` has rows that match no spectrum.
    own = {*store.modalities(), "spectra", "rejected", "pairs", "labels", *(f"{name}_all" for name in found)}
    return {
        name: columns
        for name, columns in found.items()
        if "spectrum_id" in columns and name not in own and not name.startswith("embeddings")
    }


def _expression(session: Session, where: str) -> dict[str, Any]:
    """Parse a condition by DuckDB's own parser; it must be one expression and nothing around it."""

    def parse(text: str) -> dict[str, Any]:
        literal = f"SELECT (\n{text}\n)".replace("'", "''")
        return json.loads(session.query(f"SELECT json_serialize_sql('{literal}') AS tree")["tree"][0].as_py())

    tree = parse(where)
    if tree["error"]:
        raise QueryError(f"{where!r} is not SQL: {tree['error_message']}; {_RULE}")
    if len(tree["statements"]) != 1:
        raise QueryError(f"{where!r} is {len(tree['statements'])} statements; {_RULE}")
    node, plain = (t["statements"][0]["node"] for t in (tree, parse("true")))
    items = node.get("select_list") or []
    if len(items) != 1 or {**node, "select_list": None} != {**plain, "select_list": None}:
        raise QueryError(f"{where!r} is more than a condition; {_RULE}")
    return items[0]


def _columns(node: Any) -> Iterator[tuple[str, ...]]:
    """Yield the columns that an expression names, outside of subqueries, which have tables of their own."""
    if isinstance(node, list):
        for item in node:
            yield from _columns(item)
    elif isinstance(node, dict):
        if node.get("class") == "COLUMN_REF":
            yield tuple(node["column_names"])
        for key, item in node.items():
            if key != "subquery":
                yield from _columns(item)


def _source(session: Session, store: Store, modality: str, used: list[tuple[str, ...]]) -> str:
    """Return the FROM clause that offers the columns named."""
    own = {name.lower(): name for name in session.schema(modality)["column"].to_pylist()}
    known = {} if all(len(path) == 1 and path[0].lower() in own for path in used) else catalogues(session, store)
    tables = {name.lower(): name for name in known}
    wanted: dict[str, set[str]] = {}
    mine, alias = {"spectrum_id"}, "spectra"
    for path in used:
        column = path[-1].lower()
        if len(path) > 1 and path[-2].lower() in ("spectra", modality):
            if column not in own:
                raise QueryError(f"{modality} has no column {path[-1]!r}{_similar(column, own)}")
            mine.add(own[column])
            alias = path[-2]
        elif len(path) > 1:
            if (table := tables.get(path[-2].lower())) is None:
                raise QueryError(f"there is no catalogue {path[-2]!r}; there are {', '.join(sorted(known)) or 'none'}")
            if column not in known[table]:
                raise QueryError(f"the catalogue {table} has no column {path[-1]!r}{_similar(column, known[table])}")
            wanted.setdefault(table, set()).add(known[table][column])
        elif column in own:
            mine.add(own[column])
        else:
            holders = sorted(name for name, columns in known.items() if column in columns)
            if len(holders) > 1:  # each head's predictions are a table of their own, besides being among those of all
                holders = [name for name in holders if name != "predictions"]
            if not holders:
                every = [*own, *(c for columns in known.values() for c in columns)]
                among = f"{modality} and its catalogues ({', '.join(sorted(known)) or 'none'})"
                raise QueryError(f"no column {path[-1]!r} in {among}{_similar(column, every)}")
            if len(holders) > 1:
                choice = " or ".join(f"{name}.{path[-1]}" for name in holders)
                raise QueryError(f"{len(holders)} catalogues have a column {path[-1]!r}; write {choice}")
            wanted.setdefault(holders[0], set()).add(known[holders[0]][column])
    parts = [f"FROM (SELECT {', '.join(map(quoted, sorted(mine)))} FROM {quoted(modality)}) AS {quoted(alias)}"]
    for number, (table, columns) in enumerate(sorted(wanted.items())):
        key = f"specdb_key_{number}"
        listed = ", ".join([f"spectrum_id AS {key}", *map(quoted, sorted(columns))])
        parts.append(f"LEFT JOIN (SELECT {listed} FROM {quoted(table)}) AS {quoted(table)} ON {key} = {alias}.spectrum_id")
    return " ".join(parts)


def _similar(name: str, names: Any) -> str:
    near = get_close_matches(name, sorted(set(names)), 3)
    return f"; is it {' or '.join(near)}?" if near else ""
