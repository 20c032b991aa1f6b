"""What each published model is trained to do: fill in what is hidden, reproduce its input, agree with another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indexer.evaluate.measures import partner_ranks, recalls
from indexer.train.runtime import Runtime
from indexer.train.streams import Arrays, Stream
from specdb.encoders.clip import ClipModel
from specdb.encoders.config import ClipConfig
from specdb.encoders.models import Model
from specdb.encoders.transformer import MaskedTransformer
from specdb.encoders.xp import XpAutoencoder

__all__ = ["Alignment", "Autoencoding", "MaskedModelling", "Task", "hidden_features_loss", "make_task"]

_VALIDATION_SEED = 1


class Task:
    """Batches of a stream and held-out spectra; subclasses say what the losses are.

    Parameters
    ----------
    stream : Stream
    held_out : Arrays
    """

    def __init__(self, stream: Stream, held_out: Arrays) -> None:
        self.stream = stream
        self.held_out = {name: torch.from_numpy(np.ascontiguousarray(flux)) for name, flux in held_out.items()}

    def position(self) -> Tensor:
        """Return the position of the stream."""
        return self.stream.position()

    def seek(self, position: Tensor) -> None:
        """Go to a position of the stream."""
        self.stream.seek(position)

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return this process's spectra of the next batch: modality -> flux (B, n_grid)."""
        return self.stream.next()

    def losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return ``total`` and what it is made of."""
        raise NotImplementedError

    def validation_losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of held-out spectra, which every process computes by itself."""
        return self.losses(model, batch, generator)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Return the mean losses over the held-out spectra; what is random in them is the same each time."""
        generator = torch.Generator().manual_seed(_VALIDATION_SEED)
        sums: dict[str, float] = {}
        n = len(next(iter(self.held_out.values())))
        for batch in self._held_out_batches(next(model.parameters()).device):
            share = len(next(iter(batch.values()))) / n
            for name, loss in self.validation_losses(model, batch, generator).items():
                sums[name] = sums.get(name, 0.0) + share * float(loss)
        return sums

    def _held_out_batches(self, device: torch.device) -> Iterator[dict[str, Tensor]]:
        n = len(next(iter(self.held_out.values())))
        # Contrastive losses depend on the number of rows that are compared: all batches have the same, to one row.
        for rows in torch.arange(n).tensor_split(-(-n // self.stream.batch_size)):
            yield {name: flux[rows].to(device) for name, flux in self.held_out.items()}


class MaskedModelling(Task):
    """Hide runs of tokens and predict them (`lrs_mt`, `xp_mt`)."""

    def __init__(self, stream: Stream, held_out: Arrays, model: MaskedTransformer) -> None:
        super().__init__(stream, held_out)
        self._random_mask = model.random_mask
        (self.modality,) = model.modalities

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return spectra and ``mask`` (B, T); the masks of all processes are drawn, and each keeps its own."""
        mask = self._random_mask(self.stream.batch_size, generator)
        return super().batch(generator) | {"mask": mask[self.stream.rows()]}

    def losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the error of the hidden features."""
        assert isinstance(model, MaskedTransformer)
        tokens = model.tokens(batch[self.modality])  # (B, T, F)
        return {"total": hidden_features_loss(model.reconstruct(model(tokens, batch["mask"])), tokens, batch["mask"])}

    def validation_losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses under masks that are the same at every validation."""
        flux = batch[self.modality]
        return self.losses(model, batch | {"mask": self._random_mask(len(flux), generator).to(flux.device)}, generator)


def hidden_features_loss(reconstruction: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared error over the features that hiding has changed.

    As in the public code of SpecCLIP: features that are zero anyway (the marker of an LRS section, the places of the
    statistics in an XP sample) do not count.

    Parameters
    ----------
    reconstruction, tokens : Tensor (B, T, F)
    mask : Tensor (B, T), bool
        True where a token was hidden.
    """
    changed = mask[..., None] & (tokens != 0)  # (B, T, F)
    return ((reconstruction - tokens).square() * changed).sum() / changed.sum().clamp_min(1)


class Autoencoding(Task):
    """Reproduce the input, statistics and all (`xp_oae`): mean squared error."""

    def losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the error of the reconstruction."""
        assert isinstance(model, XpAutoencoder)
        tokens = model.tokens(batch["gaia_xp"])  # (B, n_pixels + 2)
        return {"total": F.mse_loss(model.reconstruct(model(tokens)), tokens)}


class Alignment(Task):
    """Bring the two spectra of a star together, and reconstruct and predict them where the variant does."""

    def __init__(self, stream: Stream, held_out: Arrays, gather: Callable[[Tensor], Tensor]) -> None:
        super().__init__(stream, held_out)
        self._gather = gather

    def losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the published losses; the contrastive one compares the pairs of all processes."""
        assert isinstance(model, ClipModel)
        return model.losses(batch["lamost_lrs"], batch["gaia_xp"], self._gather)

    def validation_losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the losses of held-out pairs."""
        assert isinstance(model, ClipModel)
        return model.losses(batch["lamost_lrs"], batch["gaia_xp"])

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Add the recall of cross-modal search among the held-out pairs, the mean of both ways."""
        assert isinstance(model, ClipModel)
        figures = super().validate(model)
        parts: dict[str, list[np.ndarray]] = {"lamost_lrs": [], "gaia_xp": []}
        for batch in self._held_out_batches(next(model.parameters()).device):
            for modality, flux in batch.items():
                parts[modality].append(model.embed(flux, modality)["shared"].float().cpu().numpy())
        lrs, xp = (np.concatenate(parts[modality]) for modality in ("lamost_lrs", "gaia_xp"))
        ways = [recalls(partner_ranks(a, b)) for a, b in ((lrs, xp), (xp, lrs))]
        for one, other in zip(*ways, strict=True):
            figures[f"recall@{one.k}"] = (one.value + other.value) / 2
        return figures


def make_task(model: Model, stream: Stream, held_out: Arrays, runtime: Runtime) -> Task:
    """Return what a model is trained to do; parts that it does not need for it are frozen."""
    if isinstance(model, MaskedTransformer):
        return MaskedModelling(stream, held_out, model)
    if isinstance(model, XpAutoencoder):
        return Autoencoding(stream, held_out)
    assert isinstance(model, ClipModel) and isinstance(model.config, ClipConfig)
    model.lamost_lrs_encoder.backbone.head.requires_grad_(False)
    xp = model.gaia_xp_encoder.backbone
    for part in (xp.bottleneck_up, xp.decoder_blocks, xp.output_proj):
        part.requires_grad_(False)
    return Alignment(stream, held_out, runtime.gather)
