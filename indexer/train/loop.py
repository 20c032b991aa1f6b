"""The training loop: schedule, checkpoints that a killed run goes on from, and a clear stop at a loss that is not finite."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from indexer.train.optimiser import make_adamw, make_optimisers
from indexer.train.runtime import Runtime
from specdb.errors import CheckpointError, InputError, TrainingError
from specdb.store.files import atomic_path

__all__ = ["FAILED_BATCH", "VALIDATION", "LoopSettings", "Problem", "Resumable", "Validated", "fit", "read_records"]

FAILED_BATCH = "failed_batch.safetensors"

#: What the names of validation figures begin with in records and reports.
VALIDATION = "validation/"

SCHEDULES = ("cosine", "warmup_cosine", "constant")
OPTIMISERS = ("muon", "adamw")


class Problem(Protocol):
    """What the loop needs of an objective."""

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw a batch: this process's share of it where there are several."""
        ...

    def losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of a batch; ``total`` is minimised."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """A problem whose batches depend on more than the generator, for instance on the place in a stream of data."""

    def position(self) -> Tensor:
        """Return where the next batch comes from, int64."""
        ...

    def seek(self, position: Tensor) -> None:
        """Go to a position that `position` returned."""
        ...


@runtime_checkable
class Validated(Protocol):
    """A problem with held-out data."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return figures of a model in evaluation mode; ``total`` decides about early stopping."""
        ...


