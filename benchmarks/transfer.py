"""Transfer of heads to another survey: strategies, inputs and numbers of labels side by side.

    python benchmarks/transfer.py WORK [--source 8000] [--target 7000] [--figures docs/figures]
    python benchmarks/transfer.py WORK --real FOLDER [--figures docs/figures]

The first line draws a source survey as LAMOST LRS would see it, and a target as a survey like DESI would, at its resolution
and brought onto LAMOST's pixels, both with known [Fe/H] and [alpha/Fe]; what is drawn is kept in the folder WORK. Source
heads learn from all source stars. Strategies learn from 50 to 5000 target stars and are judged on others; docs/transfer.md
explains the table. The second line trains heads on the labelled stars of LAMOST DR10 in FOLDER and predicts the SDSS spectra
there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, machine, write_results

from indexer.simulate.desi_like import draw_desi_like
from indexer.simulate.pairs import PairSimulator
from specdb.encoders import Encoder, load_encoder
from specdb.heads import Head, HeadConfig, fit_head
from specdb.heads.head import HeadCard, LabelFacts
from specdb.heads.inputs import LabelledInputs
from specdb.heads.transfer import Comparison, TransferPlan, compare_strategies, discrepancy, line_sensitivity, loss_landscape
from specdb.heads.transfer.strategies import transfer_strategies
from specdb.plots.style import save_figure
from specdb.plots.transfer import plot_landscapes, plot_learning_curves, plot_plane, plot_predictions, plot_sensitivity
from specdb.spectra import Spectra, get_modality
from specdb.spectra.lrs_preparation import LAMOST_GRID, LrsPreparation

LABELS = ("feh", "alphafe")
INPUTS = ("pixels", "shared", "private", "both")
CHUNK = 1024
MOST_ERROR = 0.3  # as in `specdb.heads.inputs`
FOLDS = 4
SOURCE = {"hidden": [128, 64], "members_per_fold": 1, "steps": 2000}
SETTINGS: dict[str, dict[str, Any]] = {
    "residual": {"members_per_fold": 1, "steps": 400},
    "full": {"steps": 300, "checks": 20, "patience": 6},
    "lora": {"steps": 300, "checks": 20, "patience": 6},
    "scratch": {"changes": {"steps": 800}},
}
CURVE = (50, 100, 200, 500, 1000, 5000)


def prepared(spectra: Spectra, labels: np.ndarray, encoder: Encoder) -> dict[str, np.ndarray]:
    """Return what heads read, of the spectra that the preparation accepts."""
    done = LrsPreparation()([spectra])
    vectors = encoder.encode(done.flux, "lamost_lrs", normalise=False)
    with np.errstate(divide="ignore"):
        error = np.where(done.ivar > 0, np.minimum(1 / np.sqrt(done.ivar), MOST_ERROR), MOST_ERROR).astype(np.float32)
    return vectors | {"flux": done.flux, "error": error, "y": labels[done.rows], "snr": done.snr}


def draw(work: Path, n_source: int, n_target: int, encoder: Encoder) -> dict[str, dict[str, np.ndarray]]:
    """Draw both surveys, or read what was drawn before."""
    out = {}
    for name, n in (("source", n_source), ("target", n_target)):
        file = work / f"{name}-{n}-{encoder.weight_hash[:8]}.npz"
        if not file.exists():
            drawn: Iterator[tuple[Spectra, np.ndarray]]
            if name == "source":
                stream = PairSimulator(seed=4101).stream(n)
                drawn = ((p.lrs, np.column_stack([p.truth.labels[:, 2], p.truth.alpha])) for p in stream)
            else:
                surveys = (draw_desi_like(min(CHUNK, n - i * CHUNK), seed=5200 + i) for i in range(-(-n // CHUNK)))
                drawn = ((survey.lrs, survey.labels[:, 2:]) for survey in surveys)
            parts = [prepared(spectra, labels, encoder) for spectra, labels in drawn]
            work.mkdir(parents=True, exist_ok=True)
            np.savez(file, **{key: np.concatenate([part[key] for part in parts]) for key in parts[0]})
        with np.load(file) as stored:
            out[name] = {key: stored[key] for key in stored.files}
    return out


def inputs_of(survey: dict[str, np.ndarray], kind: str) -> np.ndarray:
    """Return inputs (n, d) as a database would give them."""
    shared, private = survey["shared"], survey["private"]
    length = np.linalg.norm(shared, axis=1, keepdims=True)
    return {
        "pixels": survey["flux"],
        "shared": shared / length,
        "private": private,
        "both": np.concatenate([shared, private], axis=1),
    }[kind]


def labelled(survey: dict[str, np.ndarray], kind: str) -> LabelledInputs:
    n = len(survey["y"])
    return LabelledInputs(
        ids=np.arange(n),
        x=inputs_of(survey, kind),
        x_err=survey["error"] if kind == "pixels" else None,
        y=survey["y"],
        y_err=np.full((n, len(LABELS)), np.nan),
        star=np.arange(n),
        snr=survey["snr"],
        labels=tuple(LabelFacts(name, "dex") for name in LABELS),
        dropped={},
    )


def card_of(encoder: Encoder, kind: str, labels: tuple[str, ...] = LABELS) -> HeadCard:
    config = HeadConfig(kind, "mlp", SOURCE, n_folds=FOLDS)  # type: ignore[arg-type]
    facts = tuple(LabelFacts(name) for name in labels)
    return HeadCard(kind, "lamost_lrs", encoder.name, "" if kind == "pixels" else encoder.weight_hash, facts, config)


def cells(rows: list[dict[str, Any]], label: str, n: int) -> list[dict[str, Any]]:
    """Return the published table's cells: R2 of full / metal-poor / metal-rich stars, scatter, bias and coverage."""
    out = []
    for kind in INPUTS:
        for strategy in transfer_strategies():
            found = [r for r in rows if (r["inputs"], r["strategy"], r["label"], r["stars"]) == (kind, strategy, label, n)]
            row: dict[str, Any] = {"label": label, "input": kind, "strategy": strategy}
            for part in ("full", "poor", "rich"):
                values = [r["r2"] for r in found if r["part"] == part]
                spread = f" +- {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
                row[f"R2 {part}"] = f"{np.mean(values):.3f}{spread}"
            for figure, form in (("sigma", ".3f"), ("bias", "+.3f"), ("coverage_68", ".2f"), ("coverage_95", ".2f")):
                row[figure] = format(np.mean([r[figure] for r in found if r["part"] == "full"]), form)
            row["sigma poor / rich"] = " / ".join(
                f"{np.mean([r['sigma'] for r in found if r['part'] == part]):.3f}" for part in ("poor", "rich")
            )
            out.append(row)
    return out


