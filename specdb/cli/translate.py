"""`translate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdb.cli.common import db_option, device_option, output_options, print_table

if TYPE_CHECKING:
    from specdb.search.translation import Translation

__all__ = ["translate"]


@click.command()
@click.argument("queries", nargs=-1, metavar="QUERY...")
@click.option("--to", required=True, metavar="MODALITY", help="Modality to predict: gaia_xp, lamost_lrs.")
@click.option(
    "--from",
    "source",
    metavar="TABLE",
    help="Translate many ids: a file with a column spectrum_id, '-' for ids on standard input, or SQL.",
)
@click.option("--modality", help="Modality of the query where it is not clear.")
@click.option(
    "--method",
    type=click.Choice(["decoder", "neighbours"]),
    default="decoder",
    show_default=True,
    help="The encoder's decoder, or the mean of the nearest spectra in the database.",
)
@click.option("-k", type=int, default=10, show_default=True, help="Number of neighbours.")
@click.option("--g-mag", type=float, help="Gaia G of the star: sets the absolute scale of an XP spectrum.")
@click.option("--flux-550", type=float, help="Flux at 550 nm in W m-2 nm-1: sets the scale, too.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File to write: .ecsv, .fits, .csv, .parquet, .vot and others."
)
@click.option("--plot", type=click.Path(path_type=Path), help="Figure to write (one QUERY): .png, .pdf or .svg.")
@db_option
@device_option
@output_options
def translate(
    queries: tuple[str, ...],
    to: str,
    source: str | None,
    modality: str | None,
    method: str,
    k: int,
    g_mag: float | None,
    flux_550: float | None,
    output: Path | None,
    plot: Path | None,
    db: Path,
    device: str,
    fmt: str,
) -> None:
    """Predict what another instrument would show of a star, with errors.

    QUERY is a spectrum_id of the database, or a spectrum file. One spectrum becomes a table of its samples, several become a
    row each.
    """
    from specdb.database import Database
    from specdb.search.asked import read_ids
    from specdb.store import Store

    database = Database(Store.open(db), device)
    wanted: list[str | int] = [*queries, *(read_ids(database, source).tolist() if source else [])]
    if not wanted:
        raise click.UsageError("give a QUERY, or a table of ids with --from")
    if plot and len(wanted) > 1:
        raise click.UsageError(f"--plot shows one spectrum, these are {len(wanted)} queries")
    found = database.translate(
        wanted,
        to,
        modality=modality,
        method=method,  # type: ignore[arg-type]
        k=k,
        g_mag=g_mag,
        flux_550=flux_550,
    )
    if output:
        from specdb.export import save_rows

        save_rows(found, output)
        click.echo(f"{output}: {len(found.flux)} predicted {found.modality} spectra", err=True)
    if plot:
        _draw(found, plot)
    if not (output or plot) or fmt != "table":
        print_table(found.rows, fmt)
    _say(found)


def _draw(found: Translation, path: Path) -> None:
    from specdb.plots.style import save_figure
    from specdb.plots.translation import translation_figure

    title = f"{found.modality} predicted from {found.source} {Path(found.names[0]).name}, {found.method}"
    figure = translation_figure(
        found.wavelength, found.flux[0], found.sigma[0], found.half_95[0], f"flux ({found.unit})"[:60], title
    )
    save_figure(figure, path)
    click.echo(f"{path}: figure", err=True)


def _say(found: Translation) -> None:
    errors = "errors calibrated on held-out pairs" if found.calibrated else "errors are the spread only, not calibrated"
    held = found.notes.get("coverage")
    if held:
        errors += " (" + ", ".join(f"{share} intervals held {value:.1%}" for share, value in held.items()) + ")"
    scale = f"; scale: {found.notes['scale']}" if found.notes.get("scale") else ""
    click.echo(
        f"{found.modality} from {found.source} by {found.method} of {found.encoder}; {found.unit}{scale}; {errors}", err=True
    )
