"""Muon for matrices: momentum whose update is made orthogonal, so that all directions of a weight matrix learn equally fast.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". On this problem it needs about a third of the
steps of AdamW.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from specdb.encoders.clip import ClipModel
from specdb.encoders.transformer import standardise
from specdb.encoders.xp import XpAutoencoder

__all__ = ["Muon", "initialise", "initialise_input", "initialise_outputs", "make_adamw", "make_optimisers", "orthogonalise"]

#: Coefficients of the quintic iteration x -> a x + b x^3 + c x^5 of the singular values (same source).
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return nearly U V' of a matrix U S V': singular values between about 0.7 and 1.2, by Newton-Schulz iteration."""
    a, b, c = _QUINTIC
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for 2-D parameters.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        Matrices only.
    lr, momentum : float
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update the parameters from their gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                average = state["momentum"].mul_(group["momentum"]).add_(p.grad)
                update = orthogonalise(p.grad + group["momentum"] * average)
                p.add_(update, alpha=-group["lr"] * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)


def make_optimisers(model: nn.Module, lr: float, matrix_lr: float) -> tuple[torch.optim.AdamW, Muon]:
    """Return AdamW for biases, norms, tables, queries and decoders, and Muon for the matrices of the other linear maps.

    To make the large matrices of decoders orthogonal would cost more than all else, and they learn well enough without.
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        if p.requires_grad:
            table = "position_embed" in name or "lrs_decoder" in name or "xp_decoder" in name or "cross_decoder" in name
            (matrices if p.ndim == 2 and not table else others).append(p)
    return torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0), Muon(matrices, lr=matrix_lr)


def make_adamw(model: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """Return AdamW for all parameters that are trained, with one weight decay for all, as the published models had it."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, betas=betas, weight_decay=weight_decay)


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Start a small transformer: matrices with variance 1 / fan-in, those that write to the residual stream a quarter of it.

    The published models start from N(0, 0.02), which suits their width of 768 but lets a narrow one begin nearly dead.
    """
    for name, p in model.named_parameters():
        if name.endswith("query"):
            p.normal_(generator=generator)
        elif "position_embed" in name:
            p.normal_(std=0.5, generator=generator)
        elif p.ndim == 2:
            residual = any(part in name for part in ("out_proj", "mlp.2", "decoder"))
            p.normal_(std=(0.5 if residual else 1.0) * p.shape[1] ** -0.5, generator=generator)
        elif name.endswith("bias"):
            p.zero_()


@torch.no_grad()
def initialise_outputs(model: ClipModel, lamost_lrs: Tensor, gaia_xp: Tensor) -> None:
    """Let the decoders of a split model begin with the mean of spectra (n, n_pixels) as their bias."""
    means = {
        "lamost_lrs_decoder": standardise(lamost_lrs)[2].mean(dim=0),
        "lamost_lrs_cross_decoder": lamost_lrs.mean(dim=0),
        "gaia_xp_decoder": gaia_xp.mean(dim=0),
        "gaia_xp_cross_decoder": gaia_xp.mean(dim=0),
    }
    for name, mean in means.items():
        layers = [m for m in model.get_submodule(name).modules() if isinstance(m, nn.Linear)]
        layers[-1].bias.copy_(mean)


@torch.no_grad()
def initialise_input(autoencoder: XpAutoencoder, flux: Tensor, generator: torch.Generator, n_components: int = 64) -> None:
    """Start the first layer of an XP auto-encoder from the principal components of spectra (n, n_pixels).

    Samples of XP are so strongly correlated that a layer which starts at random sees hardly more than the colour. Here it
    sees components of equal variance, mixed at random; those of less than 0.02 (standardised flux) keep their size.
    """
    tokens = autoencoder.tokens(flux)
    mean = tokens.mean(dim=0)
    _, values, axes = torch.linalg.svd(tokens - mean, full_matrices=False)
    n = min(n_components, len(values))
    scaled = axes[:n] / (values[:n] / len(flux) ** 0.5).clamp_min(0.02)[:, None]  # (n, n_pixels + 2)
    layer = autoencoder.input_proj
    mixed = torch.randn(layer.out_features, n, generator=generator) / n**0.5 @ scaled
    layer.weight.copy_(mixed)
    layer.bias.copy_(-mixed @ mean)
