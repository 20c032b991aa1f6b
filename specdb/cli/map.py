"""`map`: the sky in HEALPix cells, and planes of two labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdb.cli.common import CliProgress, db_option, figure_option, quiet_option

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

__all__ = ["map_"]


@click.group("map", invoke_without_command=True)
@click.option("--value", metavar="SQL", help="What to map: a column or an expression over metadata and labels, e.g. feh.")
@click.option("--statistic", default=None, help="count, density, median, mean, scatter, min or max; median of a value.")
@click.option("--where", metavar="SQL", help='Which stars, e.g. "feh < -3".')
@click.option("--modality", help="Whose spectra; needed where the database has several.")
@click.option("--frame", type=click.Choice(["galactic", "icrs"]), default="galactic", show_default=True, help="Of the map.")
@click.option("--level", type=int, default=5, show_default=True, help="HEALPix order; 5 has cells of 1.8 degrees.")
@click.option("--least", type=int, default=1, show_default=True, help="Leave out cells with fewer stars.")
@click.option("--log", is_flag=True, help="Logarithmic colours.")
@click.option("--moc", type=click.Path(dir_okay=False, path_type=Path), help="Also write the coverage as a MOC (.fits).")
@figure_option("map.png")
@db_option
@click.pass_context
def map_(
    ctx: click.Context,
    value: str | None,
    statistic: str | None,
    where: str | None,
    modality: str | None,
    frame: str,
    level: int,
    least: int,
    log: bool,
    moc: Path | None,
    output: Path,
    db: Path,
) -> None:
    """Map the sky: the number of stars, or a statistic of a value, in HEALPix cells (PNG, PDF or SVG by the ending)."""
    if ctx.invoked_subcommand is not None:
        return
    from specdb.plots.sky import plot_sky, sky_map

    modality, columns = _columns(db, modality, ["ra", "dec", *([value] if value else [])], where)
    sky = sky_map(*columns, level=level, statistic=statistic or ("median" if value else "count"), least=least)
    figure = plot_sky(sky, value or "", frame=frame, title=f"{modality}{f', {where}' if where else ''}", log=log)
    _save(figure, output)
    click.echo(f"{int(sky.count.sum())} of {len(columns[0])} stars in {len(sky.cell)} cells: {output}", err=True)
    if moc is not None:
        from specdb.export.moc import save_moc

        save_moc(sky.cell, sky.level, moc)
        click.echo(f"coverage of {len(sky.cell) * sky.cell_area_deg2:.4g} square degrees: {moc}", err=True)


@map_.command()
@click.argument("x")
@click.argument("y")
@click.option("--value", metavar="SQL", help="Colour by the median of this instead of by the number of stars.")
@click.option("--where", metavar="SQL", help='Which stars, e.g. "logg < 3.5".')
@click.option("--modality", help="Whose spectra; needed where the database has several.")
@figure_option("plane.png")
@db_option
def plane(x: str, y: str, value: str | None, where: str | None, modality: str | None, output: Path, db: Path) -> None:
    """Draw Y against X, both SQL over metadata, labels and predictions: `specdb map plane feh alpha_m`."""
    from specdb.plots.plane import plot_plane

    modality, columns = _columns(db, modality, [x, y, *([value] if value else [])], where)
    third = columns[2] if value else None
    figure = plot_plane(columns[0], columns[1], (x, y), third, value or "", f"{modality} {where or ''}".strip())
    _save(figure, output)
    click.echo(f"{len(columns[0])} stars: {output}", err=True)


def _columns(db: Path, modality: str | None, expressions: list[str], where: str | None) -> tuple[str, list[np.ndarray]]:
    """Return the modality and the values of SQL expressions as float64 arrays."""
    from specdb.catalog.selection import select_values
    from specdb.errors import InputError
    from specdb.store import Store

    store = Store.open(db)
    known = store.modalities()
    modality = modality or (known[0] if len(known) == 1 else None)
    if modality not in known:
        raise InputError(f"the database has the modalities {', '.join(known) or 'none'}; say which with --modality")
    values = {f"value_{i}": f"CAST(({text}) AS DOUBLE)" for i, text in enumerate(expressions)}
    table = select_values(store, modality, values, where)
    return modality, [table[name].to_numpy() for name in values]


def _save(figure: Figure, path: Path) -> None:
    from specdb.plots.style import save_figure

    save_figure(figure, path)


@map_.command("embed")
@click.option("--modality", help="Whose embeddings; all by default.")
@click.option("--sample", type=click.IntRange(10), default=50_000, show_default=True, help="Spectra that UMAP is fitted to.")
@click.option("--neighbours", type=click.IntRange(2, 200), default=15, show_default=True, help="Of each spectrum in UMAP.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sample and of UMAP.")
@db_option
@quiet_option
def embed(modality: str | None, sample: int, neighbours: int, seed: int, db: Path, quiet: bool) -> None:
    """Lay embeddings out in the plane with UMAP, for the explorer: a sample is fitted, the rest placed beside it."""
    from indexer.map_embed import MapSettings, embed_map
    from specdb.database import open_database

    database = open_database(db)
    for name in [modality] if modality else database.modalities:
        count = embed_map(database, name, MapSettings(sample, neighbours, seed=seed), CliProgress(quiet))
        click.echo(f"{name}: {count} spectra on the map; `specdb ui` shows it", err=True)
