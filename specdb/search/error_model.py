"""How far a translated spectrum may be from the true one: the error model that is calibrated on held-out pairs.

The standard deviation of sample j of the spectrum predicted from spectrum x is

    s_j(x)^2 = exp(2 phi(x) W_j) + a_j^2 d_j(x)^2

d_j is the spread of an ensemble of thinned decoders (dropout with the same masks for all spectra: Gal & Ghahramani 2016,
ICML 48, 1050), which grows where the decoder was taught little; the first term is the scatter that remains, a log-linear
function of the S/N of x and of where its embedding lies. W and a are fitted by maximum likelihood on pairs that the encoder
has not seen, by `indexer.train.translation`; then s is stretched so that intervals hold what they say (conformal
calibration: Lei et al. 2018, J. Am. Stat. Assoc. 113, 1094).

The model is kept in one file beside the weights of the encoder and belongs to exactly these weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from specdb.errors import CheckpointError
from specdb.store.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["ERRORS_FILE", "ErrorModel", "Prediction", "decode", "load_error_models", "save_error_models"]

ERRORS_FILE = "translation.safetensors"
FORMAT_VERSION = 1

#: S/N of a spectrum without errors is taken as this quantile of the calibration's: it may be a bad one.
_UNKNOWN_SNR = 0.25


@dataclass(frozen=True)
class Prediction:
    """What decoders make of embeddings, before units: arrays (m, n_grid), float32."""

    flux: np.ndarray
    spread: np.ndarray


@dataclass(frozen=True)
class ErrorModel:
    """The calibrated error of one direction of translation.

    Attributes
    ----------
    weights : ndarray (f, n_grid), float32
        W above, for the features of `features`.
    spread_factor : ndarray (n_grid,), float32
        a above.
    mean, axes : ndarray (d,) and (d, p), float32
        Origin and directions of the unit embedding that enter the features, scaled to unit variance.
    snr : ndarray (3,), float32
        Median S/N per pixel of the calibration's spectra at its 0.5, 25 and 99.5 %: the S/N is clipped to these ends, and
        the middle one stands in where a spectrum has no errors.
    stretch : ndarray (2, n_grid), float32
        Factors on s for half-widths of the intervals that hold 68.27 % and 95 %.
    members : int
        Thinned decoders in the ensemble.
    dropout : float
        Share of units each of them lacks.
    facts : dict
        What it was calibrated on, and the coverage it had on other pairs.
    """

    weights: np.ndarray
    spread_factor: np.ndarray
    mean: np.ndarray
    axes: np.ndarray
    snr: np.ndarray
    stretch: np.ndarray
    members: int
    dropout: float
    facts: dict[str, Any] = field(default_factory=dict)

    def features(self, shared: np.ndarray, snr: np.ndarray) -> np.ndarray:
        """Return phi (m, f), float32: 1, ln S/N and its square, coordinates of the embedding.

        Parameters
        ----------
        shared : ndarray (m, d)
            Shared embeddings of any length.
        snr : ndarray (m,)
            Median S/N per pixel; NaN where the spectrum has no errors.
        """
        low, unknown, high = self.snr
        known = np.where(np.isfinite(snr), np.clip(snr, low, high), unknown)
        x = np.log(known / np.sqrt(low * high)) / np.log(high / low)
        unit = shared / np.linalg.norm(shared, axis=1, keepdims=True)
        place = np.clip((unit - self.mean) @ self.axes, -4, 4)
        return np.column_stack([np.ones(len(x)), x, x**2, place]).astype(np.float32)

    def scale(self, shared: np.ndarray, snr: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Return s (m, n_grid), float32, before it is stretched."""
        scatter = np.exp(2 * np.clip(self.features(shared, snr) @ self.weights, -20, 10))
        return np.sqrt(scatter + (self.spread_factor * spread) ** 2).astype(np.float32)

    def half_widths(self, shared: np.ndarray, snr: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return half the width of the 68.27 % and of the 95 % interval: two ndarrays (m, n_grid), float32."""
        s = self.scale(shared, snr, spread)
        return s * self.stretch[0], s * self.stretch[1]


def decode(decoder: nn.Module, shared: np.ndarray, members: int, dropout: float, batch: int = 512) -> Prediction:
    """Decode embeddings, and measure how much that depends on single units of the decoder.

    Parameters
    ----------
    decoder : specdb.encoders.heads.VectorDecoder
        A cross-modal decoder in evaluation mode.
    shared : ndarray (m, d), float32
        Shared embeddings as the encoder gives them, not normalised.
    members : int
        Thinned decoders; their masks are drawn from a fixed seed and are the same for all spectra, so that a spectrum's
        numbers do not depend on its company. Below 2 the spread is 0.
    dropout : float
        Share of hidden units each of them lacks.
    batch : int
        Embeddings per pass.
    """
    import torch

    layers = list(decoder.decoder)  # type: ignore[arg-type]
    device = next(decoder.parameters()).device
    masks = _masks(layers, members if members > 1 else 0, dropout)
    flux, spread = [], []
    with torch.inference_mode():
        for start in range(0, len(shared), batch):
            x = torch.tensor(shared[start : start + batch], dtype=torch.float32, device=device)  # (B, d)
            flux.append(_through(layers, x, []).cpu().numpy())
            total = squares = torch.zeros((), device=device)
            for member in masks:
                shift = _through(layers, x, [m.to(device) for m in member]) - torch.as_tensor(flux[-1], device=device)
                total, squares = total + shift, squares + shift**2
            n = max(len(masks), 1)
            variance = (squares - total**2 / n) / max(n - 1, 1)  # (B, n_grid) or, without members, ()
            spread.append(np.broadcast_to(variance.clamp(min=0).sqrt().cpu().numpy(), flux[-1].shape))
    return Prediction(np.concatenate(flux), np.concatenate(spread).astype(np.float32))


def _masks(layers: list[nn.Module], members: int, dropout: float) -> list[list[Tensor]]:
    """Return for each member one mask per dropout layer: 0, or 1 / (1 - dropout) for the units that stay."""
    import torch
    from torch import nn

    widths = [layer.num_features for layer in layers if isinstance(layer, nn.BatchNorm1d)]
    generator = torch.Generator().manual_seed(0)
    return [
        [(torch.rand(width, generator=generator) >= dropout).float() / (1 - dropout) for width in widths]
        for _ in range(members)
    ]


def _through(layers: list[nn.Module], x: Tensor, masks: list[Tensor]) -> Tensor:
    from torch import nn

    left = iter(masks)
    for layer in layers:
        if not isinstance(layer, nn.Dropout):
            x = layer(x)
        elif masks:
            x = x * next(left)
    return x


def save_error_models(folder: Path, weight_hash: str, models: dict[str, ErrorModel]) -> Path:
    """Write the error models of an encoder, by target modality, beside its weights; atomically.

    Parameters
    ----------
    folder : Path
        Folder of the encoder.
    weight_hash : str
        Of the weights that were calibrated.
    models : dict of modality to ErrorModel
    """
    import torch
    from safetensors.torch import save_file

    tensors, cards = {}, {}
    for target, model in models.items():
        for f in fields(model):
            value = getattr(model, f.name)
            if isinstance(value, np.ndarray):
                tensors[f"{target}/{f.name}"] = torch.from_numpy(np.ascontiguousarray(value, np.float32))
        cards[target] = {"members": model.members, "dropout": model.dropout, "facts": model.facts}
    header = {"format_version": FORMAT_VERSION, "weight_hash": weight_hash, "models": cards}
    path = folder / ERRORS_FILE
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"specdb": json.dumps(header, sort_keys=True)})
    return path


def load_error_models(folder: Path, weight_hash: str) -> dict[str, ErrorModel]:
    """Read the error models of an encoder by target modality; none where it has not been calibrated.

    Raises
    ------
    CheckpointError
        When the file is damaged, of a later version, or was calibrated for other weights.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / ERRORS_FILE
    if not path.exists():
        return {}
    again = f"`python -m indexer.train.translation --encoder {folder}` makes it anew"
    try:
        with safe_open(path, framework="np") as file:
            header = json.loads((file.metadata() or {})["specdb"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["format_version"] > FORMAT_VERSION:
            raise CheckpointError(f"{path} has format version {header['format_version']}; update specdb")
        if header["weight_hash"] != weight_hash:
            raise CheckpointError(
                f"{path} was calibrated for weights {header['weight_hash'][:16]}, not {weight_hash[:16]}; {again}"
            )
        return {
            target: ErrorModel(**_of(tensors, target), **card)  # type: ignore[arg-type]
            for target, card in header["models"].items()
        }
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is no error model of an encoder ({error!r}); {again}") from error


def _of(tensors: dict[str, np.ndarray], target: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{target}/"): value for name, value in tensors.items() if name.startswith(f"{target}/")}
