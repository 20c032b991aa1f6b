"""An ensemble of small multilayer perceptrons, trained side by side as one batched network.

Every member leaves out one fold of stars. Its out-of-fold predictions stop its training in time and, over all folds,
calibrate the uncertainties with every training star; none is given away to a validation set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from specdb.errors import TrainingError
from specdb.heads.kinds import Alone, Fitted, HeadData, Report

__all__ = ["LOG_SIGMA", "EnsembleSettings", "MlpEnsemble", "absolute_error", "clip_members", "pace", "robust_loss"]

LOG_SIGMA = (-6.0, 3.0)  #: of scaled labels: from 0.2 % to 20 standard deviations
_ROWS = 1024  # spectra per matrix product in `predict`: what lies between layers stays in the cache


@dataclass(frozen=True)
class EnsembleSettings:
    """How the members look and learn.

    Attributes
    ----------
    hidden : tuple of int
        Widths; (1024, 512, 64) is SpecCLIP's.
    dropout : float
    members_per_fold : int
        Members that leave out the same fold.
    steps, batch_size : int
        Of every member; an early best is kept.
    lr, weight_decay : float
        Peak of AdamW's rate, which falls along half a cosine, and its decay.
    noise : float
        Spectra that are read as pixels get noise of this many times their errors at every step.
    beta : float
        Weight of a star in the likelihood: its predicted variance to this power (Seitzer et al. 2022, ICLR). Without it (0)
        stars that are fitted badly are given up as noisy.
    tail : float
        Residuals beyond this many sigma count linearly, so that wrong labels do not pull.
    """

    hidden: tuple[int, ...] = (256, 128)
    dropout: float = 0.1
    members_per_fold: int = 2
    steps: int = 1500
    batch_size: int = 64
    lr: float = 1.5e-3
    weight_decay: float = 1e-2
    noise: float = 1.0
    beta: float = 0.5
    tail: float = 3.0


class _Network(nn.Module):
    """M perceptrons of one shape; every layer is one batched matrix product."""

    def __init__(self, members: int, widths: list[int], dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            bound = math.sqrt(6 / fan_in)  # He et al. 2015
            self.weights.append((torch.rand(members, fan_in, fan_out, generator=generator) * 2 - 1) * bound)
            self.biases.append(torch.zeros(members, 1, fan_out))
        with torch.no_grad():
            self.weights[-1].mul_(0.1)  # begin near the mean label with unit sigma
        self.dropout = dropout

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Map (M, B, d) to means and log sigmas (M, B, L); with a generator, with dropout."""
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)  # (M, B, width)
            if i < last:
                x = x.relu_()
                if generator is not None and self.dropout:
                    keep = torch.rand(x.shape, generator=generator) >= self.dropout
                    x = x * keep / (1 - self.dropout)
        mean, log_sigma = x.chunk(2, dim=-1)
        return mean, log_sigma.clamp(*LOG_SIGMA)


