"""`crossmatch`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from specdb.cli.common import db_option

__all__ = ["crossmatch"]


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--radius", type=float, default=2.0, show_default=True, metavar="ARCSEC", help="Largest separation.")
@click.option(
    "--mode",
    type=click.Choice(["best", "all", "symmetric"]),
    default="best",
    show_default=True,
    help="The nearest partner, all within the radius, or each other's nearest.",
)
@click.option(
    "--by",
    "method",
    type=click.Choice(["auto", "id", "position"]),
    default="auto",
    show_default=True,
    help="Ids first, then positions; or one of them.",
)
@click.option("--id", "column", metavar="CATALOGUE.COLUMN", help="Column with Gaia source_ids of FIRST, instead of its own.")
@click.option(
    "--pm", metavar="CATALOGUE", help="Catalogue with pmra and pmdec (mas/yr) of SECOND, to move it to FIRST's epoch."
)
@click.option("--json", "as_json", is_flag=True, help="JSON.")
@db_option
def crossmatch(
    first: str,
    second: str,
    radius: float,
    mode: Literal["best", "all", "symmetric"],
    method: Literal["auto", "id", "position"],
    column: str | None,
    pm: str | None,
    as_json: bool,
    db: Path,
) -> None:
    """Find the same stars in two modalities and store them as `pairs`.

    False matches are estimated by shifting one side in four directions and matching again.
    """
    from specdb.catalog import crossmatch
    from specdb.store import Store

    quality = crossmatch(Store.open(db), first, second, radius_arcsec=radius, mode=mode, method=method, id=column, pm=pm)
    if as_json:
        click.echo(json.dumps(asdict(quality) | {"false_fraction": quality.false_fraction}, indent=1))
        return
    click.echo(
        f"{quality.pairs} pairs: {quality.by_id} by id, {quality.by_position} by position within {radius:g} arcsec ({mode})"
    )
    for name, matched, of in zip((first, second), quality.matched, quality.spectra, strict=True):
        click.echo(f"  {matched} of {of} {name} spectra")
    if quality.by_position:
        click.echo("  separation in arcsec: " + ", ".join(f"{k} {v:g}" for k, v in quality.separation_arcsec.items()))
        click.echo(f"  expected by chance: {quality.expected_false:g} ({quality.false_fraction:.1%})")
    if quality.ambiguous:
        click.echo(f"  {quality.ambiguous} spectra of {first} have several partners within the radius")
    for note in quality.notes:
        click.echo(f"  note: {note}")
