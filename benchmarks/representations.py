"""What embeddings of LAMOST LRS spectra are worth: pixels, principal components and the small encoder side by side.

    python benchmarks/representations.py FOLDER [--folds 1] [--variants labels,no-labels]

FOLDER holds LAMOST and Gaia XP spectra and labels.csv. The recipe of `specclip-mini` is trained anew for every fold of
stars, so that all figures are of stars that nothing was fitted to. Queries of all folds are pooled for recall; scatters are
means over the folds. What the figures mean is explained in docs/training.md.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from common import machine, write_results

from indexer.evaluate.measures import evaluate, principal_components
from indexer.train.data import LABELS, load_lamost, load_xp, split_stars
from indexer.train.mini import MiniData, train_encoder
from indexer.train.mini_config import MiniConfig
from indexer.train.pairs import load_pairs
from specdb.encoders.card import Card
from specdb.encoders.encoder import Encoder
from specdb.statistics import wilson

VARIANTS = {"labels": "specclip-mini", "no-labels": "specclip-mini, no labels of real stars"}


def representations(data: MiniData, test: np.ndarray, variants: list[str], seed: int) -> dict[str, np.ndarray]:
    flux = data.lrs.flux
    found = {
        "1462 normalised pixels": flux,
        "50 principal components": principal_components(flux, np.flatnonzero(~test)),
    }
    for variant in variants:
        config = MiniConfig()
        if variant == "no-labels":
            config = replace(config, targets=(replace(config.targets[0], label_weight=0.0), config.targets[1]))
        model = train_encoder(data, (~test, np.ones(len(data.xp), bool)), config, seed, log=print)
        found[VARIANTS[variant]] = Encoder(model, Card("training", model.config)).encode(flux, "lamost_lrs")["shared"]
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
    config = MiniConfig()
    variants = [v for v in given.variants.split(",") if v]
    with TemporaryDirectory() as scratch:
        pairs = load_pairs(config.n_pairs if variants else 1, given.seed, Path(scratch), given.threads)
    lrs = load_lamost(given.folder)
    data = MiniData(lrs, load_xp(given.folder, config.xp_folders), pairs)
    fold = split_stars(lrs.star, 4, given.seed)
    figures: dict[str, list[dict]] = defaultdict(list)
    for held_out in range(given.folds):
        test = fold == held_out
        for name, x in representations(data, test, variants, given.seed).items():
            figures[name].append(evaluate(x, lrs.star, lrs.labels, test))
    n_queries = sum(f["recall"][0]["n_queries"] for f in figures["1462 normalised pixels"])
    facts = machine() | {"folds": given.folds, "queries": n_queries, "spectra": len(lrs), "threads": given.threads}
    write_results("representations", __doc__, [row(name, of_folds) for name, of_folds in figures.items()], facts)


if __name__ == "__main__":
    main()
