"""`map`: the sky in HEALPix cells."""

from __future__ import annotations

from pathlib import Path

import click

from specdb.cli.common import db_option

__all__ = ["map_"]


@click.group("map", invoke_without_command=True)
@click.option("--value", metavar="SQL", help="What to map: a column or an expression over metadata and labels, e.g. feh.")
@click.option("--statistic", default=None, help="count, density, median, mean, scatter, min or max; median of a value.")
@click.option("--where", metavar="SQL", help='Which stars, e.g. "feh < -3".')
@click.option("--modality", help="Whose spectra; needed where the database has several.")
@click.option("--frame", type=click.Choice(["galactic", "icrs"]), default="galactic", show_default=True)
@click.option("--level", type=int, default=5, show_default=True, help="HEALPix order; 5 has cells of 1.8 degrees.")
@click.option("--least", type=int, default=1, show_default=True, help="Leave out cells with fewer stars.")
@click.option("--log", is_flag=True, help="Logarithmic colours.")
@click.option("--moc", type=click.Path(dir_okay=False, path_type=Path), help="Also write the coverage as a MOC (.fits).")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("map.png"), show_default=True)
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
    from specdb.catalog.selection import select_values
    from specdb.errors import InputError
    from specdb.plots.sky import plot_sky, sky_map
    from specdb.store import Store, atomic_path

    store = Store.open(db)
    known = store.modalities()
    modality = modality or (known[0] if len(known) == 1 else None)
    if modality not in known:
        raise InputError(f"the database has the modalities {', '.join(known) or 'none'}; say which with --modality")
    values = {"ra": "ra", "dec": "dec"} | ({"value": f"CAST(({value}) AS DOUBLE)"} if value else {})
    table = select_values(store, modality, values, where)
    columns = [table[name].to_numpy().astype("f8") for name in values]
    sky = sky_map(*columns, level=level, statistic=statistic or ("median" if value else "count"), least=least)
    figure = plot_sky(sky, value or "", frame=frame, title=f"{modality}{f', {where}' if where else ''}", log=log)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, dpi=150)
    click.echo(f"{int(sky.count.sum())} of {table.num_rows} stars in {len(sky.cell)} cells: {output}", err=True)
    if moc is not None:
        from specdb.export.moc import save_moc

        save_moc(sky.cell, sky.level, moc)
        click.echo(f"coverage of {len(sky.cell) * sky.cell_area_deg2:.4g} square degrees: {moc}", err=True)
