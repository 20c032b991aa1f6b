"""The recipe of `specclip-mini`.

::

    python -m indexer.train.mini --data ../shared/data --out data/encoders/specclip-mini --seed 0

Two trainings with the same settings: one without the stars of a fold, which gives the figures on the card, and one on all
stars, which gives the weights that ship.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from indexer.train.data import TrainingSet, load_lamost, split_stars
from indexer.evaluate.measures import evaluate, principal_components
from indexer.train.loop import LoopSettings, fit
from indexer.train.objective import MODALITY, Objective, ObjectiveSettings
from indexer.train.optimiser import initialise
from indexer.train.targets import TargetSettings, make_targets
from indexer.train.views import ViewSettings
from specdb._version import __version__
from specdb.encoders.card import Card, save_model
from specdb.encoders.clip import ClipModel
from specdb.encoders.config import ClipConfig, HeadConfig, LrsTransformerConfig
from specdb.encoders.encoder import Encoder
from specdb.errors import InputError

__all__ = ["MiniConfig", "embed", "main", "train_encoder", "train_mini"]

Log = Callable[[str], None]

#: SpecCLIP's LRS half with 35 sections of 80 pixels instead of 145 of 20, and a 64-dimensional embedding: 0.7 M weights.
MINI = ClipConfig(
    variant="base",
    lamost_lrs=LrsTransformerConfig(
        width=192,
        n_layers=2,
        n_heads=4,
        mlp_ratio=2,
        n_positions=36,
        section_length=80,
        section_stride=40,
        mask_chunks=3,
        mask_chunk_width=4,
    ),
    gaia_xp=None,
    head=HeadConfig(shared=64, n_heads=4, dropout=0.0),
    decoder=None,
)


#: Of the training that is measured and of the one that ships.
CHECKPOINTS = ("split.checkpoint", "all.checkpoint")


@dataclass(frozen=True)
class MiniConfig:
    """Everything that decides what comes out, besides the data, the seed and the number of threads.

    Attributes
    ----------
    model, views, targets, objective, loop : configurations of the parts
    min_snr : float
        Spectra below are not trained on (median S/N per pixel).
    n_folds : int
        One in so many stars is held out for the figures.
    """

    model: ClipConfig = MINI
    views: ViewSettings = field(default_factory=ViewSettings)
    targets: TargetSettings = field(default_factory=TargetSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    loop: LoopSettings = field(default_factory=LoopSettings)
    min_snr: float = 3.0
    n_folds: int = 4


def train_encoder(
    data: TrainingSet,
    rows: np.ndarray,
    config: MiniConfig,
    seed: int,
    *,
    checkpoint: Path | None = None,
    log: Log | None = None,
) -> ClipModel:
    """Train on some rows of a training set.

    Parameters
    ----------
    data : TrainingSet
    rows : ndarray (n,), bool
        Galaxies, quasars, unclassified and faint spectra among them are left out.
    config : MiniConfig
    seed : int
    checkpoint : Path, optional
        See `indexer.train.loop.fit`.
    log : callable, optional
        Receives lines of progress.

    Raises
    ------
    InputError
        When fewer spectra are left than the batch and the targets need.
    """
    usable = rows & data.is_star & ~(data.snr < config.min_snr)
    needed = max(config.loop.batch_size, 2 * config.targets.n_components)
    if usable.sum() < needed:
        raise InputError(f"{usable.sum()} usable spectra to train on; at least {needed} are needed: give more data")
    train = data.take(usable)
    target = make_targets(train, config.targets, config.views, seed)
    generator = torch.Generator().manual_seed(seed)
    model = ClipModel(config.model)
    initialise(model, generator)
    objective = Objective(
        train, target, config.model.head.shared, config.objective, config.views, config.loop.batch_size, generator
    )
    described = json.dumps([asdict(config), train.spectrum_id.tolist()]).encode()

    def report(step: int, losses: dict[str, float], seconds: float) -> None:
        if log is not None:
            listed = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
            log(f"step {step}/{config.loop.steps}  {listed}  {seconds:.0f} s")

    fit(
        model,
        objective,
        config.loop,
        seed,
        checkpoint=checkpoint,
        fingerprint=hashlib.sha256(described).hexdigest(),
        report=report,
    )
    return model


def embed(model: ClipModel, flux: np.ndarray) -> np.ndarray:
    """Return the shared embeddings (n, d), unit vectors, of prepared spectra (n, n_grid)."""
    return Encoder(model, Card("training", model.config)).encode(flux, MODALITY)["shared"]


def train_mini(
    data_folder: Path,
    out: Path,
    seed: int = 0,
    config: MiniConfig | None = None,
    *,
    final: bool = True,
    command: str = "",
    log: Log | None = None,
) -> Card:
    """Train `specclip-mini`, measure it on held-out stars, and save weights and card.

    Parameters
    ----------
    data_folder : Path
        See `indexer.train.data.load_lamost`.
    out : Path
        Folder of the encoder.
    seed : int
    config : MiniConfig, optional
    final : bool
        Train again on all stars after measuring; else the weights of the measured training are saved.
    command : str
        For the card.
    log : callable, optional

    Returns
    -------
    Card
        As written.
    """
    config = config or MiniConfig()
    log = log or (lambda line: None)
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    data = load_lamost(data_folder)
    log(f"{len(data)} spectra of {len(np.unique(data.star))} stars; left out: {data.provenance['left_out']}")
    test = split_stars(data.star, config.n_folds, seed) == 0
    log(f"training without {test.sum()} spectra of {len(np.unique(data.star[test]))} stars")
    model = train_encoder(data, ~test, config, seed, checkpoint=out / CHECKPOINTS[0], log=log)
    metrics = _metrics(model, data, test)
    log(json.dumps(metrics))
    card = _save(out, model, config, seed, data, metrics, "trained without the held-out stars", command)
    if final:
        log("training on all stars")
        model = train_encoder(data, np.ones(len(data), bool), config, seed, checkpoint=out / CHECKPOINTS[1], log=log)
        weights = "trained on all stars; the figures are those of the same training without the held-out stars"
        card = _save(out, model, config, seed, data, metrics, weights, command)
    for name in CHECKPOINTS:
        (out / name).unlink(missing_ok=True)
    log(f"saved {card.weight_hash[:16]} in {out} after {time.monotonic() - started:.0f} s")
    return card


def _save(
    out: Path,
    model: ClipModel,
    config: MiniConfig,
    seed: int,
    data: TrainingSet,
    metrics: dict[str, Any],
    weights: str,
    command: str,
) -> Card:
    preparation = data.provenance["preparation"]
    card = Card(
        name="specclip-mini",
        config=config.model,
        preparation={MODALITY: (preparation["name"], preparation["version"])},
        title="A small SpecCLIP encoder for LAMOST LRS, trained on real spectra",
        licence="MIT; trained on public LAMOST spectra",
        training={
            "seed": seed,
            "weights": weights,
            "labels_used": bool(config.targets.label_weight),
            "settings": {key: value for key, value in asdict(config).items() if key != "model"},
            "data": data.provenance,
        },
        metrics=metrics,
        provenance={
            "specdb": __version__,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "command": command,
        },
    )
    return save_model(out, model, card)


def _metrics(model: ClipModel, data: TrainingSet, test: np.ndarray) -> dict[str, Any]:
    """Return the figures of encoder, pixels and principal components on the held-out stars."""
    spectra = {
        "specclip-mini": embed(model, data.flux),
        "pixels": data.flux,
        "pca50": principal_components(data.flux, np.flatnonzero(~test)),
    }
    return {
        "what": "held-out stars: visits by cosine among their spectra, labels by the mean of 10 neighbours in the rest",
        "n_test_spectra": int(test.sum()),
        **{name: evaluate(x, data.star, data.labels, test) for name, x in spectra.items()},
    }


def main(arguments: list[str] | None = None) -> None:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(prog="python -m indexer.train.mini", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with LAMOST spectra and labels.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="the result depends on it in the last digits")
    parser.add_argument("--steps", type=int, help="shorter or longer than the recipe")
    parser.add_argument("--no-labels", action="store_true", help="self-supervised only")
    parser.add_argument("--split-only", action="store_true", help="save the weights that the figures belong to")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    config = MiniConfig()
    if given.steps:
        config = replace(config, loop=replace(config.loop, steps=given.steps))
    if given.no_labels:
        config = replace(config, targets=replace(config.targets, label_weight=0.0))
    command = f"python -m indexer.train.mini --data DATA --out OUT --seed {given.seed} --threads {given.threads}"
    command += f" --steps {given.steps}" * bool(given.steps) + " --no-labels" * given.no_labels
    command += " --split-only" * given.split_only
    train_mini(given.data, given.out, given.seed, config, final=not given.split_only, command=command, log=print)


if __name__ == "__main__":
    main()