@dataclass(frozen=True)
class LoopSettings:
    """Length and pace of a training.

    Attributes
    ----------
    steps : int
    batch_size : int
        Spectra (or pairs) that one step of the optimiser sees, over all devices and micro-batches.
    lr, matrix_lr : float
        Peak learning rate of AdamW and of Muon.
    warm_up : float
        Share of the steps in which the rates rise linearly; after it they follow the schedule ...
    final : float
        ... down to this share of the peak.
    clip : float
        Greatest norm of the gradient.
    checkpoint_every : int
        Steps between checkpoints; validation, where there is one, comes with them.
    schedule : {"cosine", "warmup_cosine", "constant"}
        Half a cosine over all steps, times the warm-up; or half a cosine from the end of the warm-up on, as the published
        models had it; or no decay at all.
    optimiser : {"muon", "adamw"}
        Muon for the matrices and AdamW for the rest, or AdamW for all.
    weight_decay : float
        Of AdamW where it is alone, on all parameters as published.
    betas : tuple of float
        Of AdamW where it is alone.
    accumulate : int
        Micro-batches in a step; contrastive losses compare within a micro-batch (over all devices).
    patience : int
        Training stops after so many validations without improvement and returns the best weights; 0 trains to the end and
        returns the last.
    min_delta : float
        What counts as an improvement of the validation loss.
    """

    steps: int = 700
    batch_size: int = 128
    lr: float = 2e-3
    matrix_lr: float = 0.02
    warm_up: float = 0.03
    final: float = 0.01
    clip: float = 1.0
    checkpoint_every: int = 50
    schedule: str = "cosine"
    optimiser: str = "muon"
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    accumulate: int = 1
    patience: int = 0
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with."""
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule {self.schedule!r} is unknown; choose {', '.join(SCHEDULES)}")
        if self.optimiser not in OPTIMISERS:
            raise InputError(f"optimiser {self.optimiser!r} is unknown; choose {', '.join(OPTIMISERS)}")
        for name in ("steps", "batch_size", "checkpoint_every", "accumulate"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("lr", "matrix_lr", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.batch_size % self.accumulate:
            raise InputError(f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}")

    def pace(self, step: int) -> float:
        """Return the factor on the learning rates at a step."""
        rise = min(1.0, (step + 1) / max(1.0, self.warm_up * self.steps))
        if self.schedule == "constant":
            return rise
        first = int(self.warm_up * self.steps) if self.schedule == "warmup_cosine" else 0
        done = max(0, step - first) / max(1, self.steps - first)
        cosine = self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
        return rise * cosine


@dataclass
class _State:
    """What a checkpoint holds besides weights, optimisers and generator."""

    history: list[float]
    records: list[dict[str, float]]
    best: dict[str, Tensor]


class _Losses(nn.Module):
    """The model seen as what returns losses, so that several devices can share the work through one `forward`."""

    def __init__(self, model: nn.Module, problem: Problem) -> None:
        super().__init__()
        self.model, self.problem = model, problem

    def forward(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        return self.problem.losses(self.model, batch, generator)


def fit(
    model: nn.Module,
    problem: Problem,
    settings: LoopSettings,
    seed: int,
    *,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    report: Callable[[int, dict[str, float], float], None] | None = None,
    runtime: Runtime | None = None,
) -> list[float]:
    """Train a model in place.

    With a checkpoint a run that was killed goes on where it was last saved, and ends with the same weights, bit for bit, as
    one that was left alone (same machine, on the CPU, same number of threads). A finished run leaves its last state in the
    file, so that calling again returns at once; remove it when all is saved.

    Parameters
    ----------
    model : nn.Module
        Parameters that need no gradient are left alone.
    problem : Problem
        May be `Resumable` and `Validated`, too.
    settings : LoopSettings
    seed : int
        Of the batches, views and dropout.
    checkpoint : Path, optional
        File to save to and go on from.
    fingerprint : str
        Anything else (data, model) that a checkpoint must agree in.
    report : callable, optional
        Called with step, mean losses since the last call (and validation figures) and seconds, at every checkpoint.
    runtime : Runtime, optional
        Device, precision and other processes; by default this process on the CPU.

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
    runtime = runtime or Runtime()
    generator = torch.Generator().manual_seed(seed)
    optimisers, peaks = _optimisers(model, settings)
    identity = hashlib.sha256(json.dumps([asdict(settings), seed, fingerprint]).encode()).hexdigest()
    state = _State([], [], {})
    if checkpoint is not None and checkpoint.exists():
        state = _load(checkpoint, identity, model, optimisers, generator, problem)
    module, optimisers = runtime.setup(_Losses(model, problem), optimisers)
    model.train()
    sums: dict[str, float] = {}
    n_summed = 0
    started = time.monotonic()
    with torch.random.fork_rng(runtime.cuda_devices):
        for step in range(len(state.history), settings.steps):
            if _stalled(state.records, settings):
                break
            for optimiser, peak in zip(optimisers, peaks, strict=True):
                for group in optimiser.param_groups:
                    group["lr"] = peak * settings.pace(step)
            # Dropout draws from torch's own generators: seeded anew at each step, they need not be saved.
            torch.manual_seed(int(np.random.SeedSequence([seed, step, runtime.rank]).generate_state(1, np.uint64)[0]))
            model.zero_grad()
            value = 0.0
            for micro in range(settings.accumulate):
                batch = runtime.move(problem.batch(generator))
                with runtime.local_gradients(module, micro + 1 < settings.accumulate):
                    losses = module(batch, generator)
                    values = runtime.mean(torch.stack([loss.detach().float() for loss in losses.values()])).tolist()
                    means = dict(zip(losses, values, strict=True))
                    if not math.isfinite(means["total"]):
                        raise TrainingError(_not_finite(step, losses, batch, checkpoint, runtime.rank))
                    runtime.backward(losses["total"] / settings.accumulate)
                value += means["total"] / settings.accumulate
                for name, mean in means.items():
                    sums[name] = sums.get(name, 0.0) + mean
                n_summed += 1
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            for optimiser in optimisers:
                optimiser.step()
            state.history.append(value)
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
                record = {name: total / n_summed for name, total in sums.items()}
                record |= _validate(model, problem, runtime)
                state.records.append({"step": step + 1, **record})
                if settings.patience and _waited(state.records, settings.min_delta) == 0:
                    state.best = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
                if checkpoint is not None and runtime.is_main:
                    _save(checkpoint, identity, model, optimisers, generator, problem, state)
                if report is not None and runtime.is_main:
                    report(step + 1, record, time.monotonic() - started)
                sums, n_summed = {}, 0
    if state.best:
        model.load_state_dict(state.best)
    model.eval()
    return state.history


