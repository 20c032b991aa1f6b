"""`sql`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdb.cli.common import db_option, output_options, print_table

if TYPE_CHECKING:
    from specdb.search import VectorIndex

__all__ = ["sql"]


@click.command()
@click.argument("query", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the result to a file; the ending says the format, and .parquet and .csv may be larger than memory.",
)
@click.option(
    "--schema",
    is_flag=False,
    flag_value="",
    metavar="[TABLE]",
    help="List the columns of one table, or of all, with types, units and descriptions.",
)
@db_option
@output_options
def sql(query: str | None, output: Path | None, schema: str | None, db: Path, fmt: str) -> None:
    """Ask one question in SQL over spectra, embeddings, catalogues, pairs, predictions and anomalies.

    DuckDB's SQL, and besides it `knn(id, k := 10, modality := NULL)` as a table, `similarity(a, b)` of ids or vectors,
    `in_cone(ra, dec, ra0, dec0, radius_arcsec)`, `separation_arcsec`, `healpix(ra, dec, level)`, `galactic_l`, `galactic_b`.
    """
    from specdb.catalog import connect
    from specdb.export import save_rows
    from specdb.store import Store

    if (query is None) == (schema is None):
        raise click.UsageError("give either a query or --schema")
    store = Store.open(db)

    def index(modality: str) -> VectorIndex:
        from specdb.database import Database  # heavy, and most questions do without

        return Database(store).index(modality)

    with connect(store, index=index) as session:
        if query is None:
            print_table(session.schema(schema or None), fmt)
        elif output is not None:
            click.echo(f"{save_rows(session.reader(query), output, {'query': query})} rows written to {output}", err=True)
        else:
            print_table(session.query(query), fmt)
