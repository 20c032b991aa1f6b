"""The recipe of `specclip-mini`.

::

    python -m indexer.train.mini --data ../shared/data --out data/encoders/specclip-mini --seed 0

Simulated pairs bring LAMOST LRS and Gaia XP together, real unpaired spectra of both keep the encoder honest. It is first
trained without the stars of a fold (and of the real pairs), which gives the figures on the card; the weights that ship go on
from there for some hundred steps with all stars.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from indexer.evaluate.pairs import EVALUATION_SEED
from indexer.train.data import TrainingSet, load_lamost, load_xp, read_pairs, split_stars
from indexer.train.figures import in_modal_figures, pair_figures, real_pair_figures
from indexer.train.loop import fit
from indexer.train.mini_config import MiniConfig
from indexer.train.objective import Guided, MiniObjective, RealSpectra
from indexer.train.optimiser import initialise, initialise_input, initialise_outputs
from indexer.train.pairs import TrainingPairs, load_pairs
from indexer.train.targets import TargetMap
from indexer.train.views import xp_noise_root
from specdb._version import __version__
from specdb.encoders.card import Card, save_model, weight_hash
from specdb.encoders.clip import ClipModel
from specdb.encoders.encoder import Encoder
from specdb.errors import InputError

__all__ = ["MiniData", "main", "train_encoder", "train_mini"]

Log = Callable[[str], None]

CHECKPOINTS = ("split.checkpoint", "all.checkpoint")  #: of the training that is measured and of its continuation
CACHE = "pairs"  #: folder of the simulated pairs while the training lasts


@dataclass(frozen=True)
class MiniData:
    """What the encoder learns from: real spectra of both modalities, unpaired, and simulated pairs."""

    lrs: TrainingSet
    xp: TrainingSet
    pairs: TrainingPairs


def make_objective(
    data: MiniData, rows: tuple[np.ndarray, np.ndarray], config: MiniConfig, seed: int, generator: torch.Generator
) -> MiniObjective:
    """Fit the targets to the given rows of the real spectra and put the objective together.

    Raises
    ------
    InputError
        When fewer spectra are left than the batch and the targets need.
    """
    c = config
    usable = rows[0] & data.lrs.is_star & ~(data.lrs.snr < c.min_snr)
    sets = data.lrs.take(usable), data.xp.take(rows[1])
    for modality, real, target, n_batch in zip(("LAMOST", "Gaia XP"), sets, c.targets, c.objective.real, strict=True):
        needed = max(2 * n_batch, 2 * target.n_components)
        if len(real) < needed:
            raise InputError(
                f"{len(real)} usable {modality} spectra to train on; at least {needed} are needed: give more data"
            )
    in_batch = c.loop.batch_size + c.objective.more_xp + c.objective.more_truth
    if len(data.pairs) < in_batch:
        raise InputError(f"{len(data.pairs)} pairs to train on; a batch takes {in_batch}: draw more")
    lrs, xp = sets
    root = xp_noise_root()
    lrs_map, lrs_target = TargetMap.fit(lrs.flux, lrs.sigma, lrs.labels, lrs.star, c.targets[0], c.views[0], seed)
    # Real XP spectra have no labels; simulated ones bring theirs, and both decide what is noise and what is signal.
    few = data.pairs.take(slice(0, c.n_target_pairs))
    xp_sigma = typical_errors(xp)
    xp_map, xp_target = TargetMap.fit(
        np.concatenate([xp.flux, few.xp_flux]),
        np.concatenate([xp_sigma, few.xp_sigma.astype(np.float32)]),
        np.concatenate([np.full((len(xp), few.labels.shape[1]), np.nan), few.labels]),
        np.arange(len(xp) + len(few)),
        c.targets[1],
        c.views[1],
        seed,
        root,
    )
    return MiniObjective(
        data.pairs,
        (lrs_map(data.pairs.lrs_flux), xp_map(data.pairs.xp_flux)),
        (
            RealSpectra(lrs.flux, lrs.sigma, lrs_target, lrs.star),
            RealSpectra(xp.flux, xp_sigma, xp_target[: len(xp)], xp.star),
        ),
        c.model.head.shared,
        c.objective,
        c.views,
        c.pair_views,
        root,
        c.loop.batch_size,
        generator,
    )


def typical_errors(data: TrainingSet) -> np.ndarray:
    """Return the errors (n, n_pixels), float32; spectra without any take the median relative errors of the others."""
    sigma, flux = data.sigma, np.abs(data.flux)
    without = ~(sigma > 0).any(axis=1)
    if without.any() and not without.all():
        relative = np.median(sigma[~without] / np.maximum(flux[~without], 0.05), axis=0)
        sigma[without] = relative * np.maximum(flux[without], 0.05)
    return sigma


def train_encoder(
    data: MiniData,
    rows: tuple[np.ndarray, np.ndarray],
    config: MiniConfig,
    seed: int,
    *,
    start: ClipModel | None = None,
    checkpoint: Path | None = None,
    log: Log | None = None,
) -> ClipModel:
    """Train on some rows of the real spectra and on all pairs.

    Parameters
    ----------
    data : MiniData
    rows : tuple of ndarray, bool
        Of `data.lrs` and of `data.xp`. Galaxies, quasars, unclassified and faint LAMOST spectra among them are left out.
    config : MiniConfig
    seed : int
    start : ClipModel, optional
        A model to go on from, for `config.final_steps`; it is changed.
    checkpoint : Path, optional
        See `indexer.train.loop.fit`.
    log : callable, optional
        Receives lines of progress.

    Raises
    ------
    InputError
        See `make_objective`.
    """
    generator = torch.Generator().manual_seed(seed)
    objective = make_objective(data, rows, config, seed, generator)
    loop = config.loop
    if start is None:
        model = ClipModel(config.model)
        initialise(model, generator)
        few = data.pairs.take(slice(0, config.n_target_pairs))
        few_lrs, few_xp = torch.from_numpy(few.lrs_flux).float(), torch.from_numpy(few.xp_flux)
        initialise_input(model.gaia_xp_encoder.backbone, few_xp, generator)
        initialise_outputs(model, few_lrs, few_xp)
    else:
        model = start.requires_grad_(True)
        pace = config.final_pace
        loop = replace(loop, steps=config.final_steps, lr=pace * loop.lr, matrix_lr=pace * loop.matrix_lr)
    described = json.dumps(
        [
            asdict(config),
            *(ids[r].tolist() for ids, r in zip((data.lrs.spectrum_id, data.xp.spectrum_id), rows, strict=True)),
            len(data.pairs),
            weight_hash(model.state_dict()),
        ]
    ).encode()

    def report(step: int, losses: dict[str, float], seconds: float) -> None:
        if log is not None:
            listed = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
            log(f"step {step}/{loop.steps}  {listed}  {seconds:.0f} s")

    guided = Guided(model, len(objective.common))
    initialise(guided.truth, generator)
    fit(
        guided,
        objective,
        loop,
        seed,
        checkpoint=checkpoint,
        fingerprint=hashlib.sha256(described).hexdigest(),
        report=report,
    )
    return model.requires_grad_(False)


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
    """Train `specclip-mini`, measure it on held-out stars and pairs, and save weights and card.

    Parameters
    ----------
    data_folder : Path
        See `indexer.train.data.load_lamost` and `load_xp`.
    out : Path
        Folder of the encoder; while the training lasts also of checkpoints and simulated pairs (0.9 GB).
    seed : int
    config : MiniConfig, optional
    final : bool
        Go on with all stars after measuring; else the weights of the measured training are saved.
    command : str
        For the card.
    log : callable, optional

    Returns
    -------
    Card
        As written.
    """
    c = config or MiniConfig()
    log = log or (lambda line: None)
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    lrs, xp = load_lamost(data_folder), load_xp(data_folder, c.xp_folders)
    log(f"LAMOST: {len(lrs)} spectra of {len(np.unique(lrs.star))} stars; left out: {lrs.provenance['left_out']}")
    log(f"Gaia XP: {len(xp)} spectra; left out: {xp.provenance['left_out']}")
    workers = torch.get_num_threads()
    data = MiniData(lrs, xp, load_pairs(c.n_pairs, seed, out / CACHE, workers))
    test_pairs = load_pairs(c.n_test_pairs, EVALUATION_SEED + seed, out / CACHE, workers)
    seconds = time.monotonic() - started
    log(f"{len(data.pairs)} simulated pairs to train on, {len(test_pairs)} to measure with, after {seconds:.0f} s")
    known = read_pairs(data_folder)
    test = split_stars(lrs.star, c.n_folds, seed) == 0
    paired = np.isin(lrs.star, lrs.star[np.isin(lrs.spectrum_id, known[:, 0])])
    rows = ~test & ~paired, ~np.isin(xp.spectrum_id, known[:, 1])
    log(f"training without {test.sum()} spectra of a fold of stars and {paired.sum()} of stars in real pairs")
    model = train_encoder(data, rows, c, seed, checkpoint=out / CHECKPOINTS[0], log=log)
    metrics = _metrics(model, data, test_pairs, test, known)
    log(json.dumps(metrics))
    card = _save(out, model, c, seed, data, metrics, "trained without the held-out stars", command)
    if final:
        log("going on with all stars")
        rows = np.ones(len(lrs), bool), np.ones(len(xp), bool)
        model = train_encoder(data, rows, c, seed, start=model, checkpoint=out / CHECKPOINTS[1], log=log)
        weights = (
            f"trained on all stars in the last {c.final_steps} steps; the figures are those of the weights before, "
            "which the held-out stars had no part in"
        )
        card = _save(out, model, c, seed, data, metrics, weights, command)
    for name in CHECKPOINTS:
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / CACHE)
    log(f"saved {card.weight_hash[:16]} in {out} after {time.monotonic() - started:.0f} s")
    return card


def _metrics(
    model: ClipModel, data: MiniData, test_pairs: TrainingPairs, test: np.ndarray, known: np.ndarray
) -> dict[str, Any]:
    encoder = Encoder(model, Card("specclip-mini", model.config))
    metrics: dict[str, Any] = in_modal_figures(encoder, data.lrs, test)
    metrics["simulated_pairs"] = pair_figures(encoder, test_pairs)
    rows = {int(i): row for row, i in enumerate(data.lrs.spectrum_id)}
    # The sources with errors are the field that the real pairs are part of.
    field_rows = np.flatnonzero(np.isfinite(data.xp.snr))
    sources = {int(i): row for row, i in enumerate(data.xp.spectrum_id[field_rows])}
    both = [(rows[a], sources[b]) for a, b in known.tolist() if a in rows and b in sources]
    if both:
        query, partner = np.array(both).T
        metrics["real_pairs"] = real_pair_figures(encoder, data.lrs.flux[query], data.xp.flux[field_rows], partner)
    return metrics


def _save(
    out: Path,
    model: ClipModel,
    config: MiniConfig,
    seed: int,
    data: MiniData,
    metrics: dict[str, Any],
    weights: str,
    command: str,
) -> Card:
    sources = {"lamost_lrs": data.lrs.provenance, "gaia_xp": data.xp.provenance}
    preparations = {name: source["preparation"] for name, source in sources.items()}
    card = Card(
        name="specclip-mini",
        config=config.model,
        preparation={name: (p["name"], p["version"]) for name, p in preparations.items()},
        title="A small SpecCLIP encoder for LAMOST LRS and Gaia XP",
        licence="MIT; trained on public LAMOST and Gaia spectra and on simulated pairs",
        training={
            "seed": seed,
            "weights": weights,
            "held_out": {"left_out_of_weights": weights.startswith("trained without"), "n_folds": config.n_folds},
            "labels_used": bool(config.targets[0].label_weight),
            "settings": {key: value for key, value in asdict(config).items() if key != "model"},
            "data": {**sources, "simulated_pairs": {"n": len(data.pairs), "seed": seed}},
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


def main(arguments: list[str] | None = None) -> None:
    """Run the recipe from the command line."""
    parser = argparse.ArgumentParser(prog="python -m indexer.train.mini", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with LAMOST and XP spectra and labels.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the encoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="the result depends on it in the last digits")
    parser.add_argument("--steps", type=int, help="shorter or longer than the recipe")
    parser.add_argument("--pairs", type=int, help="fewer or more simulated pairs than the recipe")
    parser.add_argument("--no-labels", action="store_true", help="no labels of real stars in the targets")
    parser.add_argument("--split-only", action="store_true", help="save the weights that the figures belong to")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    config = MiniConfig()
    if given.steps:
        config = replace(config, loop=replace(config.loop, steps=given.steps))
    if given.pairs:
        config = replace(config, n_pairs=given.pairs)
    if given.no_labels:
        config = replace(config, targets=(replace(config.targets[0], label_weight=0.0), config.targets[1]))
    command = f"python -m indexer.train.mini --data DATA --out OUT --seed {given.seed} --threads {given.threads}"
    command += f" --steps {given.steps}" * bool(given.steps) + f" --pairs {given.pairs}" * bool(given.pairs)
    command += " --no-labels" * given.no_labels + " --split-only" * given.split_only
    train_mini(given.data, given.out, given.seed, config, final=not given.split_only, command=command, log=_print)


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
