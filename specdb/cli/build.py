"""`build-index` and its three stages: `ingest`, `embed`, `index`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdb.cli.common import CliProgress, db_option, device_option, quiet_option

if TYPE_CHECKING:
    from indexer import IndexReport, IngestReport

__all__ = ["build_index", "embed", "index", "ingest"]

survey_argument = click.argument("survey")
inputs_argument = click.argument("inputs", nargs=-1, required=True, metavar="PATH...")
encoder_option = click.option("--encoder", help="Encoder name or folder; by default the database's own.")


def _with(options: list[Any]) -> Any:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


ingest_options = _with(
    [
        click.option("--workers", type=click.IntRange(0), help="Reader processes.  [default: number of cores]"),
        click.option(
            "--part-size", type=click.IntRange(1), default=4096, show_default=True, help="Spectra per committed part."
        ),
        click.option("--format", "file_format", help="Read every file as this format, e.g. text, columnar."),
        click.option("--retry-failed", is_flag=True, help="Read files again that failed in earlier runs."),
        click.option(
            "--undelete", is_flag=True, help="Take in spectra that were deleted before; otherwise they are skipped."
        ),
        click.option("--dry-run", is_flag=True, help="Only list what would be read."),
    ]
)
embed_options = _with(
    [
        encoder_option,
        device_option,
        click.option(
            "--precision",
            type=click.Choice(["float32", "bfloat16"]),
            default="float32",
            show_default=True,
            help="Arithmetic.",
        ),
        click.option(
            "--batch-size", type=click.IntRange(1), help="Spectra per forward pass.  [default: what suits the device]"
        ),
    ]
)
index_options = _with(
    [
        click.option(
            "--kind",
            default="auto",
            show_default=True,
            help="Index kind: auto, flat, ivf-flat, ivf-sq8, ivf-pq, ivf-rabitq, hnsw, cagra.",
        ),
        click.option(
            "--recall", type=click.FloatRange(0, 1, min_open=True), default=0.99, show_default=True, help="recall@10."
        ),
        click.option("--fail-below-recall", is_flag=True, help="Fail instead of stepping up to a larger index kind."),
        click.option(
            "--memory", type=click.FloatRange(0, min_open=True), help="GiB that the index may occupy.  [default: a quarter]"
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Of the training of the index."),
    ]
)


@click.command(name="build-index")
@survey_argument
@inputs_argument
@db_option
@ingest_options
@embed_options
@index_options
@quiet_option
def build_index(survey: str, inputs: tuple[str, ...], db: Path, quiet: bool, **options: Any) -> None:
    """Read, prepare, embed and index a survey's files.

    SURVEY is lamost, gaia-xp, sdss or desi. PATH is a file, a folder, a glob, a tar archive, or @LIST, a text file of paths.
    Run the same command again to resume after an interruption, or with more paths to add them.
    """
    import indexer

    if options["dry_run"]:
        return _dry_run(survey, inputs)
    report = indexer.build_index(
        db,
        survey,
        inputs,
        encoder=options["encoder"],
        ingest_settings=_ingest_settings(options),
        embedding=_embedding_settings(options),
        index=_index_settings(options),
        progress=CliProgress(quiet),
        announce=None if quiet else _say_plan,
    )
    if not quiet:
        _say_ingest(report.ingest, db)
        if report.index is not None:
            _say_index(report.index)


@click.command()
@survey_argument
@inputs_argument
@db_option
@ingest_options
@quiet_option
def ingest(survey: str, inputs: tuple[str, ...], db: Path, quiet: bool, **options: Any) -> None:
    """Read and prepare a survey's files without embedding them."""
    import indexer

    if options["dry_run"]:
        return _dry_run(survey, inputs)
    report = indexer.ingest_survey(db, survey, inputs, settings=_ingest_settings(options), progress=CliProgress(quiet))
    if not quiet:
        _say_ingest(report, db)


@click.command()
@survey_argument
@db_option
@embed_options
@quiet_option
def embed(survey: str, db: Path, quiet: bool, **options: Any) -> None:
    """Embed ingested spectra that have no embeddings yet."""
    import indexer

    settings = _embedding_settings(options)
    count = indexer.embed_survey(db, survey, encoder=options["encoder"], settings=settings, progress=CliProgress(quiet))
    if not quiet:
        click.echo(f"embedded {count} spectra")


@click.command()
@survey_argument
@db_option
@encoder_option
@index_options
@click.option("--rebuild", is_flag=True, help="Build from scratch even if the index is complete.")
@quiet_option
def index(survey: str, db: Path, encoder: str | None, rebuild: bool, quiet: bool, **options: Any) -> None:
    """Build or extend the index over stored embeddings."""
    import indexer

    report = indexer.index_survey(
        db,
        survey,
        encoder=encoder,
        settings=_index_settings(options),
        rebuild=rebuild,
        announce=None if quiet else _say_plan,
    )
    if not quiet:
        _say_index(report)


def _ingest_settings(options: dict[str, Any]) -> Any:
    from indexer import IngestSettings

    workers = {} if options["workers"] is None else {"workers": options["workers"]}
    return IngestSettings(
        part_records=options["part_size"],
        window=min(256, options["part_size"]),
        file_format=options["file_format"],
        retry_failed=options["retry_failed"],
        undelete=options["undelete"],
        **workers,
    )


def _embedding_settings(options: dict[str, Any]) -> Any:
    from indexer import EmbeddingSettings

    return EmbeddingSettings(device=options["device"], precision=options["precision"], batch_size=options["batch_size"])


def _index_settings(options: dict[str, Any]) -> Any:
    from indexer import IndexSettings

    return IndexSettings(
        kind=options["kind"],
        recall=options["recall"],
        on_shortfall="fail" if options["fail_below_recall"] else "step-up",
        seed=options["seed"],
        memory_bytes=None if options["memory"] is None else int(options["memory"] * 2**30),
    )


def _dry_run(survey: str, inputs: tuple[str, ...]) -> None:
    from specdb.spectra import expand_sources, modality_for_survey
    from specdb.spectra.readers import suffixes_of

    count = 0
    for source in expand_sources(inputs, suffixes_of(modality_for_survey(survey).readers)):
        click.echo(source.name)
        count += 1
    click.echo(f"{count} files would be read", err=True)


def _say_ingest(report: IngestReport, db: Path) -> None:
    click.echo(
        f"{report.sources} files found, {report.known} of them known already; "
        f"{report.records} records read: {report.accepted} accepted, {report.skipped} skipped, {report.failed} failed"
    )
    for reason, count in report.reasons.most_common():
        click.echo(f"  {count:7d}  {reason}")
    if report.reasons:
        click.echo(f'  each with its file and detail: specdb sql "SELECT * FROM rejected" --db {db}')


def _say_plan(plan: str) -> None:
    click.echo(f"building {plan}", err=True)


def _say_index(report: IndexReport) -> None:
    card = report.index.card
    click.echo(f"index {report.action}: {card.count} vectors, {card.why}; {card.certificate}")
    for source, certificate in card.cross.items():
        click.echo(f"  for {source} queries: {certificate}")
