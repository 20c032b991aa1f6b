"""The training loop: schedule, checkpoints that a killed run goes on from, and a clear stop at a loss that is not finite."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from indexer.train.optimiser import make_optimisers
from specdb.errors import CheckpointError, TrainingError
from specdb.store.files import atomic_path

__all__ = ["FAILED_BATCH", "LoopSettings", "Problem", "fit"]

FAILED_BATCH = "failed_batch.safetensors"


class Problem(Protocol):
    """What the loop needs of an objective."""

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw a batch."""
        ...

    def losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of a batch; ``total`` is minimised."""
        ...


@dataclass(frozen=True)
class LoopSettings:
    """Length and pace of a training.

    Attributes
    ----------
    steps, batch_size : int
    lr, matrix_lr : float
        Peak learning rate of AdamW and of Muon.
    warm_up : float
        Share of the steps in which the rates rise linearly; after it they follow half a cosine ...
    final : float
        ... down to this share of the peak.
    clip : float
        Greatest norm of the gradient.
    checkpoint_every : int
        Steps.
    """

    steps: int = 700
    batch_size: int = 128
    lr: float = 2e-3
    matrix_lr: float = 0.02
    warm_up: float = 0.03
    final: float = 0.01
    clip: float = 1.0
    checkpoint_every: int = 50

    def pace(self, step: int) -> float:
        """Return the factor on the learning rates at a step."""
        done = step / self.steps
        cosine = self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
        return min(1.0, (step + 1) / max(1.0, self.warm_up * self.steps)) * cosine


def fit(
    model: nn.Module,
    problem: Problem,
    settings: LoopSettings,
    seed: int,
    *,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    report: Callable[[int, dict[str, float], float], None] | None = None,
) -> list[float]:
    """Train a model in place.

    With a checkpoint a run that was killed goes on where it was last saved, and ends with the same weights, bit for bit, as
    one that was left alone (same machine, same number of threads). A finished run leaves its last state in the file, so that
    calling again returns at once; remove it when all is saved.

    Parameters
    ----------
    model : nn.Module
    problem : Problem
    settings : LoopSettings
    seed : int
        Of the batches and views.
    checkpoint : Path, optional
        File to save to and go on from.
    fingerprint : str
        Anything else (data, model) that a checkpoint must agree in.
    report : callable, optional
        Called with step, mean losses since the last call and seconds, at every checkpoint.

    Returns
    -------
    list of float
        Total loss of each step.

    Raises
    ------
    CheckpointError
        When the checkpoint belongs to another training, or is damaged.
    TrainingError
        When the loss is not finite; the batch is saved beside the checkpoint as `FAILED_BATCH`.
    """
    generator = torch.Generator().manual_seed(seed)
    optimisers = make_optimisers(model, settings.lr, settings.matrix_lr)
    peaks = (settings.lr, settings.matrix_lr)
    identity = hashlib.sha256(json.dumps([asdict(settings), seed, fingerprint]).encode()).hexdigest()
    history: list[float] = []
    if checkpoint is not None and checkpoint.exists():
        history = _load(checkpoint, identity, model, optimisers, generator)
    model.train()
    sums: dict[str, float] = {}
    n_summed = 0
    started = time.monotonic()
    for step in range(len(history), settings.steps):
        for optimiser, peak in zip(optimisers, peaks, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = peak * settings.pace(step)
        batch = problem.batch(generator)
        losses = problem.losses(model, batch, generator)
        value = float(losses["total"].detach())
        if not math.isfinite(value):
            raise TrainingError(_not_finite(step, losses, batch, checkpoint))
        model.zero_grad()
        losses["total"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        for optimiser in optimisers:
            optimiser.step()
        history.append(value)
        for name, loss in losses.items():
            sums[name] = sums.get(name, 0.0) + float(loss.detach())
        n_summed += 1
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            if checkpoint is not None:
                _save(checkpoint, identity, model, optimisers, generator, history)
            if report is not None:
                report(step + 1, {k: v / n_summed for k, v in sums.items()}, time.monotonic() - started)
            sums, n_summed = {}, 0
    model.eval()
    return history


def _not_finite(step: int, losses: dict[str, Tensor], batch: dict[str, Tensor], checkpoint: Path | None) -> str:
    values = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in losses.items())
    text = f"the loss of step {step} is not finite ({values}); training stopped"
    if checkpoint is None:
        return f"{text}. Give a checkpoint file to have the batch saved, or lower the learning rate"
    path = checkpoint.with_name(FAILED_BATCH)
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in batch.items()}, temporary)
    return f"{text}. The batch is in {path}: look for bad spectra, or lower the learning rate and start again"


def _save(
    path: Path,
    identity: str,
    model: nn.Module,
    optimisers: tuple[torch.optim.Optimizer, ...],
    generator: torch.Generator,
    history: list[float],
) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    for o, optimiser in enumerate(optimisers):
        for i, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{o}/{i}/{key}": value for key, value in state.items()}
    tensors["generator"] = generator.get_state()
    tensors["history"] = torch.tensor(history, dtype=torch.float64)
    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata={"identity": identity})


def _load(
    path: Path,
    identity: str,
    model: nn.Module,
    optimisers: tuple[torch.optim.Optimizer, ...],
    generator: torch.Generator,
) -> list[float]:
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("identity", "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the checkpoint {path} is damaged ({error}); delete it to start the training anew") from error
    if found != identity:
        raise CheckpointError(
            f"the checkpoint {path} belongs to a training with other settings, seed or data; "
            "delete it to start anew, or repeat the command it was made with"
        )
    model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    for o, optimiser in enumerate(optimisers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(f"optimiser/{o}/"):
                _, _, index, name = key.split("/")
                state.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    generator.set_state(tensors["generator"])
    return tensors["history"].tolist()
