"""`heads`: train, predict, evaluate, list and show small models from embeddings to labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from specdb.cli.common import CliProgress, db_option, output_options, print_table, quiet_option

__all__ = ["heads"]

_INPUTS = ("shared", "private", "both", "pixels")
_KINDS = ("mlp", "ridge", "knn")


@click.group()
def heads() -> None:
    """Train, use and judge small models from stored embeddings to labels such as Teff, logg and [Fe/H]."""


@heads.command("list")
@db_option
@output_options
def list_(db: Path, fmt: str) -> None:
    """List the heads of a database."""
    import pyarrow as pa

    from specdb.heads import list_heads, load_head
    from specdb.store import Store

    store = Store.open(db)
    rows = []
    for name in list_heads(store):
        card = load_head(store, name).card
        figures = card.metrics.get("left_out", {})
        rows.append(
            {
                "head": name,
                "labels": ", ".join(facts.name for facts in card.labels),
                "modality": card.modality,
                "inputs": card.config.inputs,
                "kind": card.config.kind,
                "spectra": card.data.get("spectra"),
                "scatter": ", ".join(f"{figures.get(f.name, {}).get('sigma', float('nan')):.3g}" for f in card.labels),
            }
        )
    names = ("head", "labels", "modality", "inputs", "kind", "spectra", "scatter")
    schema = pa.schema([(n, pa.int64() if n == "spectra" else pa.string()) for n in names])
    print_table(pa.Table.from_pylist(rows, schema), fmt)


@heads.command()
@click.argument("name")
@db_option
def show(name: str, db: Path) -> None:
    """Print a head's card: labels, data, settings, encoder, figures."""
    from specdb.heads import load_head
    from specdb.heads.train import head_folder
    from specdb.store import Store

    store = Store.open(db)
    load_head(store, name)
    click.echo((head_folder(store, name) / "head.json").read_text(encoding="utf-8"), nl=False)


@heads.command()
@click.argument("name")
@click.option("--labels", "query", required=True, metavar="SQL", help="spectrum_id, labels, and <label>_err where known.")
@click.option("--inputs", type=click.Choice(_INPUTS), help="What it reads; both where the encoder has both, else shared.")
@click.option("--kind", type=click.Choice(_KINDS), default="mlp", show_default=True, help="Kind of model.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the kind, as JSON; repeatable.")
@click.option("--modality", help="Where it is not clear from the ids.")
@click.option("--folds", type=int, default=5, show_default=True, help="Folds of stars for stopping and calibration.")
@click.option("--test-fraction", type=float, default=0.0, show_default=True, help="Share of stars kept for `evaluate`.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of folds, weights and batches.")
@db_option
@quiet_option
def train(
    name: str,
    query: str,
    inputs: str | None,
    kind: str,
    settings: tuple[str, ...],
    modality: str | None,
    folds: int,
    test_fraction: float,
    seed: int,
    db: Path,
    quiet: bool,
) -> None:
    """Train the head NAME on the labels that an SQL query gives, and save it in the database.

    Its uncertainties are calibrated on stars left out, fold by fold.
    """
    from specdb.database import Database
    from specdb.store import Store

    database = Database(Store.open(db))
    head = database.train_head(
        name,
        query,
        inputs=inputs,
        kind=kind,
        settings=_settings(settings),
        modality=modality,
        n_folds=folds,
        test_fraction=test_fraction,
        seed=seed,
        report=None if quiet else _report,
    )
    if not quiet:
        left_out = {k: v for k, v in head.card.data["left_out"].items() if v}
        notes = "".join(f"; left out: {n} {reason}" for reason, n in left_out.items())
        click.echo(f"{name}: {head.card.data['spectra']} spectra of {head.card.data['stars']} stars{notes}", err=True)
        click.echo(_summary(head.card.metrics["left_out"]))


def _report(step: int, error: float) -> None:
    click.echo(f"step {step}: mean absolute error {error:.3f} of the labels' scatter (stars left out)", err=True)


def _settings(given: tuple[str, ...]) -> dict[str, Any]:
    out = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--set {text}: write KEY=VALUE")
        try:
            out[key.strip()] = json.loads(value)
        except json.JSONDecodeError:
            raise click.UsageError(f"--set {text}: the value is no JSON (a number, true, false or a list)") from None
    return out


@heads.command()
@click.argument("name")
@db_option
@quiet_option
def predict(name: str, db: Path, quiet: bool) -> None:
    """Predict labels for every spectrum of the head's modality; resumable, and new spectra cost only themselves.

    The answers are the table `predictions` in SQL.
    """
    from specdb.heads import load_head, predict_survey
    from specdb.store import Store

    store, progress = Store.open(db), CliProgress(quiet)
    report = predict_survey(
        store, load_head(store, name), start=lambda n: progress.start("predict", n), advance=progress.advance
    )
    progress.end()
    if not quiet:
        flagged = "".join(f"; {n} {flag.lower().replace('_', ' ')}" for flag, n in report.flagged.items() if n)
        click.echo(f"{report.predicted} spectra predicted, {report.kept} were there already{flagged}", err=True)


@heads.command()
@click.argument("name")
@click.option("--labels", "query", metavar="SQL", help="Catalogue to compare with; without it, stars left out in training.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for evaluation.json and the figures.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@db_option
def evaluate(name: str, query: str | None, out: Path | None, as_json: bool, db: Path) -> None:
    """Compare predictions with labels that the head has not seen: scatter, bias, R2, coverage; figures with --out."""
    from specdb.database import Database
    from specdb.store import Store
    from specdb.store.files import write_text

    database = Database(Store.open(db))
    judged = database.evaluate_head(name, query)
    figures = judged.figures()
    if out is not None:
        from specdb.plots.heads import plot_head
        from specdb.plots.style import save_figure

        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "evaluation.json", json.dumps(figures, indent=1) + "\n")
        units = {facts.name: facts.unit for facts in database.head(name).card.labels}
        for i, label in enumerate(judged.labels):
            columns = judged.truth[:, i], judged.mean[:, i], judged.sigma[:, i], judged.snr
            save_figure(plot_head(*columns, label, units[label], f"{name}: {judged.what}"), out / f"{label}.png")
    if as_json:
        click.echo(json.dumps(figures, indent=1))
        return
    click.echo(f"{judged.what} ({len(judged.ids)} spectra)")
    click.echo(_summary(figures["labels"]))
    for label, found in figures["labels"].items():
        for by, bins in found["by"].items():
            for one in bins:
                if one["n"] >= 10:
                    click.echo(
                        f"  {label}, {by} {one['low']:g} to {one['high']:g}: scatter {one['sigma']:.3g}, "
                        f"bias {one['bias']:+.2g}, 68 % interval holds {one['coverage_68']:.0%}  (n = {one['n']})"
                    )
    if out is not None:
        click.echo(f"evaluation.json and {len(judged.labels)} figures are in {out}", err=True)


def _summary(figures: dict[str, Any]) -> str:
    lines = []
    for label, f in figures.items():
        if f["n"] < 3:
            lines.append(f"{label:>8}: {f['n']} stars, too few to judge")
            continue
        lines.append(
            f"{label:>8}: scatter {f['sigma']:.3g}, bias {f['bias']:+.2g}, R2 {f['r2']:.3f}; "
            f"68 % interval holds {f['coverage_68']:.0%}, 95 % holds {f['coverage_95']:.0%}  (n = {f['n']})"
        )
    return "\n".join(lines)