def simulated(given: argparse.Namespace) -> None:
    encoder = load_encoder(given.encoder)
    begun = time.perf_counter()
    surveys = draw(given.work, given.source, given.target, encoder)
    print(f"drawn: {time.perf_counter() - begun:.0f} s", flush=True)
    source, target = surveys["source"], surveys["target"]
    sources: dict[str, Head] = {}
    for kind in INPUTS:
        begun = time.perf_counter()
        data = labelled(source, kind)
        sources[kind] = fit_head(data.x, data.y, data.star, card_of(encoder, kind), x_err=data.x_err)
        figures = {k: f"{v['sigma']:.3f} / {v['r2']:.3f}" for k, v in sources[kind].card.metrics["left_out"].items()}
        print(f"source head on {kind}: {figures}, {time.perf_counter() - begun:.0f} s", flush=True)
    targets = {kind: labelled(target, kind) for kind in INPUTS}
    cards = {kind: replace(card_of(encoder, kind), labels=targets[kind].labels) for kind in INPUTS}
    fraction = 1 - max(given.curve) / len(target["y"])
    spent: dict[str, list[float]] = {}
    last: list[Any] = ["", time.perf_counter()]

    def report(what: str, done: int, jobs: int) -> None:
        now = time.perf_counter()
        if last[0]:
            spent.setdefault(last[0], []).append(now - last[1])
        last[:] = [what, now]
        if done % 10 == 0:
            print(f"{done} of {jobs}: {what}", flush=True)

    table = compare_strategies(
        sources,
        targets,
        cards,
        TransferPlan(sizes=(given.n,), seeds=given.seeds, test_fraction=fraction, settings=SETTINGS),
        report=report,
    )
    some = ("pixels", "both")
    curve = compare_strategies(
        {k: sources[k] for k in some},
        {k: targets[k] for k in some},
        cards,
        TransferPlan(sizes=given.curve, test_fraction=fraction, settings=SETTINGS),
        report=report,
    )
    rows = table.rows + curve.rows
    planes = abundances(table, given.figures)
    facts = machine() | {
        "encoder": f"{encoder.name} {encoder.weight_hash[:12]}",
        "source spectra": len(source["y"]),
        "target labels": given.n,
        "seeds": given.seeds,
        "test spectra": len(table.test.ids),
        "of these metal-poor": int((table.test.y[:, 0] < -1).sum()),
    }
    write_results("transfer", __doc__, [row for label in LABELS for row in cells(rows, label, given.n)], facts)
    record = json.loads((RESULTS / "transfer.json").read_text())
    kept = ("n", "bias", "sigma", "rms", "r2", "median_sigma", "coverage_68", "coverage_95", "width_95")
    curves = [
        {"inputs": r["inputs"], "strategy": r["strategy"], "stars": r["stars"], "seed": r["seed"], "label": r["label"]}
        | {"part": r["part"]}
        | {k: round(r[k], 5) for k in kept if k in r}
        for r in rows
    ]
    seconds = {what: round(float(np.mean(times)), 1) for what, times in spent.items()}
    record |= {"learning_curves": curves, "discrepancy": planes, "seconds": seconds}
    (RESULTS / "transfer.json").write_text(json.dumps(record, indent=1) + "\n")
    if given.figures:
        draw_figures(given.figures, rows, sources, table, targets, target["flux"], encoder)


