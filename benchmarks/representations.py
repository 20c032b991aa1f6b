"""What embeddings of LAMOST LRS spectra are worth: pixels, principal components and the small encoder side by side.

    python benchmarks/representations.py FOLDER [--folds 1] [--variants labels,no-labels]

FOLDER holds LAMOST spectra and labels.csv. The recipe of `specclip-mini` is trained anew for every fold of stars, so that
all figures are of stars that nothing was fitted to. Queries of all folds are pooled for recall; scatters are means over
the folds. What the figures mean is explained in docs/training.md.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import machine, write_results

from indexer.evaluate.measures import evaluate, principal_components
from indexer.train.data import LABELS, TrainingSet, load_lamost, split_stars
from indexer.train.mini import MiniConfig, embed, train_encoder
from specdb.statistics import wilson

VARIANTS = {"labels": "specclip-mini", "no-labels": "specclip-mini, self-supervised"}


def representations(data: TrainingSet, test: np.ndarray, variants: list[str], seed: int) -> dict[str, np.ndarray]:
    found = {
        "1462 normalised pixels": data.flux,
        "50 principal components": principal_components(data.flux, np.flatnonzero(~test)),
    }
    for variant in variants:
        config = MiniConfig()
        if variant == "no-labels":
            config = replace(config, targets=replace(config.targets, label_weight=0.0))
        found[VARIANTS[variant]] = embed(train_encoder(data, ~test, config, seed, log=print), data.flux)
    return found


def row(name: str, figures: list[dict]) -> dict[str, object]:
    """Pool the figures of the folds."""
    result: dict[str, object] = {"representation": name}
    for i, k in enumerate((1, 10)):
        of_folds = [f["recall"][i] for f in figures]
        n = sum(r["n_queries"] for r in of_folds)
        hits = round(sum(r["n_queries"] * r["value"] for r in of_folds))
        low, high = wilson(hits / n, n)
        result[f"recall@{k}"] = f"{hits / n:.2f} ({low:.2f} to {high:.2f})"
    for label, digits in zip(LABELS, (0, 3, 3), strict=True):
        sigma, r2 = (np.mean([f["knn"][label][what] for f in figures]) for what in ("sigma", "r2"))
        result[f"{label} sigma / R2"] = f"{sigma:.{digits}f} / {r2:.3f}"
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--folds", type=int, default=1, help="how many of the four folds are held out in turn")
    parser.add_argument("--variants", default="labels,no-labels", help="what to train; empty for the baselines alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = load_lamost(given.folder)
    fold = split_stars(data.star, 4, given.seed)
    figures: dict[str, list[dict]] = defaultdict(list)
    variants = [v for v in given.variants.split(",") if v]
    for held_out in range(given.folds):
        test = fold == held_out
        for name, x in representations(data, test, variants, given.seed).items():
            figures[name].append(evaluate(x, data.star, data.labels, test))
    n_queries = sum(f["recall"][0]["n_queries"] for f in figures["1462 normalised pixels"])
    facts = machine() | {"folds": given.folds, "queries": n_queries, "spectra": len(data), "threads": given.threads}
    write_results("representations", __doc__, [row(name, of_folds) for name, of_folds in figures.items()], facts)


if __name__ == "__main__":
    main()
