"""The loss around a solution, in two random directions: wide valleys transfer, narrow ones have learnt a survey by heart.

Li et al. (2018, NeurIPS, arXiv 1712.09913): each neuron's direction is scaled to the length of its weights, so that
networks with larger weights do not look flatter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from specdb.errors import InputError
from specdb.heads.head import Head

__all__ = ["Landscape", "loss_landscape"]


@dataclass(frozen=True)
class Landscape:
    """Loss over two directions.

    Attributes
    ----------
    step : ndarray (k,), float64
        Coordinates along both directions, in lengths of the weights; 0 is the solution.
    loss : ndarray (k, k), float64
        Mean squared error in units of the labels' variance; first index along the first direction.
    """

    step: np.ndarray
    loss: np.ndarray


def loss_landscape(
    heads: Mapping[str, Head], x: np.ndarray, y: np.ndarray, *, reach: float = 1.0, steps: int = 15, seed: int = 0
) -> dict[str, Landscape]:
    """Return the landscape around the first member of each head, in the same random directions for all.

    Parameters
    ----------
    heads : mapping of name to Head
        ``mlp`` heads of one shape, with the same labels.
    x : ndarray (n, d), float32
        Inputs; a few hundred stars are enough.
    y : ndarray (n, L)
        Labels; NaN where there is none.
    reach : float
        How far to go, in lengths of the weights.
    steps : int
        Points along each direction, odd so that the solution is among them.
    seed : int

    Raises
    ------
    InputError
        For heads that are no `mlp`, or an even number of steps.
    """
    if steps < 3 or steps % 2 == 0:
        raise InputError(f"steps is {steps}; give an odd number of at least 3, so that the solution itself is on the grid")
    for name, head in heads.items():
        if head.card.config.kind != "mlp":
            raise InputError(f"{name} is a {head.card.config.kind} head; a loss landscape needs the weights of an mlp head")
    step = np.linspace(-reach, reach, steps)
    return {name: Landscape(step, _grid(head, x, y, step, seed)) for name, head in heads.items()}


def _grid(head: Head, x: np.ndarray, y: np.ndarray, step: np.ndarray, seed: int) -> np.ndarray:
    tensors = head.model.tensors()
    depth = sum(name.startswith("weights.") for name in tensors)
    weights = [torch.from_numpy(tensors[f"weights.{i}"][0]) for i in range(depth)]  # (in, out) of the first member
    biases = [torch.from_numpy(tensors[f"biases.{i}"][0, 0]) for i in range(depth)]
    generator = torch.Generator().manual_seed(seed)
    first, second = ([_filter_normalised(w, generator) for w in weights] for _ in range(2))
    z = torch.from_numpy(head.inputs(x))
    spread = np.nanstd(y, axis=0)
    loss = np.empty((len(step), len(step)))
    with torch.no_grad():
        for i, a in enumerate(step.tolist()):
            for j, b in enumerate(step.tolist()):
                moved = [w + a * u + b * v for w, u, v in zip(weights, first, second, strict=True)]
                mean = _run(z, moved, biases).chunk(2, dim=-1)[0].numpy()
                predicted, _ = head.labels.inverse(mean, np.ones_like(mean))
                loss[i, j] = np.nanmean(((predicted - y) / spread) ** 2)
    return loss


def _filter_normalised(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random direction (in, out) whose columns, one per neuron, are as long as those of the weights."""
    direction = torch.randn(weight.shape, generator=generator)
    return direction * weight.norm(dim=0) / direction.norm(dim=0)


def _run(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = torch.addmm(bias, x, weight)
        if i < len(weights) - 1:
            x = x.relu_()
    return x
