"""`labels add | list | show | rematch | remove`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import pyarrow as pa

from specdb.cli.common import db_option, output_options, print_table

if TYPE_CHECKING:
    from specdb.catalog import LabelReport

__all__ = ["labels"]


@click.group()
def labels() -> None:
    """Catalogues of labels: add, list, show, rematch, remove. In SQL each is a view under its name."""


@labels.command("add")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name in SQL: letters, digits, '_'.")
@click.option("--id", "column", metavar="COLUMN", help="Column that names the spectrum, its star or its file.")
@click.option(
    "--on", metavar="COLUMN", help="Column of `spectra` that --id means; by default the one where most ids are found."
)
@click.option("--position", nargs=2, metavar="RA DEC", help="Columns of positions in degrees (ICRS), instead of --id.")
@click.option("--radius", type=float, default=2.0, show_default=True, metavar="ARCSEC", help="For --position.")
@click.option(
    "--epoch", metavar="YEAR|COLUMN", help="Epoch of the catalogue's positions; with --pm they are moved to the spectra's."
)
@click.option("--pm", nargs=2, metavar="PMRA PMDEC", help="Columns of proper motion in mas/yr, with cos(dec).")
@click.option("--keep-sentinels", is_flag=True, help="Keep -9999, 99.99 and the like as numbers.")
@click.option(
    "--null", "nulls", multiple=True, metavar="VALUE", help="A further value that means not measured (repeatable)."
)
@click.option(
    "--duplicates",
    type=click.Choice(["refuse", "first"]),
    default="refuse",
    show_default=True,
    help="Where a key occurs twice.",
)
@click.option("--replace", is_flag=True, help="Replace the catalogue of that name.")
@click.option(
    "--nearby",
    is_flag=True,
    help="With positions: keep only rows near a spectrum; of HATS, read only the cells in question.",
)
@db_option
def add(
    file: Path,
    name: str,
    column: str | None,
    on: str | None,
    position: tuple[str, str] | None,
    radius: float,
    epoch: str | None,
    pm: tuple[str, str] | None,
    keep_sentinels: bool,
    nulls: tuple[str, ...],
    duplicates: Literal["refuse", "first"],
    replace: bool,
    nearby: bool,
    db: Path,
) -> None:
    """Add a catalogue from FITS, VOTable, ECSV, CSV, Parquet or a HATS folder, matched by ids or by position.

    Values that stand for "not measured" become nulls: -999..., -9999...; -99, 99, 999, 9999 (and 99.9, 99.99, ...) where
    they stand apart from all others; NaN; empty text. What was replaced is printed.
    """
    from specdb.catalog import add_labels
    from specdb.store import Store

    report = add_labels(
        Store.open(db),
        file,
        name,
        id=column,
        on=on,
        position=position,
        radius_arcsec=radius,
        epoch=_year(epoch),
        pm=pm,
        keep_sentinels=keep_sentinels,
        nulls=nulls,
        duplicates=duplicates,
        replace=replace,
        nearby=nearby,
    )
    _say(report)
    for title, counts in report.card.sentinels.items():
        click.echo(f"  {title}: {', '.join(f'{value} ({n} times)' for value, n in counts.items())} became null")
    if report.card.left_out:
        click.echo(f"  left out, of a type that cannot be stored: {', '.join(report.card.left_out)}")


@labels.command("list")
@db_option
@output_options
def list_(db: Path, fmt: str) -> None:
    """List the catalogues with what they match now."""
    from specdb.catalog import describe_labels
    from specdb.store import Store

    names = ("name", "file", "stored", "matched_rows", "unmatched_rows", "matched_spectra", "ambiguous")
    facts = [report.facts() for report in describe_labels(Store.open(db))]
    print_table(pa.table({key: [fact[key] for fact in facts] for key in names}), fmt)


@labels.command()
@click.argument("name")
@db_option
def show(name: str, db: Path) -> None:
    """Show all that is known about one catalogue as JSON: file, checksum, key, counts, sentinels."""
    from specdb.catalog import describe_labels
    from specdb.store import Store

    click.echo(json.dumps(describe_labels(Store.open(db), name)[0].facts(), indent=1))


@labels.command()
@click.argument("name", required=False)
@db_option
def rematch(name: str | None, db: Path) -> None:
    """Store positional matches anew after spectra were added; answers are right without, and faster with it."""
    from specdb.catalog import rematch
    from specdb.store import Store

    for report in rematch(Store.open(db), name):
        _say(report)


@labels.command()
@click.argument("name")
@db_option
def remove(name: str, db: Path) -> None:
    """Remove a catalogue."""
    from specdb.catalog import remove_labels
    from specdb.store import Store

    remove_labels(Store.open(db), name)
    click.echo(f"{name} removed")


def _year(text: str | None) -> float | str | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _say(report: LabelReport) -> None:
    card, facts = report.card, report.facts()
    key = facts["key"]
    how = f"{key['column']} = {key['on']}" if "column" in key else f"position within {key['radius_arcsec']:g} arcsec"
    far = f"{card.far} far from all spectra left out, " if card.nearby_to else ""
    click.echo(
        f"{card.name}: {card.rows} rows in {card.file}, {card.stored} stored, {card.duplicates} duplicates left out, {far}"
        f"{card.without_key} without a key; matched by {how}: {report.matched.rows} rows with {report.matched.spectra} of "
        f"{report.spectra} spectra, {facts['unmatched_rows']} rows unmatched"
        + (f"; {report.ambiguous} spectra had several within the radius" if report.ambiguous else "")
    )
    if report.separation_arcsec:
        click.echo("  separation in arcsec: " + ", ".join(f"{k} {v:g}" for k, v in report.separation_arcsec.items()))
    if report.expected_false is not None:
        click.echo(f"  expected by chance: {report.expected_false:g} of the {report.matched.spectra} matched spectra")
    if report.outdated:
        click.echo("  spectra have come since; rows near them may be missing: add the catalogue again with --replace")
