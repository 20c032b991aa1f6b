"""`transfer`: take a head to another survey, and say what each way of doing so is worth."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specdb.cli.common import db_option, quiet_option

if TYPE_CHECKING:
    from specdb.heads.transfer.compare import Comparison

__all__ = ["transfer"]

_STRATEGIES = ("residual", "lora", "full", "zero-shot", "scratch")
_INPUTS = ("shared", "private", "both", "pixels")


@click.command()
@click.argument("head")
@click.option("--to", required=True, metavar="MODALITY", help="Of the target's spectra: sdss, desi, lamost_lrs, ...")
@click.option("--labels", "query", metavar="SQL", help="spectrum_id and labels of target stars, named as HEAD's.")
@click.option(
    "--target-db", type=click.Path(file_okay=False, path_type=Path), help="Target's database, if it is another one."
)
@click.option("--strategy", "strategies", multiple=True, type=click.Choice(_STRATEGIES), help="Repeatable; by default all.")
@click.option("--inputs", multiple=True, type=click.Choice(_INPUTS), help="Repeatable; by default what HEAD reads.")
@click.option("--n", "sizes", multiple=True, type=int, help="Labelled stars to learn from; repeatable; by default all.")
@click.option("--seeds", type=int, default=1, show_default=True, help="Repetitions with other stars and weights.")
@click.option("--test-fraction", type=float, default=0.3, show_default=True, help="Share of the stars that judge.")
@click.option("--set", "settings", multiple=True, metavar="STRATEGY.KEY=VALUE", help="A setting, as JSON; repeatable.")
@click.option("--name", help="Of the new head; by default HEAD_MODALITY.")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for table and figures.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@db_option
@quiet_option
def transfer(
    head: str,
    to: str,
    query: str | None,
    target_db: Path | None,
    strategies: tuple[str, ...],
    inputs: tuple[str, ...],
    sizes: tuple[int, ...],
    seeds: int,
    test_fraction: float,
    settings: tuple[str, ...],
    name: str | None,
    out: Path | None,
    as_json: bool,
    db: Path,
    quiet: bool,
) -> None:
    """Take HEAD to another survey with a few labelled stars, and judge every way of doing so on stars left out.

    The best head, by stars left out among those learnt from, is saved in the target's database for `specdb heads predict`.
    Without --labels HEAD is taken over as it is.
    """
    from specdb.database import Database
    from specdb.store import Store

    database = Database(Store.open(db))
    target = None if target_db is None else Database(Store.open(target_db))
    plan: dict[str, Any] = {"sizes": sizes, "seeds": seeds, "test_fraction": test_fraction, "settings": _settings(settings)}
    if strategies:
        plan["strategies"] = strategies

    def report(what: str, done: int, jobs: int) -> None:
        click.echo(f"{done + 1} of {jobs}: {what}", err=True)

    found = database.transfer_head(
        head, to, query, target=target, inputs=inputs, save_as=name, report=None if quiet else report, **plan
    )
    made = found.head.card
    comparison = found.comparison
    if comparison is None:
        if not quiet:
            calibrated = made.data["transfer"]["calibrated on"]
            click.echo(f"{made.name}: {head} as it is, for {to}; its sigmas were calibrated on {calibrated}", err=True)
        return
    if out is not None:
        _write(out, comparison)
    if as_json:
        click.echo(json.dumps(comparison.rows, indent=1))
    else:
        click.echo(_tables(comparison))
    if not quiet:
        chosen, strategy = comparison.best()
        click.echo(f"saved as {made.name}: {strategy} on {chosen}, {made.data['stars']} stars", err=True)


def _settings(given: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for text in given:
        path, equals, value = text.partition("=")
        strategy, dot, key = path.strip().partition(".")
        if not (equals and dot):
            raise click.UsageError(f"--set {text}: write STRATEGY.KEY=VALUE, for instance lora.rank=4")
        try:
            out.setdefault(strategy, {})[key] = json.loads(value)
        except json.JSONDecodeError:
            raise click.UsageError(f"--set {text}: the value is no JSON (a number, true, false or a list)") from None
    return out


def _tables(comparison: Comparison) -> str:
    """Return a Markdown table per label and figure, and the figures of all test stars in the units of the label."""
    largest = max(row["stars"] for row in comparison.rows)
    judged = len(comparison.test.ids)
    lines = []
    for label in comparison.labels:
        table = comparison.table(label)
        columns = list(dict.fromkeys(key for row in table for key in row))
        lines += [f"R2 of {label} (all / metal-poor / metal-rich), {largest} stars learnt from, {judged} spectra judge", ""]
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(row.get(c, "-") for c in columns) + " |" for row in table]
        lines.append("")
        for row in comparison.rows:
            if (row["label"], row["part"], row["stars"], row["seed"]) == (label, "full", largest, 0):
                lines.append(
                    f"{row['strategy']:>10} on {row['inputs']:<8} scatter {row['sigma']:.3g}, bias {row['bias']:+.2g}; "
                    f"68 % interval holds {row['coverage_68']:.0%}, 95 % holds {row['coverage_95']:.0%}"
                )
        lines.append("")
    return "\n".join(lines).rstrip()


def _write(out: Path, comparison: Comparison) -> None:
    from specdb.heads.transfer import discrepancy
    from specdb.plots.heads import plot_head
    from specdb.plots.style import save_figure
    from specdb.plots.transfer import plot_learning_curves, plot_plane
    from specdb.store.files import write_text

    out.mkdir(parents=True, exist_ok=True)
    chosen = comparison.best()
    best, test = comparison.predictions[chosen], comparison.test
    record: dict[str, Any] = {"chosen": {"inputs": chosen[0], "strategy": chosen[1]}, "rows": comparison.rows}
    for i, facts in enumerate(test.labels):
        columns = test.y[:, i], best.mean[:, i], best.sigma[:, i], test.snr
        title = f"{chosen[1]} on {chosen[0]}: stars left out"
        save_figure(plot_head(*columns, facts.name, facts.unit, title), out / f"{facts.name}.png")
        if len({row["stars"] for row in comparison.rows}) > 1:
            save_figure(plot_learning_curves(comparison.rows, facts.name), out / f"learning-{facts.name}.png")
    halves = comparison.halves()
    if halves is not None:
        reference, predicted = halves
        found = {"truth": discrepancy(*reference)} | {
            f"{strategy} on {inputs}": discrepancy(sample, reference[1]) for (inputs, strategy), sample in predicted.items()
        }
        record["discrepancy"] = {name: asdict(one) for name, one in found.items()}
        samples = {"truth": reference[0]} | {f"{s} on {i}": sample for (i, s), sample in predicted.items()}
        notes = {name: f"MMD2 {one.mmd2:.4f} +- {one.error:.4f}\np = {one.p_value:.3f}" for name, one in found.items()}
        save_figure(plot_plane(samples, notes), out / "plane.png")
    write_text(out / "transfer.json", json.dumps(record, indent=1) + "\n")
    write_text(out / "transfer.md", _tables(comparison) + "\n")
