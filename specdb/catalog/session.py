"""A DuckDB session that sees the database's tables and nothing else.

Parquet files are handed to DuckDB as Arrow datasets. DuckDB itself therefore needs no access to files at all, and has none:
no reading, no writing, no extensions, no variables of the calling program, and locked settings. On top of that, only
questions are let through (`specdb.catalog.statements`), and strangers get limits.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import duckdb
import pyarrow as pa

from specdb.catalog.functions import Neighbours, define_functions
from specdb.catalog.statements import Statement, first_line, parse_statement
from specdb.catalog.view import View, quoted
from specdb.catalog.views import all_views
from specdb.errors import DatabaseError, QueryError
from specdb.store import Store

if TYPE_CHECKING:
    from specdb.search import VectorIndex

__all__ = ["UNTRUSTED", "Limits", "Session", "connect", "run_sql"]

_LOCKED = """
SET python_enable_replacements = false;
SET enable_external_access = false;
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET allow_community_extensions = false;
SET lock_configuration = true;
"""

_BATCH_ROWS = 1 << 16

_SCHEMA = ("table", "column", "type", "unit", "ucd", "description")


@dataclass(frozen=True)
class Limits:
    """What a session may use; None: no limit of ours.

    Attributes
    ----------
    seconds : float
        Per statement, from its start to its last row.
    memory_bytes : int
        DuckDB's memory. A limited session may not spill to the disk either.
    rows : int
        Rows of a result; more are cut off, and the result says so.
    listed_functions : bool
        Allow only the scalar functions in `specdb.catalog.harmless`.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    rows: int | None = None
    listed_functions: bool = False


#: For SQL of strangers, as on the web page.
UNTRUSTED = Limits(seconds=10, memory_bytes=1 << 30, rows=100_000, listed_functions=True)


class Session:
    """Runs SQL; made by `connect`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, neighbours: Neighbours, limits: Limits, root: Path) -> None:
        self._connection = connection
        self._views: dict[str, View] = {}
        self._registered: dict[str, bool] = {}
        self._neighbours = neighbours
        self._limits = limits
        self._root = root
        #: Whether the last result was cut off at the limit of rows.
        self.cut_off = False

    def offer(self, views: dict[str, View]) -> None:
        """Let queries name these views."""
        self._views |= {name.lower(): view for name, view in views.items()}

    @property
    def tables(self) -> list[str]:
        """Names that a query can use, sorted."""
        return sorted(view.name for view in self._views.values())

    def query(self, sql: str) -> pa.Table:
        """Run one statement and return its result.

        Raises
        ------
        QueryError
            For anything but one question over the tables, an error in it, or a limit that it hits.
        """
        reader = self.reader(sql)
        return pa.Table.from_batches(reader, reader.schema)

    def reader(self, sql: str) -> pa.RecordBatchReader:
        """Run one statement and return its result as a stream, which may be larger than memory; read it within the session.

        Raises
        ------
        QueryError
            See `query`; also while reading.
        """
        statement = parse_statement(self._connection, sql, set(self._views), untrusted=self._limits.listed_functions)
        if statement.lists_tables:
            rows = [{"name": name, "comment": self._views[name.lower()].comment} for name in self.tables]
            return pa.Table.from_pylist(rows).to_reader()
        with self.guarded():
            for name in sorted(statement.tables):
                self.register(name, statement.columns)
        batches = self._run(statement)
        schema = next(batches)
        assert isinstance(schema, pa.Schema)
        schema = _named_once(schema)
        return pa.RecordBatchReader.from_batches(
            schema, (pa.record_batch(batch.columns, schema=schema) for batch in batches)
        )

    def schema(self, table: str | None = None) -> pa.Table:
        """Return the columns of one table or of all: ``table, column, type, unit, ucd, description``.

        Raises
        ------
        QueryError
            For a table that there is not.
        """
        if table is not None and table.lower() not in self._views:
            raise QueryError(f"there is no table {table!r}; tables: {', '.join(self.tables)}")
        rows = []
        for name in sorted(self._views) if table is None else [table.lower()]:
            self.register(name)
            metadata = self._views[name].metadata()
            described = self._connection.execute(f"DESCRIBE {quoted(self._views[name].name)}").fetchall()
            for column, kind, *_ in described:
                note = {k.decode(): v.decode() for k, v in metadata.get(column, {}).items()}
                facts = {key: note.get(key) for key in ("unit", "ucd", "description")}
                rows.append({"table": self._views[name].name, "column": column, "type": kind} | facts)
        return pa.Table.from_pylist(rows, pa.schema([(key, pa.string()) for key in _SCHEMA]))

    def register(self, name: str, columns: frozenset[str] | None = None) -> None:
        """Make one of the tables known to DuckDB; `query` does it for the tables that a statement names.

        Where the statement's `columns` are known and none of them holds vectors, these are left out: a scan of ids alone
        would still have to step through their many small row groups.
        """
        view = self._views[name]
        narrow = bool(view.narrow) and columns is not None and not columns & view.wide
        if self._registered.get(name) == narrow:
            return
        sql = view.sql
        for hidden, opener in view.sources.items():
            as_ids = narrow and hidden in view.narrow
            shown = f"ids of {hidden}" if as_ids else hidden
            if shown not in self._registered:
                self._connection.register(shown, view.narrow[hidden]() if as_ids else opener())
                self._registered[shown] = True
            sql = sql.replace(quoted(hidden), quoted(shown))
        self._connection.execute(f"CREATE OR REPLACE TEMP VIEW {quoted(view.name)} AS {sql}")
        self._registered[name] = narrow

    def _run(self, statement: Statement) -> Iterator:
        """Yield the schema, then the batches of the result, under the limits."""
        left = self._limits.rows
        self.cut_off = False
        with self.guarded():
            relation = self._connection.sql(statement.text)
            reader = relation.to_arrow_reader(_BATCH_ROWS)
            schema = self._with_units(reader.schema, statement)
            yield schema
            for batch in reader:
                if left is not None and batch.num_rows > left:
                    self.cut_off = True
                    yield _like(batch.slice(0, left), schema)
                    return
                left = None if left is None else left - batch.num_rows
                yield _like(batch, schema)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Stop what runs too long, and say in our words what went wrong inside."""
        seconds = self._limits.seconds
        timer = threading.Timer(seconds, self._connection.interrupt) if seconds else None
        self._neighbours.error = None
        if timer:
            timer.daemon = True
            timer.start()
        try:
            yield
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            raise self._in_our_words(error) from error
        except DatabaseError as error:
            raise self._without_paths(error) from error
        finally:
            if timer:
                timer.cancel()
                timer.join()

    def _in_our_words(self, error: Exception) -> Exception:
        """Say what went wrong; on its way through an Arrow stream an error of DuckDB is an OSError with DuckDB's text."""
        text = first_line(error)
        if self._neighbours.error is not None:
            return self._neighbours.error
        if "INTERRUPT" in text:
            return QueryError(f"stopped after {self._limits.seconds:g} s, the limit here; narrow it with WHERE or LIMIT")
        if "Out of Memory" in text:
            return QueryError("it needs more memory than the limit here; narrow it with WHERE, or group less finely")
        if "get_next failed" in text or "Parquet" in text or isinstance(error, pa.ArrowException):
            damage = f"{self._root} cannot be read ({text}); `specdb verify` says what is damaged"
            return self._without_paths(DatabaseError(damage))
        return QueryError(f"{text}; tables: {', '.join(self.tables)}")

    def _without_paths(self, error: DatabaseError) -> DatabaseError:
        """Keep to ourselves, before strangers, where files are."""
        if not self._limits.listed_functions:
            return error
        return DatabaseError("a file of the database cannot be read; its keeper can find out which with `specdb verify`")

    def _with_units(self, schema: pa.Schema, statement: Statement) -> pa.Schema:
        """Give columns that are nothing but a column of one table their unit and description back."""
        known: dict[str, set[tuple]] = {}
        for table in statement.tables:
            for name, metadata in self._views[table].metadata().items():
                known.setdefault(name.lower(), set()).add(tuple(sorted(metadata.items())))
        fields = []
        for column in schema:
            source = statement.plain.get(column.name, column.name if statement.keeps_names else "")
            found = known.get(source.lower(), set())
            fields.append(column.with_metadata(dict(next(iter(found)))) if len(found) == 1 else column)
        return pa.schema(fields)