def abundances(table: Comparison, folder: Path | None) -> list[dict[str, Any]]:
    """Compare the plane of [Fe/H] and [alpha/Fe] of half of the test stars with the truth of the other half."""
    halves = table.halves()
    assert halves is not None
    (first, second), predicted = halves
    found = {"truth": discrepancy(first, second)}
    found |= {f"{strategy} on {kind}": discrepancy(sample, second) for (kind, strategy), sample in predicted.items()}
    if folder:
        shown = {"truth": first} | {
            f"{strategy} on {kind}": predicted[kind, strategy]
            for kind, strategy in (
                ("pixels", "zero-shot"),
                ("pixels", "lora"),
                ("both", "zero-shot"),
                ("both", "residual"),
                ("both", "scratch"),
            )
        }
        notes = {name: f"MMD2 = {found[name].mmd2:.4f}\n+- {found[name].error:.4f}" for name in shown}
        save_figure(plot_plane(shown, notes), folder / "transfer-plane.png")
    return [{"sample": name} | asdict(one) for name, one in found.items()]


def draw_figures(
    folder: Path,
    rows: list[dict[str, Any]],
    sources: dict[str, Head],
    table: Comparison,
    targets: dict[str, LabelledInputs],
    flux: np.ndarray,
    encoder: Encoder,
) -> None:
    """Draw learning curves, loss landscapes and line sensitivities."""
    both = [row for row in rows if row["inputs"] in ("pixels", "both")]
    for label in LABELS:
        save_figure(plot_learning_curves(both, label), folder / f"transfer-curves-{label}.png")
    at = np.flatnonzero(np.isin(targets["pixels"].ids, table.test.ids))[:400]
    solutions = {"source": sources["pixels"]} | {name: table.heads["pixels", name] for name in ("full", "scratch")}
    found = loss_landscape(solutions, targets["pixels"].x[at], targets["pixels"].y[at])
    save_figure(plot_landscapes(found), folder / "transfer-landscapes.png")
    giants = flux[at[:150]]
    heads = {
        "source, pixels": sources["pixels"],
        "lora, pixels": table.heads["pixels", "lora"],
        "scratch, pixels": table.heads["pixels", "scratch"],
        "residual, embedding through the encoder": table.heads["both", "residual"],
    }
    seen = {name: line_sensitivity(head, giants, encoder=encoder, modality="lamost_lrs") for name, head in heads.items()}
    for label in LABELS:
        save_figure(plot_sensitivity(LAMOST_GRID, seen, label), folder / f"transfer-lines-{label}.png")


