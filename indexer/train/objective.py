"""What the encoder is trained to do: reach the targets from noisy views, keep two views of a star together, fill in gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indexer.train.data import TrainingSet
from indexer.train.views import ViewSettings, noisy_views
from specdb.encoders.clip import ClipModel
from specdb.encoders.transformer import masked_reconstruction_loss

__all__ = ["MODALITY", "Objective", "ObjectiveSettings", "same_star_loss"]

MODALITY = "lamost_lrs"


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights of the losses.

    Attributes
    ----------
    target, contrastive, masked : float
        Weight of each loss; 0 leaves it out.
    sharpness : float
        Factor on cosine similarities in the contrastive loss, in units of one over the targets' variance: the typical
        difference of two stars costs this much.
    masked_share : float
        Share of the batch that masked modelling is done on.
    """

    target: float = 1.0
    contrastive: float = 0.05
    masked: float = 0.1
    sharpness: float = 20.0
    masked_share: float = 0.25


def same_star_loss(a: Tensor, b: Tensor, star: Tensor, multiplier: float) -> Tensor:
    """Return the symmetric cross entropy of two views (B, d), unit vectors; rows of the same star are no negatives."""
    logits = multiplier * a @ b.T  # (B, B)
    own = torch.eye(len(a), dtype=torch.bool)
    logits = logits.masked_fill((star[:, None] == star) & ~own, -torch.inf)
    index = torch.arange(len(a))
    return (F.cross_entropy(logits, index) + F.cross_entropy(logits.T, index)) / 2


class Objective:
    """Draws batches of star pairs and returns their losses.

    The second view of a pair is made of another visit of the star where there is one, else of the same spectrum.

    Parameters
    ----------
    data : TrainingSet
        Training spectra only.
    target : ndarray (n, d), float32
        Unit vectors (`indexer.train.targets`); d is at most the dimension of the embedding.
    dim : int
        Dimension of the embedding. The targets are turned into it by a fixed random rotation, so that no coordinate of the
        embedding is special.
    settings, views
    batch_size : int
        Number of views in a step.
    generator : torch.Generator
        Of the rotation only.
    """

    def __init__(
        self,
        data: TrainingSet,
        target: np.ndarray,
        dim: int,
        settings: ObjectiveSettings,
        views: ViewSettings,
        batch_size: int,
        generator: torch.Generator,
    ) -> None:
        self.settings, self.views, self.n_pairs = settings, views, batch_size // 2
        self.flux, self.sigma = torch.from_numpy(data.flux), torch.from_numpy(data.sigma)
        self.star = torch.from_numpy(data.star)
        rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0][: target.shape[1]]
        self.target = torch.from_numpy(target) @ rotation  # (n, dim)
        self.variance = float((self.target - self.target.mean(dim=0)).square().sum(dim=1).mean())
        order = torch.from_numpy(np.argsort(data.star, kind="stable"))
        _, visits = np.unique(data.star, return_counts=True)
        self.order, self.visits = order, torch.from_numpy(visits)
        self.first = torch.cumsum(self.visits, 0) - self.visits

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw stars and make two views of each; the first half of the rows are the first views.

        Returns
        -------
        dict of Tensor
            ``rows`` (B,) of the training set and ``views`` (B, n_pixels).
        """
        star = torch.randperm(len(self.visits), generator=generator)[: self.n_pairs]
        visits = self.visits[star]
        one = (torch.rand(len(star), generator=generator) * visits).long()
        step = 1 + (torch.rand(len(star), generator=generator) * (visits - 1)).long()
        other = torch.where(visits > 1, (one + step) % visits, one)
        rows = self.order[torch.cat([self.first[star] + one, self.first[star] + other])]
        return {"rows": rows, "views": noisy_views(self.flux[rows], self.sigma[rows], self.views, generator)}

    def losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return ``total`` and the losses it is the weighted sum of, for a `ClipModel`."""
        assert isinstance(model, ClipModel)
        s, rows, views = self.settings, batch["rows"], batch["views"]
        unit = F.normalize(model.embed(views, MODALITY)["shared"], dim=1)  # (B, d)
        losses: dict[str, Tensor] = {}
        if s.target:
            losses["target"] = (unit - self.target[rows]).square().sum(dim=1).mean() / self.variance
        if s.contrastive:
            n = len(rows) // 2
            losses["contrastive"] = same_star_loss(unit[:n], unit[n:], self.star[rows[:n]], s.sharpness / self.variance)
        if s.masked:
            backbone = model.lamost_lrs_encoder.backbone
            tokens = backbone.tokens(views[: max(1, int(s.masked_share * len(views)))])
            mask = backbone.random_mask(len(tokens), generator)
            losses["masked"] = masked_reconstruction_loss(backbone.reconstruct(backbone(tokens, mask)), tokens, mask)
        total = torch.stack([getattr(s, name) * loss for name, loss in losses.items()]).sum()
        return {"total": total, **losses}
