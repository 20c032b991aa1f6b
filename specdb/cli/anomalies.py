"""`anomalies`: score and list unusual spectra, and review them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from specdb.cli.common import CliProgress, db_option, device_option, output_options, print_table, quiet_option

__all__ = ["anomalies"]

_SHOWN = ("rank", "score", "p_value", "spectrum_id", "finder", "magnitude", "class", "subclass", "reason")
_SHOWN_NEXT = ("spectrum_id", "interest", "uncertainty", "score", "reason")


class _RankByDefault(click.Group):
    """`specdb anomalies lamost` means `specdb anomalies rank lamost`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["rank", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RankByDefault)
def anomalies() -> None:
    """Find unusual spectra: `specdb anomalies SURVEY`, then `specdb anomalies review SURVEY`."""


@anomalies.command()
@click.argument("survey")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many to list.")
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Use this score (may be repeated); default: all.")
@click.option("--combination", default=None, help="How scores are combined: cauchy, fisher, highest, quadratic.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of samples, forests and mixtures.")
@click.option("--by-review", is_flag=True, help="Order by what reviewers would accept.")
@click.option("--with-rejected", is_flag=True, help="Keep spectra that a reviewer rejected.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the list: .ecsv .fits .vot ...")
@db_option
@device_option
@quiet_option
@output_options
def rank(
    survey: str,
    top: int,
    methods: tuple[str, ...],
    combination: str | None,
    seed: int,
    by_review: bool,
    with_rejected: bool,
    output: Path | None,
    db: Path,
    device: str,
    quiet: bool,
    fmt: str,
) -> None:
    """Score all spectra of a survey (once) and list the most unusual ones.

    SURVEY is lamost or gaia-xp. The scores are stored; the next call only lists, unless spectra or settings have changed.
    """
    from specdb.anomaly import AnomalySettings, anomaly_list, run_anomalies
    from specdb.database import Database
    from specdb.spectra import modality_for_survey
    from specdb.store import Store

    database, modality = Database(Store.open(db), device), modality_for_survey(survey).name
    chosen: dict[str, Any] = {} if combination is None else {"combination": combination}
    done = run_anomalies(database, modality, AnomalySettings(methods=methods, seed=seed, **chosen), CliProgress(quiet))
    found = anomaly_list(database, modality, top, by_review=by_review, rejected=with_rejected)
    if output:
        from specdb.export import save_rows

        save_rows(found, output)
        click.echo(f"{output}: the {len(found)} most unusual of {done.rows} {modality} spectra", err=True)
    if not output or fmt != "table":
        print_table(_shortened(found.rows, _SHOWN) if fmt == "table" else found.rows, fmt)
    if not quiet:
        click.echo(f"{done.rows} spectra, scores: {', '.join(done.used)}", err=True)
        for name, reason in done.skipped.items():
            click.echo(f"  left out: {name} ({reason})", err=True)


@anomalies.command()
@click.argument("survey")
@click.option("--mark", nargs=2, metavar="ID MARK", help="Mark one spectrum: accept, reject or unsure.")
@click.option("--note", default="", help="What to remember with --mark.")
@click.option("--from", "source", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="CSV: id, mark, note.")
@click.option("--next", "following", type=click.IntRange(min=1), help="Propose so many spectra to look at next.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write marks or proposals to a file.")
@db_option
@output_options
def review(
    survey: str,
    mark: tuple[str, str] | None,
    note: str,
    source: Path | None,
    following: int | None,
    output: Path | None,
    db: Path,
    fmt: str,
) -> None:
    """Mark spectra, list the marks, or ask which to look at next.

    Marks stay in the database; `specdb anomalies SURVEY --by-review` orders the list by what they teach.
    """
    from specdb.anomaly import add_marks, read_marks
    from specdb.database import open_database
    from specdb.spectra import modality_for_survey

    if note and not mark:
        raise click.UsageError("--note belongs to a --mark")
    database, modality = open_database(db), modality_for_survey(survey).name
    marks = ([_mark(*mark, note)] if mark else []) + (_read_marks(source) if source else [])
    if marks:
        add_marks(database, modality, marks)
        click.echo(f"{len(marks)} mark{'' if len(marks) == 1 else 's'} stored", err=True)
        if not (following or output):
            return
    rows = _proposals(database, modality, following) if following else read_marks(database, modality)
    if output:
        from specdb.export import save_rows

        save_rows(rows, output, {"modality": modality})
        click.echo(f"{output}: {rows.num_rows} rows", err=True)
    else:
        print_table(rows, fmt)


def _mark(number: str, word: str, note: str) -> Any:
    from specdb.anomaly import Mark
    from specdb.errors import InputError

    try:
        return Mark(int(number), word, note)
    except ValueError:
        raise InputError(f"{number!r} is no spectrum_id: ids are whole numbers") from None


def _read_marks(path: Path) -> list[Any]:
    """Return the marks of a CSV file with the columns spectrum_id, mark and, if there are notes, note."""
    import csv

    from specdb.errors import InputError

    with path.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    if not rows or not {"spectrum_id", "mark"} <= set(rows[0]):
        raise InputError(f"{path} has no rows with the columns spectrum_id and mark; `-o FILE.csv` writes such a table")
    return [_mark(row["spectrum_id"], row["mark"], row.get("note") or "") for row in rows]


def _proposals(database: Any, modality: str, count: int) -> pa.Table:
    from specdb.anomaly import anomaly_table, rerank

    ranked, table = rerank(database, modality), anomaly_table(database, modality)
    joined = ranked.append_column("score", table["score"]).append_column("reason", table["reason"])
    first = joined.sort_by([("uncertainty", "descending"), ("spectrum_id", "ascending")]).slice(0, count)
    return first.select(_SHOWN_NEXT)


def _shortened(rows: pa.Table, names: tuple[str, ...]) -> pa.Table:
    return rows.select([name for name in names if name in rows.column_names])
