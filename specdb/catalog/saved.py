"""Questions in SQL that people keep: append-only, as nothing can make them again; the latest under a name counts."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pyarrow as pa

from specdb.errors import InputError
from specdb.store import Store, read_table

__all__ = ["forget_query", "save_query", "saved_queries"]

_FOLDER = "queries"
_NAME = re.compile(r"[\w .,:+()/-]{1,80}")
_LONGEST, _MOST = 5000, 500
_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), metadata={"description": "what the question is called"}),
        pa.field("sql", pa.string(), metadata={"description": "the question; empty where it was forgotten"}),
        pa.field("time", pa.timestamp("us", tz="UTC"), metadata={"description": "when it was saved"}),
    ]
)


def save_query(store: Store, name: str, sql: str) -> None:
    """Keep a question under a name; one that is there already is replaced, and its text stays in an earlier part.

    Parameters
    ----------
    store : Store
    name : str
        Up to 80 letters, digits, spaces and ``.,:+()/_-``.
    sql : str
        Up to 5000 characters; it is not run.

    Raises
    ------
    InputError
        For a name or a text outside these limits, or more than 500 questions.
    """
    if not _NAME.fullmatch(name) or not name.strip():
        raise InputError("a question's name has 1 to 80 letters, digits, spaces and . , : + ( ) / _ -")
    if not sql.strip() or len(sql) > _LONGEST:
        raise InputError(f"the question has {len(sql.strip())} characters; 1 to {_LONGEST} are kept")
    known = saved_queries(store)
    if known.get(name.strip()) == sql:
        return
    if len(known) >= _MOST and name.strip() not in known:
        raise InputError(f"{len(known)} questions are kept, and no more than {_MOST}; forget some first")
    _append(store, name.strip(), sql)


def forget_query(store: Store, name: str) -> None:
    """Take a question off the list; its text stays in the part it was saved in.

    Raises
    ------
    InputError
        Where there is none of that name.
    """
    if name not in (known := saved_queries(store)):
        raise InputError(f"no question is called {name!r}; there are {', '.join(sorted(known)) or 'none'}")
    _append(store, name, "")


def saved_queries(store: Store) -> dict[str, str]:
    """Return the questions by name, sorted."""
    parts = [read_table(store.root / name) for name in _parts(store)]
    rows = pa.concat_tables([_SCHEMA.empty_table(), *parts]).to_pylist()
    latest = {row["name"]: row["sql"] for row in rows}
    return {name: latest[name] for name in sorted(latest) if latest[name]}


def _parts(store: Store) -> list[str]:
    return [name for name in store.tables(_FOLDER) if re.fullmatch(rf"{_FOLDER}/part-\d+\.parquet", name)]


def _append(store: Store, name: str, sql: str) -> None:
    row = {"name": name, "sql": sql, "time": datetime.now(UTC)}
    with store.writing() as writer:
        number = max((int(part[-13:-8]) for part in _parts(store)), default=-1) + 1
        writer.put(f"{_FOLDER}/part-{number:05d}.parquet", pa.Table.from_pylist([row], _SCHEMA), {"kind": "saved query"})
