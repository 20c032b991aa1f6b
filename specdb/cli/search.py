"""`search`."""

from __future__ import annotations

from pathlib import Path

import click

from specdb.cli.common import db_option, device_option, output_options, print_table

__all__ = ["search"]

_SHOWN = ("rank", "score", "spectrum_id", "object_name", "ra", "dec", "snr_g", "subclass", "source_file")


@click.command()
@click.argument("query")
@click.option("-k", type=int, default=10, show_default=True, help="Number of answers.")
@click.option("--to", metavar="MODALITY", help="Search another modality than the query's.")
@click.option("--modality", help="Modality of the query where it is not clear.")
@click.option("--include-self", is_flag=True, help="Keep the query itself among the answers.")
@click.option("--all-columns", is_flag=True, help="Print every metadata column.")
@db_option
@device_option
@output_options
def search(
    query: str,
    k: int,
    to: str | None,
    modality: str | None,
    include_self: bool,
    all_columns: bool,
    db: Path,
    device: str,
    fmt: str,
) -> None:
    """Find the spectra most similar to one spectrum.

    QUERY is a spectrum_id of the database, or a spectrum file.
    """
    from specdb.database import Database
    from specdb.store import Store

    hits = Database(Store.open(db), device).search(query, k=k, to=to, modality=modality, include_self=include_self)
    rows = hits.rows
    if not all_columns and fmt == "table":
        rows = rows.select([name for name in _SHOWN if name in rows.column_names])
        place = rows.column_names.index("source_file")
        names = [str(Path(name).name) for name in rows["source_file"].to_pylist()]
        rows = rows.set_column(place, "source_file", [names])
    print_table(rows, fmt)
    if fmt == "table":
        click.echo(f"{len(hits)} of {hits.index.count} {hits.modality} spectra; {hits.index.certificate}", err=True)