class MlpEnsemble:
    """Means and uncertainties from an ensemble; see the module."""

    kind: ClassVar[str] = "mlp"
    Settings: ClassVar[Any] = EnsembleSettings

    def __init__(self, network: _Network) -> None:
        self._network = network.eval()

    @classmethod
    def fit(cls, data: HeadData, settings: EnsembleSettings, seed: int, report: Report | None = None) -> Fitted:
        """Train on scaled inputs and labels.

        Parameters
        ----------
        data : HeadData
        settings : EnsembleSettings
        seed : int
        report : callable, optional
            Receives step and mean validation loss.

        Returns
        -------
        Fitted
            With out-of-fold means and sigmas.

        Raises
        ------
        TrainingError
            When the loss is not finite.
        """
        n_folds = int(data.fold.max()) + 1
        left_out = np.repeat(np.arange(n_folds), settings.members_per_fold)  # (M,)
        generator = torch.Generator().manual_seed(seed)
        widths = [data.x.shape[1], *settings.hidden, 2 * data.y.shape[1]]
        network = _Network(len(left_out), widths, settings.dropout, generator)
        x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
        label_var = torch.from_numpy(data.y_err**2)
        noise = None if data.x_err is None else torch.from_numpy(data.x_err) * settings.noise
        rows = [torch.from_numpy(np.flatnonzero(data.fold != f)) for f in left_out]
        held = [torch.from_numpy(np.flatnonzero(data.fold == f)) for f in left_out]
        optimiser = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=settings.weight_decay)
        best_loss = torch.full((len(left_out),), math.inf)
        best = [p.detach().clone() for p in network.parameters()]
        every = max(1, settings.steps // 30)
        for step in range(settings.steps):
            for group in optimiser.param_groups:
                group["lr"] = settings.lr * pace(step, settings.steps)
            chosen = torch.stack([r[torch.randint(len(r), (settings.batch_size,), generator=generator)] for r in rows])
            batch = x[chosen]  # (M, B, d)
            if noise is not None:
                batch = batch + noise[chosen] * torch.randn(batch.shape, generator=generator)
            mean, log_sigma = network(batch, generator)
            loss = robust_loss(mean, log_sigma, y[chosen], label_var[chosen], settings)  # (M,)
            if not torch.isfinite(loss).all():
                raise TrainingError(f"the loss is not finite at step {step}; look for wild values among inputs and labels")
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()
            clip_members([p.grad for p in network.parameters() if p.grad is not None], 1.0)
            optimiser.step()
            if (step + 1) % every == 0 or step + 1 == settings.steps:
                network.eval()
                with torch.no_grad():
                    now = torch.stack([absolute_error(_member(network, m, x[h])[0], y[h]) for m, h in enumerate(held)])
                    better = now < best_loss
                    best_loss = torch.where(better, now, best_loss)
                    for kept, p in zip(best, network.parameters(), strict=True):
                        kept[better] = p[better]
                if report is not None:
                    report(step + 1, float(now.mean()))
        with torch.no_grad():
            for kept, p in zip(best, network.parameters(), strict=True):
                p.copy_(kept)
        return cls(network).judged(data, left_out)

    def judged(self, data: HeadData, left_out: np.ndarray) -> Fitted:
        """Return the ensemble with its out-of-fold predictions; `left_out` (M,): the fold that a member has not seen."""
        x = torch.from_numpy(data.x)
        n_folds = int(left_out.max()) + 1
        per_fold = len(left_out) // n_folds
        mean, sigma = np.empty_like(data.y), np.empty_like(data.y)
        means, sigmas = (np.empty((per_fold, *data.y.shape), np.float32) for _ in range(2))
        for f in range(n_folds):
            h, members = np.flatnonzero(data.fold == f), np.flatnonzero(left_out == f)
            mean[h], sigma[h] = self._mixture(x[h], members)
            for r, member in enumerate(members):
                means[r, h], sigmas[r, h] = self._mixture(x[h], np.array([member]))
        return Fitted(self, mean, sigma, Alone(means, sigmas, len(left_out)))

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sigmas (n, L), float32, of scaled inputs (n, d): those of the members' mixture."""
        if not len(x):
            empty = np.empty((0, self._network.biases[-1].shape[-1] // 2), np.float32)
            return empty, empty
        return self._mixture(torch.from_numpy(x), np.arange(len(self._network.weights[0])))

    def _mixture(self, x: Tensor, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and sigma (n, L): noise, and how far the members' means are apart."""
        with torch.no_grad():
            outputs = torch.empty(len(members), len(x), self._network.biases[-1].shape[-1])  # (M, n, 2L)
            for start in range(0, len(x), _ROWS):
                _run(self._network, members.tolist(), x[start : start + _ROWS], outputs[:, start : start + _ROWS])
            means, log_sigma = outputs.chunk(2, dim=-1)  # (M, n, L)
            noise = (2 * log_sigma.clamp(*LOG_SIGMA)).exp().mean(dim=0)
            spread = means.var(dim=0, correction=0)
            return means.mean(dim=0).numpy(), (noise + spread).sqrt().numpy()

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the weights by name."""
        return {name: value.numpy() for name, value in self._network.state_dict().items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: EnsembleSettings) -> MlpEnsemble:
        """Rebuild from `tensors`."""
        weights = [tensors[f"weights.{i}"] for i in range(len(settings.hidden) + 1)]
        widths = [w.shape[1] for w in weights] + [weights[-1].shape[2]]
        network = _Network(len(weights[0]), widths, settings.dropout, torch.Generator())
        network.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
        return cls(network)


def _member(network: _Network, m: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run one member on (n, d) without its siblings; return mean and log sigma (n, L)."""
    output = torch.empty(1, len(x), network.biases[-1].shape[-1])
    _run(network, [m], x, output)
    mean, log_sigma = output[0].chunk(2, dim=-1)
    return mean, log_sigma.clamp(*LOG_SIGMA)


def _run(network: _Network, members: list[int], x: Tensor, outputs: Tensor) -> None:
    """Write what members make of (n, d) into (M, n, 2L), product after product, in memory that is used again."""
    last = len(network.weights) - 1
    layers = list(zip(network.weights, network.biases, strict=True))
    hidden = [torch.empty(len(x), weight.shape[-1]) for weight, _ in layers[:-1]]
    for m, output in zip(members, outputs, strict=True):
        at = x
        for i, (weight, bias) in enumerate(layers):
            at = torch.addmm(bias[m], at, weight[m], out=output if i == last else hidden[i])
            if i < last:
                at.relu_()


def pace(step: int, steps: int) -> float:
    """Return the learning rate's share of its peak: a short rise, then half a cosine down."""
    return min(1.0, (step + 1) / max(1, 0.05 * steps)) * (1 + math.cos(math.pi * step / steps)) / 2


def robust_loss(mean: Tensor, log_sigma: Tensor, y: Tensor, label_var: Tensor, settings: EnsembleSettings) -> Tensor:
    """Return the robust, variance-weighted negative log likelihood of each member (M,); labels that are NaN do not count."""
    known = torch.isfinite(y)
    var = (2 * log_sigma).exp() + label_var.nan_to_num(0.0)
    z2 = (y.nan_to_num(0.0) - mean) ** 2 / var
    robust = settings.tail**2 * ((1 + z2 / settings.tail**2).sqrt() - 1)  # z2 / 2 for small residuals
    each = (robust + var.log() / 2) * var.detach() ** settings.beta * known
    return each.sum((1, 2)) / known.sum((1, 2)).clamp_min(1)


def absolute_error(mean: Tensor, y: Tensor) -> Tensor:
    """Return the mean absolute error. It stops a training: the likelihood turns upwards long before the means get worse."""
    known = torch.isfinite(y)
    return ((y.nan_to_num(0.0) - mean).abs() * known).sum() / known.sum().clamp_min(1)


def clip_members(gradients: list[Tensor], most: float) -> None:
    """Clip each member's part of gradients (M, ...) on its own, so that members do not disturb one another."""
    norm = sum((g**2).flatten(1).sum(1) for g in gradients) ** 0.5  # (M,)
    factor = (most / norm.clamp_min(1e-12)).clamp_max(1.0)
    for g in gradients:
        g.mul_(factor.view(-1, *[1] * (g.ndim - 1)))
