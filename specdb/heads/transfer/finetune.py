"""The source network learns on: in all its weights, or in low-rank changes to them.

Each member leaves out one fold of target stars; its best state on these is kept, and the first state counts: where nothing
helps, nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from specdb.errors import DependencyError, InputError, TrainingError
from specdb.heads.config import HeadConfig
from specdb.heads.ensemble import LOG_SIGMA, EnsembleSettings, MlpEnsemble, absolute_error, clip_members, pace, robust_loss
from specdb.heads.head import Head
from specdb.heads.kinds import Fitted, HeadData, Report

__all__ = ["Full", "FullSettings", "Lora", "LoraSettings"]


@dataclass(frozen=True)
class FullSettings:
    """How the members learn on.

    Attributes
    ----------
    steps, batch_size : int
        At most: `patience` checks of the stars left out, of `checks` over all steps, without gain for any member end it.
    lr, weight_decay : float
        Peak of AdamW's rate, five times below that of a head from scratch, and its decay.
    patience, checks : int
    """

    steps: int = 600
    batch_size: int = 64
    lr: float = 3e-4
    weight_decay: float = 1e-2
    patience: int = 8
    checks: int = 30


@dataclass(frozen=True)
class LoraSettings:
    """As `FullSettings`, with the rank of the changes and their weight `alpha` / `rank` (Hu et al., arXiv 2106.09685)."""

    rank: int = 8
    alpha: float = 16.0
    steps: int = 600
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 1e-2
    patience: int = 8
    checks: int = 30


class Full:
    """Fine-tuning of every weight at a lower rate."""

    name: ClassVar[str] = "full"
    Settings: ClassVar[Any] = FullSettings
    keeps_scales: ClassVar[bool] = True

    @staticmethod
    def config(source: HeadConfig, settings: Any) -> HeadConfig:
        """See `Strategy.config`."""
        if source.kind != "mlp":
            raise InputError(
                f"full and lora train the weights of an mlp head on; this is a {source.kind} head: take residual, zero-shot "
                "or scratch"
            )
        return source

    @classmethod
    def fit(cls, source: Head, data: HeadData, config: HeadConfig, settings: Any, report: Report | None = None) -> Fitted:
        """See `Strategy.fit`."""
        base: EnsembleSettings = config.resolved()
        tensors = source.model.tensors()
        own = len(tensors["weights.0"])
        members = max(own, config.n_folds)  # each fold needs one that leaves it out
        left_out = np.arange(members) * config.n_folds // members
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            networks = [cls._adapted(_sequential(tensors, m % own, base.dropout), settings) for m in range(members)]
            _learn_on(networks, data, left_out, base, settings, report)
        learnt = [_linear(cls._merged(network)) for network in networks]
        for layer in range(len(base.hidden) + 1):
            tensors[f"weights.{layer}"] = np.stack([linear[layer].weight.detach().numpy().T for linear in learnt])
            tensors[f"biases.{layer}"] = np.stack([linear[layer].bias.detach().numpy()[None] for linear in learnt])
        return MlpEnsemble.from_tensors(tensors, base).judged(data, left_out)

    @staticmethod
    def _adapted(network: nn.Sequential, settings: Any) -> nn.Module:
        return network

    @staticmethod
    def _merged(network: Any) -> nn.Sequential:
        return network


class Lora(Full):
    """Fine-tuning of low-rank changes to the linear layers, and of their biases, which are merged into them in the end."""

    name: ClassVar[str] = "lora"
    Settings: ClassVar[Any] = LoraSettings

    @staticmethod
    def _adapted(network: nn.Sequential, settings: LoraSettings) -> nn.Module:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise DependencyError('strategy lora needs peft: pip install "specdb[heads]"') from None
        layers = [name for name, part in network.named_children() if isinstance(part, nn.Linear)]
        # Biases take up shifts of the zero points, which no product of matrices can.
        config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=layers, bias="lora_only")  # type: ignore[arg-type]
        return get_peft_model(network, config)

    @staticmethod
    def _merged(network: Any) -> nn.Sequential:
        return network.merge_and_unload()


def _sequential(tensors: dict[str, np.ndarray], member: int, dropout: float) -> nn.Sequential:
    """Return one member of an ensemble as plain layers."""
    layers: list[nn.Module] = []
    for layer in range(sum(name.startswith("weights.") for name in tensors)):
        weight = torch.from_numpy(tensors[f"weights.{layer}"][member].T.copy())  # (out, in)
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(torch.from_numpy(tensors[f"biases.{layer}"][member, 0]))
        layers += [linear, nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


def _linear(network: nn.Sequential) -> list[nn.Linear]:
    return [part for part in network if isinstance(part, nn.Linear)]


def _learn_on(
    networks: list[nn.Module],
    data: HeadData,
    left_out: np.ndarray,
    base: EnsembleSettings,
    settings: FullSettings | LoraSettings,
    report: Report | None,
) -> None:
    """Train members side by side on all folds but their own, and leave each in its best state on that one."""
    x, y, var = (torch.from_numpy(a) for a in (data.x, data.y, data.y_err**2))
    noise = None if data.x_err is None else torch.from_numpy(data.x_err) * base.noise
    rows, held = (
        [torch.from_numpy(np.flatnonzero(at)) for at in side]
        for side in zip(*((data.fold != fold, data.fold == fold) for fold in left_out), strict=True)
    )
    plain = networks[0]
    state, buffers = stack_module_state(networks)  # arrays (M, ...)
    trained = {name: p for name, p in state.items() if p.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), settings.lr, weight_decay=settings.weight_decay)
    together = torch.vmap(lambda p, b, inputs: functional_call(plain, (p, b), (inputs,)), randomness="different")

    def errors() -> Tensor:
        plain.eval()
        with torch.no_grad():
            means = [functional_call(plain, {k: v[m] for k, v in state.items()}, (x[h],)) for m, h in enumerate(held)]
            return torch.stack([absolute_error(m.chunk(2, dim=-1)[0], y[h]) for m, h in zip(means, held, strict=True)])

    best, kept = errors(), {name: p.detach().clone() for name, p in trained.items()}
    worse = torch.zeros(len(networks))
    every = max(1, settings.steps // settings.checks)
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * pace(step, settings.steps)
        plain.train()
        chosen = torch.stack([r[torch.randint(len(r), (settings.batch_size,))] for r in rows])
        batch = x[chosen]  # (M, B, d)
        if noise is not None:
            batch = batch + noise[chosen] * torch.randn(batch.shape)
        mean, log_sigma = together(state, buffers, batch).chunk(2, dim=-1)  # (M, B, L)
        loss = robust_loss(mean, log_sigma.clamp(*LOG_SIGMA), y[chosen], var[chosen], base)  # (M,)
        if not torch.isfinite(loss).all():
            raise TrainingError(f"the loss is not finite at step {step}; look for wild values among inputs and labels")
        optimiser.zero_grad(set_to_none=True)
        loss.sum().backward()
        clip_members([p.grad for p in trained.values() if p.grad is not None], 1.0)
        optimiser.step()
        if (step + 1) % every == 0:
            better = (now := errors()) < best
            best = torch.where(better, now, best)
            for name, p in trained.items():
                kept[name][better] = p.detach()[better]
            worse = torch.where(better, 0, worse + 1)
            if report is not None:
                report(step + 1, float(now.mean()))
            if (worse >= settings.patience).all():
                break
    with torch.no_grad():
        for m, network in enumerate(networks):
            for name, p in network.named_parameters():
                if name in kept:
                    p.copy_(kept[name][m])
            network.eval()