def real(given: argparse.Namespace) -> None:
    """Predict the real SDSS spectra with heads trained on real LAMOST DR10 stars."""
    from indexer.train.data import LABELS as LASP
    from indexer.train.data import load_lamost
    from specdb.spectra import expand_sources
    from specdb.spectra.readers import read_source

    encoder = load_encoder(given.encoder)
    data = load_lamost(given.real)
    modality = get_modality("sdss")
    files = sorted((given.real / "sdss_stellar").rglob("*.fits*"))
    batches = [b for one in expand_sources(files, (".fits", ".fits.gz")) for b in read_source(one, modality.readers)]
    names = [Path(str(f)).name.split(".fits")[0] for b in batches for f in b.metadata["source_file"].to_pylist()]
    kinds = [str(k) for b in batches for k in b.metadata["subclass"].to_pylist()]
    spectra = modality.preparation(batches)
    labels = [f"{names[row].removeprefix('spec-')} {kinds[row].split('(')[0].strip()}" for row in spectra.rows]
    predictions, told = {}, []
    for kind in ("both", "pixels"):
        parts = []
        for flux in (data.flux[data.labelled], spectra.flux):
            vectors = encoder.encode(flux, "lamost_lrs", normalise=False)
            parts.append(flux if kind == "pixels" else np.concatenate([vectors["shared"], vectors["private"]], axis=1))
        error = np.where(data.sigma > 0, np.minimum(data.sigma, MOST_ERROR), MOST_ERROR)[data.labelled]
        x_err = error if kind == "pixels" else None
        card = card_of(encoder, kind, tuple(LASP))
        head = fit_head(parts[0], data.labels[data.labelled], data.star[data.labelled], card, x_err=x_err)
        found = head.predict(parts[1])
        predictions[f"{kind}, as it is"] = (found.mean, found.sigma)
        for i, name in enumerate(labels):
            values = {n: f"{found.mean[i, j]:.4g} +- {found.sigma[i, j]:.2g}" for j, n in enumerate(LASP)}
            told.append({"spectrum": name, "input": kind} | values | {"flags": int(found.flags[i])})
    facts = machine() | {"labelled LAMOST spectra": int(data.labelled.sum()), "SDSS spectra": len(labels)}
    write_results("transfer_sdss", "Real SDSS spectra, predicted by heads trained on LAMOST DR10", told, facts)
    if given.figures:
        save_figure(plot_predictions(labels, LASP, predictions), given.figures / "transfer-sdss.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder that keeps what is drawn")
    parser.add_argument("--encoder", default="specclip-mini")
    parser.add_argument("--source", type=int, default=8_000, help="source spectra")
    parser.add_argument(
        "--target", type=int, default=7_000, help="target spectra; those beyond the largest number of labels judge"
    )
    parser.add_argument("--n", type=int, default=2000, help="target labels of the table")
    parser.add_argument("--curve", type=int, nargs="+", default=CURVE, help="other numbers of target labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--real", type=Path, help="folder of real spectra")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    given.curve = tuple(given.curve)
    torch.set_num_threads(given.threads)
    (real if given.real else simulated)(given)


if __name__ == "__main__":
    main()