def _like(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(batch.columns, schema=schema)


@contextmanager
def connect(
    store: Store, *, index: Callable[[str], VectorIndex] | None = None, limits: Limits | None = None
) -> Iterator[Session]:
    """Open an SQL session over a database.

    Parameters
    ----------
    store : Store
    index : callable, optional
        Modality -> `VectorIndex`, for ``knn`` and ``similarity``; `Database.index` is one.
    limits : Limits, optional
        `UNTRUSTED` for SQL of strangers; none by default.
    """
    limits, store = limits or Limits(), store.pinned()
    neighbours = Neighbours(store.modalities(), index or _without_indices)
    with duckdb.connect(":memory:") as connection:
        # Spilled rows go to a folder of this session alone, which DuckDB makes when needed and removes.
        spill = "" if limits.memory_bytes else str(Path(tempfile.gettempdir()) / f"specdb-sql-{uuid4().hex}")
        connection.execute("SET temp_directory = $1", [spill])
        if limits.memory_bytes:
            connection.execute("SET memory_limit = $1", [f"{limits.memory_bytes}B"])
        define_functions(connection, neighbours)
        connection.execute(_LOCKED)
        session = Session(connection, neighbours, limits, store.root)
        with session.guarded():
            session.offer(all_views(store))
        yield session


def _without_indices(modality: str) -> VectorIndex:
    raise QueryError("knn and similarity need the indices: use db.sql(...), or connect(store, index=db.index)")


def _named_once(schema: pa.Schema) -> pa.Schema:
    """Number the columns that share a name (`teff`, `teff_1`): tables, files and JSON cannot hold two of one name."""
    names: list[str] = []
    for name in schema.names:
        new, number = name, 0
        while new in names or (number and new in schema.names):
            number += 1
            new = f"{name}_{number}"
        names.append(new)
    return pa.schema([f.with_name(name) for f, name in zip(schema, names, strict=True)], metadata=schema.metadata)


def run_sql(
    store: Store, query: str, *, index: Callable[[str], VectorIndex] | None = None, untrusted: bool = False
) -> pa.Table:
    """Run one SQL statement over the database's tables and return its result.

    Parameters
    ----------
    store : Store
    query : str
    index : callable, optional
        See `connect`.
    untrusted : bool
        For SQL of strangers: limits of time, memory and rows, and a list of harmless functions (`UNTRUSTED`).

    Raises
    ------
    QueryError
        For anything but one question over the tables, an error in it, or a limit that it hits.
    """
    with connect(store, index=index, limits=UNTRUSTED if untrusted else None) as session:
        return session.query(query)