def read_records(checkpoint: Path) -> list[dict[str, float]]:
    """Return what was reported so far, by the checkpoint: ``step``, mean losses, validation figures; empty without one."""
    if not checkpoint.exists():
        return []
    with _readable(checkpoint), safe_open(checkpoint, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("records", "[]"))


def _optimisers(model: nn.Module, settings: LoopSettings) -> tuple[tuple[torch.optim.Optimizer, ...], tuple[float, ...]]:
    """Return the optimisers and the peak learning rate of each."""
    if settings.optimiser == "adamw":
        return (make_adamw(model, settings.lr, settings.weight_decay, settings.betas),), (settings.lr,)
    return make_optimisers(model, settings.lr, settings.matrix_lr), (settings.lr, settings.matrix_lr)


def _validate(model: nn.Module, problem: Problem, runtime: Runtime) -> dict[str, float]:
    if not isinstance(problem, Validated):
        return {}
    model.eval()
    with torch.no_grad():
        figures = problem.validate(model)
    model.train()
    # Every process computes them; the mean makes sure that all decide alike about stopping.
    values = runtime.mean(torch.tensor(list(figures.values()), dtype=torch.float64)).tolist()
    return {VALIDATION + name: value for name, value in zip(figures, values, strict=True)}


def _waited(records: list[dict[str, float]], min_delta: float) -> int:
    """Return how many validations have passed since the last improvement."""
    best, waited = math.inf, 0
    for record in records:
        total = record.get(f"{VALIDATION}total", math.inf)
        improved = total < best - min_delta
        best, waited = (total, 0) if improved else (best, waited + 1)
    return waited


def _stalled(records: list[dict[str, float]], settings: LoopSettings) -> bool:
    return bool(settings.patience) and _waited(records, settings.min_delta) >= settings.patience


def _not_finite(step: int, losses: dict[str, Tensor], batch: dict[str, Tensor], checkpoint: Path | None, rank: int) -> str:
    values = ", ".join(f"{name} {float(loss.detach()):g}" for name, loss in losses.items())
    text = f"the loss of step {step} is not finite ({values}); training stopped"
    if checkpoint is None:
        return f"{text}. Give a checkpoint file to have the batch saved, or lower the learning rate"
    path = checkpoint.with_name(FAILED_BATCH if rank == 0 else f"rank-{rank}-{FAILED_BATCH}")
    with atomic_path(path) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in batch.items()}, temporary)
    return f"{text}. The batch is in {path}: look for bad spectra, or lower the learning rate and start again"


def _save(
    path: Path,
    identity: str,
    model: nn.Module,
    optimisers: tuple[torch.optim.Optimizer, ...],
    generator: torch.Generator,
    problem: Problem,
    state: _State,
) -> None:
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    for o, optimiser in enumerate(optimisers):
        for i, values in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{o}/{i}/{key}": value for key, value in values.items()}
    tensors["generator"] = generator.get_state()
    tensors["history"] = torch.tensor(state.history, dtype=torch.float64)
    if isinstance(problem, Resumable):
        tensors["position"] = problem.position()
    metadata = {"identity": identity, "records": json.dumps(state.records)}
    with atomic_path(path) as temporary:
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the checkpoint {path} is damaged ({error}); delete it to start the training anew") from error


def _load(
    path: Path,
    identity: str,
    model: nn.Module,
    optimisers: tuple[torch.optim.Optimizer, ...],
    generator: torch.Generator,
    problem: Problem,
) -> _State:
    with _readable(path), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata.get("identity", "") != identity:
        raise CheckpointError(
            f"the checkpoint {path} belongs to a training with other settings, seed or data; "
            "delete it to start anew, or repeat the command it was made with"
        )

    def below(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    model.load_state_dict(below("model/"))
    for o, optimiser in enumerate(optimisers):
        values: dict[int, dict[str, Tensor]] = {}
        for key, value in below(f"optimiser/{o}/").items():
            index, name = key.split("/")
            values.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict({"state": values, "param_groups": optimiser.state_dict()["param_groups"]})
    generator.set_state(tensors["generator"])
    if isinstance(problem, Resumable):
        problem.seek(tensors["position"])
    return _State(tensors["history"].tolist(), json.loads(metadata["records"]), below("best/"))
