"""What a user's SQL may say, decided by DuckDB's own parser.

A statement is parsed by DuckDB (`json_serialize_sql`), never by patterns, and its tree is walked: one question, over the
tables that the session offers, with table functions that read nothing from outside; for strangers, listed functions only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from specdb.catalog.functions import TABLE_FUNCTIONS
from specdb.catalog.harmless import HARMLESS
from specdb.errors import QueryError

__all__ = ["Statement", "parse_statement"]

Node = dict[str, Any]

_QUERIES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_ALLOWED = "SELECT, WITH, FROM, VALUES, DESCRIBE, SUMMARIZE, SHOW TABLES, EXPLAIN"


@dataclass(frozen=True)
class Statement:
    """One checked statement.

    Attributes
    ----------
    text : str
        As the user wrote it.
    tables : frozenset of str
        Names in lower case of the session's tables that it reads.
    lists_tables : bool
        ``SHOW TABLES``.
    plain : dict
        Name in the result -> name in the tables, of result columns that are nothing but a column of them.
    keeps_names : bool
        ``*`` over tables of the session: other columns keep their names.
    columns : frozenset of str or None
        Names in lower case of all columns that occur anywhere; None where a ``*`` or DESCRIBE may mean any.
    """

    text: str
    tables: frozenset[str]
    lists_tables: bool
    plain: dict[str, str]
    keeps_names: bool
    columns: frozenset[str] | None


def parse_statement(connection: duckdb.DuckDBPyConnection, sql: str, known: set[str], *, untrusted: bool) -> Statement:
    """Check a statement and say what it reads.

    Parameters
    ----------
    connection : DuckDBPyConnection
        Any; it only parses.
    sql : str
    known : set of str
        Names of the session's tables, in lower case.
    untrusted : bool
        Allow only scalar functions of `HARMLESS`.

    Raises
    ------
    QueryError
        For anything but one question over these tables.
    """
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(first_line(error)) from error
    if len(statements) != 1:
        raise QueryError(f"these are {len(statements)} SQL statements; give one")
    try:
        kind = statements[0].type
    except ValueError:  # one that the Python package has no word for, such as UPDATE EXTENSIONS
        raise QueryError(f"a statement of this type is not allowed; ask questions: {_ALLOWED}") from None
    if kind == duckdb.StatementType.MULTI:
        raise QueryError("PIVOT must name its values here: PIVOT t ON c IN (...) USING ...")
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise QueryError(f"a statement of type {kind.name} is not allowed; ask questions: {_ALLOWED}")
    tree = _tree(connection, _explained(sql) if kind == duckdb.StatementType.EXPLAIN else sql)
    nodes = list(_walk(tree))
    tables = _tables(nodes, known)
    _check_functions(nodes, untrusted)
    shows = [node for node in nodes if node.get("type") == "SHOW_REF"]
    lists_tables = any(node.get("show_type") == "SHOW_SPECIAL" for node in shows)
    # Without a query inside, SHOW names a table or, failing that, a setting: `SHOW temp_directory` would tell a path.
    named = any(node.get("query") is None and node.get("show_type") != "SHOW_SPECIAL" for node in shows)
    if named or (lists_tables and (len(nodes) > 20 or any(node.get("table_name") != '"tables"' for node in shows))):
        raise QueryError("of the SHOW statements only SHOW TABLES is answered; DESCRIBE describes one table")
    plain, keeps_names = ({}, False) if shows else _plain_columns(tree["statements"][0]["node"], known)
    return Statement(sql, tables, lists_tables, plain, keeps_names, None if shows else _columns(nodes))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text: DuckDB adds stack traces and drawings below."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _explained(sql: str) -> str:
    """Return the statement inside EXPLAIN [ANALYZE] [(FORMAT ...)]; what follows is parsed and checked like any other."""
    tokens = duckdb.tokenize(sql)
    encoded = sql.encode()
    words = [
        encoded[a:b].decode().split()[0].upper()
        for (a, _), (b, _) in zip(tokens, [*tokens[1:], (len(encoded), None)], strict=True)
    ]
    skip = words.index("EXPLAIN") + 1
    while skip < len(words) and words[skip] in ("ANALYZE", "ANALYSE", "VERBOSE"):
        skip += 1
    if skip < len(words) and words[skip] == "(" and "FORMAT" in words[skip : skip + 3]:
        skip = words.index(")", skip) + 1
    return encoded[tokens[skip][0] :].decode() if skip < len(tokens) else ""


def _tree(connection: duckdb.DuckDBPyConnection, sql: str) -> Node:
    try:
        [(text,)] = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()
        tree = json.loads(text)
    except (duckdb.Error, RecursionError) as error:
        raise QueryError(f"the statement cannot be checked ({first_line(error)}); write it simpler") from error
    if tree["error"] or len(tree["statements"]) != 1:
        raise QueryError(f"only questions are answered ({_ALLOWED}): {tree.get('error_message', 'nothing to explain')}")
    return tree


def _walk(tree: Any) -> Iterator[Node]:
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _tables(nodes: list[Node], known: set[str]) -> frozenset[str]:
    inner = {entry["key"].lower() for node in nodes if "cte_map" in node for entry in node["cte_map"]["map"]}
    inner |= {node["cte_name"].lower() for node in nodes if "cte_name" in node}
    found = set()
    for node in nodes:
        kind = str(node.get("type"))
        if kind.endswith("_NODE") and kind not in _QUERIES:
            raise QueryError(f"{kind.removesuffix('_NODE').replace('_', ' ')} is not allowed; ask questions: {_ALLOWED}")
        if kind != "BASE_TABLE":
            continue
        name = node["table_name"].lower()
        qualified = bool(node["catalog_name"]) or node["schema_name"] not in ("", "main")
        if qualified or name not in known | inner:
            path = ".".join(filter(None, (node["catalog_name"], node["schema_name"], node["table_name"])))
            raise QueryError(f"there is no table {path!r}; tables: {', '.join(sorted(known))}")
        found.add(name)
    return frozenset(found & known)


def _columns(nodes: list[Node]) -> frozenset[str] | None:
    if any(node.get("class") == "STAR" for node in nodes):
        return None
    return frozenset(name.lower() for node in nodes if node.get("class") == "COLUMN_REF" for name in node["column_names"])


def _check_functions(nodes: list[Node], untrusted: bool) -> None:
    calls = {id(node["function"]): node["function"] for node in nodes if node.get("type") == "TABLE_FUNCTION"}
    for node in nodes:
        name = node.get("function_name")
        if name is None:
            continue
        if id(node) in calls and node["function_name"].lower() not in TABLE_FUNCTIONS:
            raise QueryError(f"the table function {name}() is not allowed; there are {', '.join(sorted(TABLE_FUNCTIONS))}")
        if (
            id(node) not in calls
            and untrusted
            and (name.lower() not in HARMLESS or node.get("schema") or node.get("catalog"))
        ):
            raise QueryError(f"the function {name}() is not allowed here; it is not on the list of harmless ones")


def _plain_columns(node: Node, known: set[str]) -> tuple[dict[str, str], bool]:
    """Say which result columns are nothing but a column of the session's tables, so that they keep their units."""
    if node["type"] != "SELECT_NODE" or not _only_tables(
        node["from_table"], known - {e["key"].lower() for e in node["cte_map"]["map"]}
    ):
        return {}, False
    plain, hidden, star = {}, set(), False
    for item in node["select_list"]:
        if item["class"] == "STAR":
            star = True
            hidden |= {str(entry.get("key", "")).lower() for entry in item["replace_list"] if isinstance(entry, dict)}
        elif item["class"] == "COLUMN_REF":
            plain[item["alias"] or item["column_names"][-1]] = item["column_names"][-1]
        elif item["alias"]:
            hidden.add(item["alias"].lower())
    return plain, star and not hidden


def _only_tables(table: Node, known: set[str]) -> bool:
    if table["type"] == "JOIN":
        return _only_tables(table["left"], known) and _only_tables(table["right"], known)
    return table["type"] == "BASE_TABLE" and table["table_name"].lower() in known
