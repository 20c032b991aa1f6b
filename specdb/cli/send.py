"""`send`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdb.cli.common import db_option

if TYPE_CHECKING:
    import pyarrow as pa

    from specdb.export.samp import SampLink

__all__ = ["send"]

#: A row counts as pointed at when it is this near.
_NEAR_ARCSEC = 30.0


@click.command()
@click.argument("tool", type=click.Choice(["topcat", "aladin", "all"]))
@click.argument("source", metavar="SQL|FILE")
@click.option("--name", default="specdb", show_default=True, help="What the tool calls the table.")
@click.option(
    "--follow",
    is_flag=True,
    help="Stay connected: print the rows that are highlighted or pointed at there, highlight there the ids typed here.",
)
@db_option
def send(tool: str, source: str, name: str, follow: bool, db: Path) -> None:
    """Send a table to TOPCAT or Aladin over SAMP, with units and descriptions.

    The table is the answer to a question in SQL, or a file that another command has written with -o: hits of `search`, a
    list of `anomalies`. In SQL, `SELECT * FROM knn(ID) JOIN spectra USING (spectrum_id)` gives the neighbours of a spectrum,
    and `SELECT * FROM anomalies ORDER BY score DESC LIMIT 20` the most unusual ones.

    The tool must be running on this machine; it brings the SAMP hub along.
    """
    from specdb.export.samp import SampLink

    rows = _rows(source, db)
    with SampLink() as link:
        receivers = link.send(rows, name, None if tool == "all" else tool)
        click.echo(f"{rows.num_rows} rows sent to {', '.join(receivers)}", err=True)
        if follow:
            _follow(link, rows, name)


def _rows(source: str, db: Path) -> pa.Table:
    import pyarrow as pa

    if Path(source).exists():
        from specdb.catalog.files import open_catalogue

        file = open_catalogue(Path(source))
        return pa.Table.from_batches(file.batches(), file.schema)
    from specdb.database import Database
    from specdb.store import Store

    return Database(Store.open(db)).sql(source).rows


def _follow(link: SampLink, rows: pa.Table, name: str) -> None:
    """Tell of what happens in the tool, and the tool of what is typed, until the input ends."""
    from specdb.catalog.sphere import nearest_to

    ids = rows["spectrum_id"].to_pylist() if "spectrum_id" in rows.column_names else list(range(rows.num_rows))

    def shown(row: int) -> None:
        if row < len(ids):
            click.echo(ids[row])

    def pointed(ra: float, dec: float) -> None:
        found = nearest_to(rows["ra"].to_numpy(), rows["dec"].to_numpy(), ra, dec, _NEAR_ARCSEC)
        if found is not None:
            click.echo(ids[found])

    link.on_highlight(name, shown)
    if {"ra", "dec"} <= set(rows.column_names):
        link.on_point(pointed)
    for line in sys.stdin:
        text = line.strip()
        if text.isdigit() and int(text) in ids:
            link.highlight(name, ids.index(int(text)))
        elif text:
            click.echo(f"{text!r} is not in the table that was sent", err=True)
