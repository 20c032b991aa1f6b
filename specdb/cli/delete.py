"""`delete` and `compact`."""

from __future__ import annotations

from pathlib import Path

import click

from specdb.cli.common import db_option

__all__ = ["compact", "delete"]


@click.command()
@click.argument("ids", nargs=-1, type=int, metavar="[ID]...")
@db_option
@click.option("--where", help='SQL condition that selects what to delete, e.g. "snr < 5".')
@click.option("--modality", help="Of the spectra; needed where an id occurs in several.")
@click.option("--reason", default="", help="Kept with the deletion.")
@click.option("--undelete", is_flag=True, help="Take deletions back, of spectra that have not been compacted yet.")
@click.option("--dry-run", is_flag=True, help="Only say how many.")
def delete(
    ids: tuple[int, ...], db: Path, where: str | None, modality: str | None, reason: str, undelete: bool, dry_run: bool
) -> None:
    """Delete spectra: no search, SQL view or count shows them from now on.

    Their rows leave the files at the next `specdb compact`; until then `--undelete` brings them back.
    """
    from specdb.database import open_database

    changed = open_database(db).delete(
        list(ids) or None, where=where, modality=modality, reason=reason, undelete=undelete, dry_run=dry_run
    )
    done = f"{'would be ' if dry_run else ''}{'brought back' if undelete else 'deleted'}"
    for name, count in changed.items():
        click.echo(f"{name}: {count} spectra {done}")
    if not changed:
        click.echo("no spectra match")


@click.command()
@db_option
def compact(db: Path) -> None:
    """Take deleted spectra out of the files and indices for good."""
    import indexer

    for modality, done in indexer.compact(db).items():
        click.echo(
            f"{modality}: {done.dropped} spectra dropped, {done.parts} parts written anew, {done.bytes / 1e6:.1f} MB of old "
            "files are removed by the first command that writes a minute from now"
        )
