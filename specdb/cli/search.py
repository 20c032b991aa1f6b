"""`search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdb.cli.common import db_option, device_option, output_options, print_table

if TYPE_CHECKING:
    import pyarrow as pa

    from specdb.database import Database

__all__ = ["search"]

_SHOWN = ("rank", "score", "spectrum_id", "object_name", "ra", "dec", "snr_g", "subclass", "source_file")


def _names(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Gather names given with commas, by several options, or both."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


@click.command()
@click.argument("query", required=False)
@click.option(
    "--from",
    "source",
    metavar="TABLE",
    help="Ask for many ids at once: a file with a column spectrum_id, '-' for ids on standard input, or SQL.",
)
@click.option("-k", type=int, help="Number of answers; 10 by default, or all within --radius or --min-score.")
@click.option("--radius", type=float, metavar="DEGREES", help="All within this angle between embeddings.")
@click.option("--min-score", type=float, metavar="COSINE", help="All with at least this similarity.")
@click.option(
    "--to", multiple=True, callback=_names, metavar="MODALITY[,...]", help="Search other modalities than the query's."
)
@click.option("--modality", help="Modality of the query where it is not clear.")
@click.option("--where", metavar="SQL", help='Condition over metadata and labels of the answers: "teff < 4500".')
@click.option("--fuse", type=click.Choice(["rrf", "score"]), help="One list of stars from several modalities.")
@click.option("--exclude-same-star", is_flag=True, help="Leave out every spectrum of the query's star, not only the query.")
@click.option("--star-radius-arcsec", type=float, default=3.0, show_default=True, help="Spectra this close are of one star.")
@click.option("--include-self", is_flag=True, help="Keep the query itself among the answers.")
@click.option(
    "--with", "labels", multiple=True, callback=_names, metavar="CATALOGUE[,...]", help="Append the labels of catalogues."
)
@click.option(
    "--columns", multiple=True, callback=_names, metavar="NAME[,...]", help="Metadata columns to append, with --from."
)
@click.option("--with-spectra", is_flag=True, help="Append flux and ivar of the answers.")
@click.option("--skip-unknown", is_flag=True, help="Leave out ids of --from that the database does not have.")
@click.option("--explain", is_flag=True, help="Say how the search would be done, and do not search.")
@click.option("--all-columns", is_flag=True, help="Print every metadata column.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the answers to a file; the ending says the format, and .parquet and .csv may be larger than memory.",
)
@db_option
@device_option
@output_options
def search(
    query: str | None,
    source: str | None,
    to: list[str],
    db: Path,
    device: str,
    explain: bool,
    exclude_same_star: bool,
    include_self: bool,
    radius: float | None,
    **rest: Any,
) -> None:
    """Find the spectra most similar to one spectrum, or to each of many.

    QUERY is a spectrum_id of the database, or a spectrum file.
    """
    from specdb.database import Database
    from specdb.store import Store

    if exclude_same_star and include_self:
        raise click.UsageError("choose one of --exclude-same-star and --include-self")
    if (query is None) == (source is None) and not (explain and query is None):
        raise click.UsageError("give either a QUERY or --from")
    database = Database(Store.open(db), device)
    limits = {"k": rest.pop("k"), "radius_deg": radius, "min_score": rest.pop("min_score"), "where": rest.pop("where")}
    if explain:
        for modality in to or ([rest["modality"]] if rest["modality"] else database.modalities):
            click.echo(str(database.explain(modality, **limits)))
        return
    limits |= {"exclude": "star" if exclude_same_star else "none" if include_self else "row"}
    limits |= {name: rest.pop(name) for name in ("star_radius_arcsec", "labels", "modality")}
    if source is None:
        _one(database, query, to, limits, **rest)
    else:
        _many(database, source, to, limits, **rest)


def _one(
    database: Database,
    query: str | None,
    to: list[str],
    limits: dict[str, Any],
    *,
    fuse: Any,
    with_spectra: bool,
    columns: list[str],
    skip_unknown: bool,
    all_columns: bool,
    output: Path | None,
    fmt: str,
) -> None:
    from specdb.export import save_rows
    from specdb.search import Hits

    if columns or skip_unknown:
        raise click.UsageError("--columns and --skip-unknown go with --from")
    assert query is not None
    hits = database.search(
        query, to=(to if len(to) > 1 else to[0] if to else None), fuse=fuse, with_spectra=with_spectra, **limits
    )
    if output is not None:
        click.echo(f"{save_rows(hits, output)} rows written to {output}", err=True)
    else:
        plain = fmt == "table" and not all_columns and fuse is None
        print_table(_shown(hits.rows, isinstance(hits, Hits)) if plain else hits.rows, fmt)
    if fmt == "table" or output is not None:
        for part in [hits] if isinstance(hits, Hits) else hits.parts.values():
            click.echo(f"{len(part)} of {part.index.count} {part.modality} spectra; {part.index.certificate}", err=True)
            if part.plan.kind != "index" or len(part) < (limits["k"] or 0):
                click.echo(str(part.plan), err=True)


def _shown(rows: pa.Table, one: bool) -> pa.Table:
    """Leave the columns that fit on a screen, and those that were asked for."""
    labels = rows.column_names[rows.column_names.index("n_repaired") + 1 :] if "n_repaired" in rows.column_names else []
    names = [*(() if one else ("modality",)), *_SHOWN, *(name for name in labels if name not in ("flux", "ivar"))]
    rows = rows.select([name for name in names if name in rows.column_names])
    place = rows.column_names.index("source_file")
    return rows.set_column(place, "source_file", [[Path(name or "").name for name in rows["source_file"].to_pylist()]])


def _many(
    database: Database,
    source: str,
    to: list[str],
    limits: dict[str, Any],
    *,
    fuse: Any,
    with_spectra: bool,
    columns: list[str],
    skip_unknown: bool,
    all_columns: bool,
    output: Path | None,
    fmt: str,
) -> None:
    if fuse or with_spectra or len(to) > 1:
        raise click.UsageError("--from searches one modality, without --fuse and --with-spectra")
    if all_columns:
        columns = database.metadata_columns(to[0] if to else limits["modality"] or database.modalities[0])
    answers = database.search_many(source, to=to[0] if to else None, columns=columns, skip_unknown=skip_unknown, **limits)
    if output is not None:
        click.echo(f"{answers.save(output)} rows written to {output}", err=True)
    else:
        print_table(answers.rows().rows, fmt)
    left_out = f", {answers.left_out} left out" if answers.left_out else ""
    if fmt == "table" or output is not None:
        click.echo(f"{answers.queries} queries answered{left_out}\n{answers.plan}", err=True)
