"""`export`."""

from __future__ import annotations

from pathlib import Path

import click

from specdb.cli.common import db_option

__all__ = ["export"]


@click.command()
@click.argument("query")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--hats", is_flag=True, help="Make TARGET a HATS catalogue: a folder of Parquet partitioned by HEALPix.")
@db_option
def export(query: str, target: Path, hats: bool, db: Path) -> None:
    """Write the answer to an SQL QUERY to the file TARGET.

    Its ending says the format: .parquet and .csv are streamed, .fits, .vot and .ecsv keep units, UCDs and descriptions.
    A HATS catalogue needs the columns ra and dec.
    """
    from specdb.database import Database
    from specdb.export import save_rows
    from specdb.store import Store

    rows = Database(Store.open(db)).sql(query)
    if hats:
        from specdb.export.hats import save_hats

        count = save_hats(rows, target, target.name)
    else:
        count = save_rows(rows, target, {"query": query})
    click.echo(f"{count} rows written to {target}", err=True)
