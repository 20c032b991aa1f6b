"""`evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from specdb.cli.common import device_option

if TYPE_CHECKING:
    from indexer.evaluate.section import Section

__all__ = ["evaluate"]


@click.command()
@click.option("--encoder", help="Encoder name or folder.  [default: that of the database, else the one that ships]")
@click.option("--beside", multiple=True, help="Another encoder to show beside it, e.g. one not aligned; repeat for more.")
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder of real spectra and labels."
)
@click.option("--db", type=click.Path(file_okay=False, path_type=Path), help="Take the spectra of a database instead.")
@click.option("--section", "sections", multiple=True, help="Only this section; repeat for more.  [default: all]")
@click.option("--anomaly", is_flag=True, help="Only the section on unusual objects: the same as --section anomaly.")
@click.option(
    "--unusual",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV with spectrum_id and kind: the unusual objects of --db.  [default: by class and file name]",
)
@click.option("--every-star", is_flag=True, help="Judge all stars, not only the fold that training left out.")
@click.option("--pairs", type=click.IntRange(20), default=10_000, show_default=True, help="Simulated held-out pairs.")
@click.option(
    "--reference", type=click.IntRange(100), default=5_000, show_default=True, help="Simulated pairs for the baselines."
)
@click.option("--stars", type=click.IntRange(80), default=2_500, show_default=True, help="Simulated stars for --anomaly.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the simulated pairs.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for JSON, Markdown and figures.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@device_option
def evaluate(
    encoder: str | None,
    beside: tuple[str, ...],
    data: Path | None,
    db: Path | None,
    sections: tuple[str, ...],
    anomaly: bool,
    unusual: Path | None,
    every_star: bool,
    pairs: int,
    reference: int,
    stars: int,
    seed: int,
    out: Path | None,
    as_json: bool,
    device: str,
) -> None:
    """Measure what an encoder is worth, beside pixels and principal components.

    Repeat visits, labels of neighbours, partners in the other survey, translated spectra with their error bars, and unusual
    objects. Real spectra come from --data or --db; without them only the sections on simulated pairs have something to say.
    """
    from indexer.evaluate.real import RealData, load_database, load_folder
    from indexer.evaluate.report import evaluate_encoder, to_json, write_report
    from indexer.evaluate.section import Context, EvaluationSettings
    from specdb.encoders import default_encoder_name, encoder_folder, load_encoder
    from specdb.search.error_model import load_error_models
    from specdb.store import Store

    if data and db:
        raise click.UsageError("choose one of --data and --db")
    name = encoder or (Store.open(db).encoder_location if db else default_encoder_name)
    judged = load_encoder(name)
    real = RealData()
    if data:
        real = load_folder(data, judged.card, every_star=every_star)
    elif db:
        real = load_database(db, judged.card, every_star=every_star)
    context = Context(
        judged,
        {other: load_encoder(other) for other in beside},
        real,
        load_error_models(encoder_folder(name), judged.weight_hash),
        EvaluationSettings(pairs, reference, anomaly_stars=stars, seed=seed),
        device,
        location=name,
        db=db,
        unusual=unusual,
    )
    if anomaly:
        sections = (*sections, "anomaly")
    if not as_json:
        click.echo(f"# {judged.name} ({judged.weight_hash[:16]})\n")
    done = evaluate_encoder(context, sections, None if as_json else _say)
    if as_json:
        click.echo(to_json(context, done), nl=False)
    if out:
        for path in write_report(out, context, done):
            click.echo(f"{path}", err=True)


def _say(section: Section) -> None:
    click.echo(section.to_markdown() + "\n")
