"""A DuckDB session that sees the database's tables and nothing else.

Parquet files are handed to DuckDB as Arrow datasets, with projections and filters pushed down into them. DuckDB itself
therefore needs no access to files at all, and has none: no reading, no writing, no extensions, and locked settings.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from specdb.errors import QueryError
from specdb.store import REJECTED, Store, open_parts, readable

__all__ = ["run_sql", "views"]

_LOCKED = """
SET enable_external_access = false;
SET autoinstall_known_extensions = false;
SET autoload_known_extensions = false;
SET allow_community_extensions = false;
SET lock_configuration = true;
"""


def views(store: Store) -> dict[str, ds.Dataset | pa.Table]:
    """Return what a query can name: `spectra`, `rejected`, `embeddings`, and each modality under its own name."""
    found: dict[str, ds.Dataset | pa.Table] = {}
    rejected = [REJECTED.empty_table().append_column("modality", pa.array([], pa.string()))]
    per_modality, per_encoder = [], []
    for modality in store.modalities():
        table = store.rejected(modality)
        rejected.append(table.append_column("modality", pa.array([modality] * table.num_rows, pa.string())))
        parts = store.spectra_parts(modality)
        if parts:
            found[modality] = open_parts(store.root, parts)
            per_modality.append(found[modality])
        per_encoder += [open_parts(store.root, store.embedding_parts(e, modality)) for e in store.encoders(modality)]
    found["rejected"] = pa.concat_tables(rejected)
    if per_modality:
        found["spectra"] = per_modality[0] if len(per_modality) == 1 else _common(per_modality)
    if per_encoder:
        found["embeddings"] = per_encoder[0] if len(per_encoder) == 1 else _common(per_encoder)
    return found


def _common(datasets: list[ds.Dataset]) -> ds.Dataset:
    """Unite datasets of different schemas on the columns that all of them have with one type."""
    first, *others = [dataset.schema for dataset in datasets]
    shared = [f for f in first if all(f.name in s.names and s.field(f.name).type == f.type for s in others)]
    schema = pa.schema(shared)
    return ds.dataset([dataset.replace_schema(schema) for dataset in datasets])


def run_sql(store: Store, query: str) -> pa.Table:
    """Run one SQL statement over the database's tables and return its result.

    Raises
    ------
    QueryError
        For SQL that DuckDB refuses, with DuckDB's explanation and the tables there are; and for any attempt to reach a file.
    """
    tables = views(store)
    with duckdb.connect(":memory:") as connection:
        connection.execute(_LOCKED)
        for name, table in tables.items():
            connection.register(name, table)
        try:
            if (count := len(connection.extract_statements(query))) != 1:
                raise QueryError(f"these are {count} SQL statements; give one")
            relation = connection.sql(query)
            with readable(store.root):
                return pa.table({}) if relation is None else relation.to_arrow_table()
        except duckdb.Error as error:
            first_line = str(error).strip().splitlines()[0]
            raise QueryError(f"{first_line}; tables: {', '.join(sorted(tables))}") from error
