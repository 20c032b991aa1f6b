"""`status` and `verify`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from specdb.cli.common import db_option

__all__ = ["status", "verify"]


@click.command()
@db_option
@click.option("--json", "as_json", is_flag=True, help="JSON.")
def status(db: Path, as_json: bool) -> None:
    """Say what a database holds: spectra, rejected files, embeddings, indices with their recall."""
    from specdb.database import open_database

    found = open_database(db).status()
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    click.echo(f"{found['database']} (default encoder {found['default_encoder']})")
    if not found["modalities"]:
        click.echo("  empty; fill it with `specdb build-index`")
    for modality, facts in found["modalities"].items():
        click.echo(f"{modality}: {facts['spectra']} spectra, {facts['bytes'] / 1e6:.1f} MB")
        if facts["deleted"]:
            click.echo(f"  {facts['deleted']:7d}  deleted, still in the files: `specdb compact` takes them out")
        for reason, count in sorted(facts["rejected"].items()):
            click.echo(f"  {count:7d}  {reason}")
        for name, state in facts["encoders"].items():
            click.echo(f"  encoder {name}: {state['embedded']} embedded, {state['indexed']} indexed")
            if not facts["spectra"] == state["embedded"] == state["indexed"]:
                click.echo("    not complete: run `specdb build-index` again, or `specdb embed` and `specdb index`")
            if state["index"]:
                click.echo(f"    {state['index']['kind']}: {state['index']['recall']}")
                for source, recall in state["index"]["cross"].items():
                    click.echo(f"    for {source} queries: {recall}")


@click.command()
@db_option
@click.option("--fast", is_flag=True, help="Compare sizes and counts only, not every byte.")
@click.option("--repair", is_flag=True, help="Forget damaged embeddings and indices, so that the next run makes them again.")
def verify(db: Path, fast: bool, repair: bool) -> None:
    """Check files, checksums, counts and provenance; exit status 1 when something is wrong."""
    from specdb.database import open_database
    from specdb.store import can_be_made_again

    database = open_database(db)
    problems = database.verify(checksums=not fast)
    for problem in problems:
        click.echo(f"{problem.file}: {problem.what}; {problem.remedy}")
    if repair and problems:
        with database.store.writing() as writer:
            forgotten = [p.file for p in problems if can_be_made_again(p)]
            writer.forget(forgotten)
        left = len(problems) - len(forgotten)
        if forgotten:
            click.echo(f"forgotten: {', '.join(forgotten)}; `specdb build-index`, or embed and index, makes them again")
        if left:
            click.echo(f"{left} left that only a copy can mend")
    files = len(database.store.manifest().files)
    click.echo(f"{files} files checked: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    sys.exit(1 if problems else 0)
