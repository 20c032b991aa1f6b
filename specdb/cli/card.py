"""`card` and `compare`: figures of a star without a browser."""

from __future__ import annotations

from pathlib import Path

import click

from specdb.cli.common import db_option, device_option, figure_option

__all__ = ["card", "compare"]


@click.command()
@click.argument("query")
@click.option("--modality", help="Modality of the query where it is not clear.")
@click.option("-k", type=click.IntRange(1, 6), default=4, show_default=True, help="Neighbours per modality.")
@click.option("--where", metavar="SQL", help='Condition on the neighbours: "snr_g > 20".')
@click.option("--exclude-same-star", is_flag=True, help="Leave out other spectra of the same star.")
@figure_option("card.png")
@db_option
@device_option
def card(
    query: str,
    modality: str | None,
    k: int,
    where: str | None,
    exclude_same_star: bool,
    output: Path,
    db: Path,
    device: str,
) -> None:
    """Draw a spectrum with its nearest neighbours in every modality, residuals, line marks and translation.

    QUERY is a spectrum_id of the database, or a spectrum file.
    """
    from specdb.database import Database
    from specdb.plots.style import save_figure
    from specdb.search.star import card as draw
    from specdb.search.star import star_view
    from specdb.store import Store

    database = Database(Store.open(db), device)
    view = star_view(database, query, modality=modality, k=k, where=where, exclude_star=exclude_same_star)
    save_figure(draw(view), output)
    for what, why in view.problems.items():
        click.echo(f"left out: {what}: {why}", err=True)
    click.echo(f"{output}: figure", err=True)


@click.command()
@click.argument("ids", nargs=-1, type=int, required=True)
@click.option("--modality", help="Where the ids occur in several.")
@figure_option("compare.png")
@db_option
def compare(ids: tuple[int, ...], modality: str | None, output: Path, db: Path) -> None:
    """Draw two or more spectra of one modality on one another, with residuals against the first."""
    from specdb.database import Database
    from specdb.plots.spectra import overlay_figure
    from specdb.plots.style import save_figure
    from specdb.search.asked import modality_of
    from specdb.search.star import FLUX_LABELS, curves_of
    from specdb.spectra import get_modality
    from specdb.store import Store

    if not 2 <= len(ids) <= 7:
        raise click.UsageError(f"compare shows two to seven spectra, these are {len(ids)}")
    database = Database(Store.open(db))
    modality = modality or modality_of(database, ids[0])
    first, *others = curves_of(database.spectra(list(ids), modality), modality)
    title = f"{get_modality(modality).title}, compared with {first.name}"
    save_figure(overlay_figure(first, others, FLUX_LABELS.get(modality, "flux"), title), output)
    click.echo(f"{output}: figure", err=True)
