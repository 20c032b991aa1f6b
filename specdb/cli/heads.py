"""`heads`: train, predict, evaluate, list and show small models from embeddings to labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from specdb.cli.common import CliProgress, db_option, output_options, print_table, quiet_option

__all__ = ["heads"]

_INPUTS = ("shared", "private", "both", "pixels")
_KINDS = ("mlp", "posterior", "ridge", "knn")


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


@heads.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", required=True, help="Of the head in the database.")
@click.option(
    "--label", "labels", multiple=True, required=True, metavar="NAME[:UNIT]", help="An output, in order; repeatable."
)
@click.option(
    "--encoder", required=True, metavar="NAME|HASH", help="Whose embeddings it reads: name, folder, or weight hash."
)
@click.option("--modality", required=True, help="Of the spectra that it reads.")
@click.option(
    "--stats", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON: mean and std of the inputs."
)
@click.option("--rescale", metavar="SCALE,SHIFT", help="The label is the output times SCALE plus SHIFT.")
@click.option("--trust-pickle", is_flag=True, help="FILE is a pickled sbi posterior; unpickling runs whatever it contains.")
@db_option
@quiet_option
def import_(
    file: Path,
    name: str,
    labels: tuple[str, ...],
    encoder: str,
    modality: str,
    stats: Path | None,
    rescale: str | None,
    trust_pickle: bool,
    db: Path,
    quiet: bool,
) -> None:
    """Import a head that others have trained: SpecCLIP's perceptrons (.pt), of which nothing is executed.

    Pickled posteriors of sbi are refused without --trust-pickle; with it one is opened once, and a posterior head is taught
    its answers, so that nothing pickled is kept.
    """
    from specdb.heads import LabelFacts, import_head, import_posterior
    from specdb.store import Store

    facts = tuple(LabelFacts(*one.split(":", 1)) for one in labels)
    store = Store.open(db)
    common: dict[str, Any] = {"encoder": encoder, "modality": modality, "stats": stats}
    if trust_pickle:
        if rescale:
            raise click.UsageError("--rescale is for perceptrons; a posterior draws labels as they are")
        click.echo(f"warning: {file} is unpickled; whatever its maker put into it runs now, with your rights", err=True)
        import_posterior(store, file, name, facts, **common, report=None if quiet else _report)
    else:
        numbers = _numbers(rescale, float, "--rescale") if rescale else [1.0, 0.0]
        if len(numbers) != 2:
            raise click.UsageError(f"--rescale {rescale}: give two numbers, SCALE,SHIFT")
        import_head(store, file, name, facts, **common, scale=numbers[0], shift=numbers[1])
    if not quiet:
        click.echo(f"{name}: imported; `specdb heads predict {name}` uses it", err=True)


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
@click.option("--quantiles", metavar="Q,...", help="Columns for quantiles, too: 0.16,0.84 gives <label>_q16, <label>_q84.")
@db_option
@quiet_option
def predict(name: str, quantiles: str | None, db: Path, quiet: bool) -> None:
    """Predict labels for every spectrum of the head's modality; resumable, and new spectra cost only themselves.

    The answers are the table `predictions` in SQL, and a view of the head's own name.
    """
    from specdb.heads import load_head, predict_survey
    from specdb.store import Store

    store, progress = Store.open(db), CliProgress(quiet)
    report = predict_survey(
        store,
        load_head(store, name),
        quantiles=_numbers(quantiles, float, "--quantiles") if quantiles else (),
        start=lambda n: progress.start("predict", n),
        advance=progress.advance,
    )
    progress.end()
    if not quiet:
        flagged = "".join(f"; {n} {flag.lower().replace('_', ' ')}" for flag, n in report.flagged.items() if n)
        click.echo(f"{report.predicted} spectra predicted, {report.kept} were there already{flagged}", err=True)


def _numbers(text: str, kind: Callable[[str], Any], option: str) -> list[Any]:
    try:
        return [kind(one) for one in text.replace(",", " ").split()]
    except ValueError:
        raise click.UsageError(f"{option} {text}: give numbers with commas between them") from None


@heads.command()
@click.argument("name")
@click.option("--ids", metavar="ID,...", help="Spectra to draw for.")
@click.option("--sql", "query", metavar="SQL", help="SQL that gives a column spectrum_id, instead of --ids.")
@click.option("--draws", type=click.IntRange(1), default=1000, show_default=True, help="Per spectrum.")
@click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal draws.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="File of the draws.")
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), help="Corner figure of the first spectrum.")
@db_option
@quiet_option
def sample(
    name: str,
    ids: str | None,
    query: str | None,
    draws: int,
    seed: int,
    output: Path,
    figure: Path | None,
    db: Path,
    quiet: bool,
) -> None:
    """Draw from the joint posterior that the head NAME holds, for some spectra (--ids or --sql) or for all.

    Rows are spectrum_id, draw and the labels; the ending of the file decides the format.
    """
    import numpy as np

    from specdb.catalog import run_sql
    from specdb.export import save_rows
    from specdb.heads import draw_posteriors, load_head
    from specdb.store import Store

    if ids and query:
        raise click.UsageError("give --ids or --sql, not both")
    store = Store.open(db)
    head = load_head(store, name)
    wanted = np.array(_numbers(ids, int, "--ids"), np.int64) if ids else None
    if query:
        wanted = run_sql(store, query)["spectrum_id"].to_numpy()
    count = save_rows(draw_posteriors(store, head, wanted, n=draws, seed=seed), output)
    if figure is not None:
        first = next(iter(draw_posteriors(store, head, None if wanted is None else wanted[:1], n=draws, seed=seed)))
        _save_corner(head, first.slice(0, draws), figure)
    if not quiet:
        click.echo(f"{count // draws} spectra with {draws} draws each: {output}", err=True)


def _save_corner(head: Any, rows: Any, path: Path) -> None:
    """Draw the posterior of one spectrum."""
    import numpy as np

    from specdb.plots.heads import plot_posterior
    from specdb.plots.style import save_figure

    names = [f"{facts.name} [{facts.unit}]" if facts.unit else facts.name for facts in head.card.labels]
    drawn = np.column_stack([rows[facts.name].to_numpy(zero_copy_only=False) for facts in head.card.labels])
    save_figure(plot_posterior(drawn, names, title=f"{head.card.name}: spectrum {rows['spectrum_id'][0]}"), path)


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
        from specdb.plots.heads import plot_checks, plot_head
        from specdb.plots.style import save_figure

        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "evaluation.json", json.dumps(figures, indent=1) + "\n")
        units = {facts.name: facts.unit for facts in database.head(name).card.labels}
        for i, label in enumerate(judged.labels):
            columns = judged.truth[:, i], judged.mean[:, i], judged.sigma[:, i], judged.snr
            drawn = plot_head(*columns, label, units[label], f"{name}: {judged.what}", pit=judged.pit[:, i])
            save_figure(drawn, out / f"{label}.png")
        if judged.posterior is not None:
            save_figure(plot_checks(judged.posterior, f"{name}: {judged.what}"), out / "posterior.png")
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
    if judged.posterior is not None:
        checks = judged.posterior
        ranks = ", ".join(f"{label} {p:.2g}" for label, p in zip(checks.labels, checks.rank_p_values, strict=True))
        click.echo(f"joint posterior, {checks.n} stars: ranks uniform with p = {ranks}; TARP p = {checks.tarp_p_value:.2g}")
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
