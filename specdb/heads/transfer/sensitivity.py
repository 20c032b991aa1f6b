"""Which pixels of a spectrum a label rests on: the gradient of the label by the flux, averaged over stars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from specdb.encoders import Encoder
from specdb.errors import InputError, ProvenanceError
from specdb.heads.head import Head
from specdb.heads.kinds import HeadModel

__all__ = ["Sensitivity", "line_sensitivity"]

_Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Sensitivity:
    """Gradients of labels by normalised flux.

    Attributes
    ----------
    labels : tuple of str
    mean : ndarray (L, n_pix), float64
        Averaged over stars, in the label's unit per unit of normalised flux.
    error : ndarray (L, n_pix), float64
        Standard error of the mean.
    """

    labels: tuple[str, ...]
    mean: np.ndarray
    error: np.ndarray


def line_sensitivity(
    head: Head, flux: np.ndarray, *, encoder: Encoder | None = None, modality: str = "", batch_size: int = 32
) -> Sensitivity:
    """Average a head's gradients over spectra; those of a head on embeddings are traced back through the encoder.

    Parameters
    ----------
    head : Head
        Of kind ``mlp``, ``ridge`` or ``residual``.
    flux : ndarray (n, n_pix), float32
        Prepared spectra; some hundred are enough.
    encoder : Encoder, optional
        That made the embeddings, for a head on embeddings.
    modality : str
        What the encoder takes the spectra for; by default the head's.
    batch_size : int

    Raises
    ------
    InputError
        For a kind of head without gradients, or a head on embeddings without an encoder.
    ProvenanceError
        For another encoder than the head's.
    """
    card = head.card
    model = _differentiable(head.model)
    read = _reader(head, encoder, modality or card.modality)
    centre, scatter = (torch.from_numpy(a) for a in (head.inputs.mean, head.inputs.scatter))
    gradients = []
    for start in range(0, len(flux), batch_size):
        pixels = torch.tensor(flux[start : start + batch_size], requires_grad=True)  # (B, n_pix)
        mean = model((read(pixels) - centre) / scatter)  # (B, L), scaled labels
        each = [torch.autograd.grad(mean[:, i].sum(), pixels, retain_graph=True)[0].numpy() for i in range(mean.shape[1])]
        label, _ = head.labels.inverse(mean.detach().numpy(), np.ones(mean.shape))
        slope = 1 / head.labels.errors(label, np.ones(mean.shape))
        gradients.append(np.stack(each) * slope.T[:, :, None])  # (L, B, n_pix)
    every = np.concatenate(gradients, axis=1)
    error = every.std(axis=1) / np.sqrt(every.shape[1])
    return Sensitivity(head.label_names, every.mean(axis=1), error)


def _reader(head: Head, encoder: Encoder | None, modality: str) -> _Run:
    """Return what maps pixels (B, n_pix) to the head's inputs (B, d)."""
    card = head.card
    if card.config.inputs == "pixels":
        return lambda pixels: pixels
    if encoder is None:
        raise InputError(f"head {card.name} reads embeddings; give the encoder, so that gradients reach the spectrum")
    if encoder.weight_hash != card.weight_hash:
        raise ProvenanceError(
            f"head {card.name} reads embeddings with weights {card.weight_hash[:16]}, {encoder.name} has "
            f"{encoder.weight_hash[:16]}; give the encoder that made them"
        )
    model: Any = encoder.model

    def read(pixels: Tensor) -> Tensor:
        embeddings = model.embed(pixels, modality)
        if card.config.inputs == "both":
            return torch.cat([embeddings["shared"], embeddings["private"]], dim=1)
        if card.config.inputs == "private":
            return embeddings["private"]
        return functional.normalize(embeddings["shared"], dim=1)

    return read


def _differentiable(model: HeadModel) -> _Run:
    """Return a model as a function of scaled inputs (B, d) to scaled labels (B, L) that torch can differentiate."""
    arrays: dict[str, Any] = {name: torch.from_numpy(np.asarray(value)) for name, value in model.tensors().items()}
    if model.kind == "ridge":
        return lambda x: x @ arrays["weights"] + arrays["offset"]
    if model.kind == "residual":
        source, correction = (_differentiable(getattr(model, part)) for part in ("source", "correction"))

        def corrected(x: Tensor) -> Tensor:
            base = source(x)
            change = correction(torch.cat([x, base], dim=1))
            return base + arrays["offset"] + arrays["share"] * arrays["scale"] * change

        return corrected
    if model.kind == "mlp":
        depth = sum(name.startswith("weights.") for name in arrays)

        def average(x: Tensor) -> Tensor:
            members = x.expand(len(arrays["weights.0"]), *x.shape)  # (M, B, d)
            for i in range(depth):
                members = torch.baddbmm(arrays[f"biases.{i}"], members, arrays[f"weights.{i}"])
                if i < depth - 1:
                    members = members.relu()
            return members.chunk(2, dim=-1)[0].mean(dim=0)

        return average
    raise InputError(f"a {model.kind} head has no gradients; take an mlp, ridge or residual head")
