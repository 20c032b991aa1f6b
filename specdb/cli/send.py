"""`send`."""

from __future__ import annotations

from pathlib import Path

import click

from specdb.cli.common import db_option

__all__ = ["send"]


@click.command()
@click.argument("tool", type=click.Choice(["topcat", "aladin", "all"]))
@click.argument("query")
@click.option("--name", default="specdb", show_default=True, help="What the tool calls the table.")
@db_option
def send(tool: str, query: str, name: str, db: Path) -> None:
    """Send the answer to an SQL QUERY to TOPCAT or Aladin over SAMP, with units and descriptions.

    The tool must be running on this machine; it brings the SAMP hub along.
    """
    from specdb.database import Database
    from specdb.export.samp import SampLink
    from specdb.store import Store

    rows = Database(Store.open(db)).sql(query)
    with SampLink() as link:
        receivers = link.send(rows, name, None if tool == "all" else tool)
    click.echo(f"{len(rows)} rows sent to {', '.join(receivers)}", err=True)
