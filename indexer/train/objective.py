"""What the encoder is trained to do: tell pairs apart, reach the targets, keep visits of a star together, decode.

The shared embedding has three orthogonal parts. In the *common* part a star's LAMOST and XP spectra are brought together;
in a part of its own each modality keeps what its targets (`indexer.train.targets`) ask for beyond that, and has zero in the
part of the other. So the cosine across modalities sees the common part alone, while the cosine within a modality sees both,
and neither has to give way to the other. A fixed random rotation hides the parts: no coordinate is special.

Of simulated stars Teff, logg, [Fe/H] and [alpha/Fe] are known. A small network, thrown away afterwards, embeds them in the
common part, and both spectra are contrasted against it as well: it has no noise, and thousands of wrong answers cost next to
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from indexer.train.pairs import TrainingPairs
from indexer.train.views import ViewSettings, noisy_views
from specdb.encoders.clip import ClipModel
from specdb.encoders.transformer import masked_reconstruction_loss, standardise

__all__ = [
    "MODALITIES",
    "Guided",
    "MiniObjective",
    "ObjectiveSettings",
    "RealSpectra",
    "relative_error",
    "same_star_loss",
]

MODALITIES = ("lamost_lrs", "gaia_xp")

_LABEL_SPREAD = np.array([0.02, 0.4, 0.25, 0.2])  # log10 Teff, logg, [Fe/H], [alpha/Fe]: what matters about equally


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights of the losses and composition of a batch.

    Attributes
    ----------
    alignment, truth, target, visits, masked, reconstruction, prediction, length : float
        Weights.
        `length` keeps the root mean square of the shared embedding, before it is normalised, near one: what decoders like.
    multiplier, truth_multiplier : float
        Factor on inner products in the contrastive losses: across modalities, and with the truth.
    own : tuple of float
        Share of the squared length of the embedding that a modality keeps for its own part: LAMOST LRS, Gaia XP.
    sharpness : float
        Factor on cosine similarities of visits, in units of one over the targets' variance.
    real : tuple of int
        Real stars in a batch, two views each: LAMOST LRS, Gaia XP. The rest are pairs.
    more_xp, more_truth : int
        Further XP spectra of pairs, and labels, that serve as wrong answers; they cost little.
    masked_share : float
        Share of the LAMOST spectra of a batch that masked modelling is done on.
    least_flux : float
        Errors of XP flux are relative, but to no less than this (in units of the flux at 550 nm).
    """

    alignment: float = 1.0
    truth: float = 0.5
    target: float = 1.0
    visits: float = 0.05
    masked: float = 0.05
    reconstruction: float = 0.3
    prediction: float = 1.0
    length: float = 0.01
    multiplier: float = 40.0
    truth_multiplier: float = 32.0
    own: tuple[float, float] = (0.5, 0.3)
    sharpness: float = 20.0
    real: tuple[int, int] = (20, 32)
    more_xp: int = 128
    more_truth: int = 1024
    masked_share: float = 0.1
    least_flux: float = 0.05


def same_star_loss(a: Tensor, b: Tensor, star: Tensor, multiplier: float) -> Tensor:
    """Return the symmetric cross entropy of two views (B, d), unit vectors; rows of the same star are no negatives."""
    logits = multiplier * a @ b.T  # (B, B)
    own = torch.eye(len(a), dtype=torch.bool)
    logits = logits.masked_fill((star[:, None] == star) & ~own, -torch.inf)
    index = torch.arange(len(a))
    return (F.cross_entropy(logits, index) + F.cross_entropy(logits.T, index)) / 2


def relative_error(predicted: Tensor, flux: Tensor, least: float) -> Tensor:
    """Return the mean absolute error of spectra (B, n_pixels) relative to their flux, or to `least` where that is more."""
    return ((predicted - flux).abs() / flux.abs().clamp_min(least)).mean()


class Guided(nn.Module):
    """A model together with the network that embeds labels (n, 4): log10 Teff, logg, [Fe/H], [alpha/Fe], scaled."""

    def __init__(self, model: ClipModel, dim: int, width: int = 256) -> None:
        super().__init__()
        self.model = model
        n = len(_LABEL_SPREAD)
        self.truth = nn.Sequential(
            nn.Linear(n, width), nn.GELU(), nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim)
        )


class RealSpectra:
    """Unpaired spectra of one modality, with targets; draws stars and two visits of each.

    Parameters
    ----------
    flux, sigma : ndarray (n, n_pixels), float32
    target : ndarray (n, d), float32
        Unit vectors.
    star : ndarray (n,)
        Equal numbers are visits of one star.
    """

    def __init__(self, flux: np.ndarray, sigma: np.ndarray, target: np.ndarray, star: np.ndarray) -> None:
        self.flux, self.sigma = torch.from_numpy(flux), torch.from_numpy(sigma)
        self.target, self.star = torch.from_numpy(target), torch.from_numpy(star)
        self.order = torch.from_numpy(np.argsort(star, kind="stable"))
        self.visits = torch.from_numpy(np.unique(star, return_counts=True)[1])
        self.first = torch.cumsum(self.visits, 0) - self.visits

    def draw(self, n_stars: int, generator: torch.Generator) -> Tensor:
        """Return rows (2 n,): the first half one visit of each star, the second another, where there is one."""
        star = torch.randperm(len(self.visits), generator=generator)[:n_stars]
        visits = self.visits[star]
        one = (torch.rand(len(star), generator=generator) * visits).long()
        step = 1 + (torch.rand(len(star), generator=generator) * (visits - 1)).long()
        other = torch.where(visits > 1, (one + step) % visits, one)
        return self.order[torch.cat([self.first[star] + one, self.first[star] + other])]


class MiniObjective:
    """Draws batches of simulated pairs and real unpaired spectra and returns their losses.

    Parameters
    ----------
    pairs : TrainingPairs
    pair_targets : tuple of ndarray (n, d), float32
        Targets of the pairs' LAMOST and XP spectra.
    real : tuple of RealSpectra
        LAMOST LRS and Gaia XP.
    dim : int
        Dimension of the shared embedding; what the targets leave is the common part.
    settings : ObjectiveSettings
    views, pair_views : tuple of ViewSettings
        For LAMOST and XP: of real spectra, and of simulated ones, which have their noise already.
    noise_root : Tensor (k, 343)
        Correlates the noise of XP views.
    batch_size : int
        Pairs in a step plus views of real LAMOST spectra.
    generator : torch.Generator
        Of the rotation only.
    """

    def __init__(
        self,
        pairs: TrainingPairs,
        pair_targets: tuple[np.ndarray, np.ndarray],
        real: tuple[RealSpectra, RealSpectra],
        dim: int,
        settings: ObjectiveSettings,
        views: tuple[ViewSettings, ViewSettings],
        pair_views: tuple[ViewSettings, ViewSettings],
        noise_root: Tensor,
        batch_size: int,
        generator: torch.Generator,
    ) -> None:
        self.settings, self.real, self.views, self.pair_views = settings, real, views, pair_views
        self.n_pairs = batch_size - 2 * settings.real[0]
        self.noise_root = noise_root
        self.flux = torch.from_numpy(pairs.lrs_flux), torch.from_numpy(pairs.xp_flux)
        self.sigma = torch.from_numpy(pairs.lrs_sigma), torch.from_numpy(pairs.xp_sigma)
        labels = np.column_stack([np.log10(pairs.labels[:, 0]), pairs.labels[:, 1:4]]) / _LABEL_SPREAD
        self.labels = torch.from_numpy(labels - labels.mean(axis=0)).float()
        self.pair_targets = tuple(torch.from_numpy(t) for t in pair_targets)
        rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
        own = [t.shape[1] for t in pair_targets]
        self.common = rotation[sum(own) :]
        self.own = rotation[: own[0]], rotation[own[0] : sum(own)]  # (d, dim) of LAMOST and of XP
        self.variance = [float((r.target - r.target.mean(dim=0)).square().sum(dim=1).mean()) for r in real]

    def batch(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw a batch.

        Returns
        -------
        dict of Tensor
            ``pairs`` (P + more,) rows of the pairs: the first P have both spectra in the batch, the next ones XP, the last
            ones only labels; ``real_lamost_lrs``
            and ``real_gaia_xp`` (2 n,) rows of the real spectra; ``lamost_lrs`` and ``gaia_xp`` the views, those of pairs
            first.
        """
        s = self.settings
        n = self.n_pairs + s.more_xp
        rows = torch.randint(len(self.flux[0]), (n + s.more_truth,), generator=generator)
        found = {"pairs": rows}
        for i, name in enumerate(MODALITIES):
            root = self.noise_root if name == "gaia_xp" else None
            mine = rows[: n if name == "gaia_xp" else self.n_pairs]
            drawn = self.real[i].draw(s.real[i], generator)
            simulated = self.flux[i][mine].float(), self.sigma[i][mine].float()
            real = self.real[i].flux[drawn], self.real[i].sigma[drawn]
            found[name] = torch.cat(
                [
                    noisy_views(*simulated, self.pair_views[i], generator, root),
                    noisy_views(*real, self.views[i], generator, root),
                ]
            )
            found[f"real_{name}"] = drawn
        return found

    def losses(self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return ``total`` and the losses it is the weighted sum of, for a `Guided` split model."""
        assert isinstance(model, Guided)
        guided, model = model, model.model
        s, pairs = self.settings, batch["pairs"]
        out = {name: model.embed(batch[name], name) for name in MODALITIES}
        unit = {name: F.normalize(embedding["shared"], dim=1) for name, embedding in out.items()}
        losses: dict[str, Tensor] = {"alignment": self._alignment(*unit.values())}
        losses["truth"] = self._truth(guided, unit, pairs)
        losses["target"] = self._target(unit, batch)
        visits, length = [], []
        for i, name in enumerate(MODALITIES):
            n = len(batch[f"real_{name}"]) // 2
            views = unit[name][-2 * n :]
            star = self.real[i].star[batch[f"real_{name}"][:n]]
            visits.append(same_star_loss(views[:n], views[n:], star, s.sharpness / self.variance[i]))
            shared = out[name]["shared"]
            length.append((shared.square().mean(dim=1).sqrt() - 1).square().mean())
        losses["visits"], losses["length"] = torch.stack(visits).sum(), torch.stack(length).sum()
        if s.masked:
            backbone = model.lamost_lrs_encoder.backbone
            tokens = backbone.tokens(batch["lamost_lrs"][-max(1, int(s.masked_share * len(batch["lamost_lrs"]))) :])
            mask = backbone.random_mask(len(tokens), generator)
            losses["masked"] = masked_reconstruction_loss(backbone.reconstruct(backbone(tokens, mask)), tokens, mask)
        losses |= self._decoded(model, out, batch, pairs)
        total = torch.stack([getattr(s, name) * loss for name, loss in losses.items()]).sum()
        return {"total": total, **losses}

    def _alignment(self, lrs: Tensor, xp: Tensor) -> Tensor:
        """Return the contrastive loss: LAMOST spectra among all XP spectra, XP spectra among those of LAMOST."""
        n = self.n_pairs
        logits = self.settings.multiplier * lrs[:n] @ xp[: n + self.settings.more_xp].T  # (P, P + more)
        index = torch.arange(n)
        return (F.cross_entropy(logits, index) + F.cross_entropy(logits[:, :n].T, index)) / 2

    def _truth(self, guided: Guided, unit: dict[str, Tensor], pairs: Tensor) -> Tensor:
        """Return the contrastive loss of spectra against the labels of all pairs in the batch."""
        labels = F.normalize(guided.truth(self.labels[pairs]), dim=1)  # (P + more, common)
        found = []
        for name, n in zip(MODALITIES, (self.n_pairs, self.n_pairs + self.settings.more_xp), strict=True):
            logits = self.settings.truth_multiplier * unit[name][:n] @ self.common.T @ labels.T  # (n, P + more)
            index = torch.arange(n)
            found.append((F.cross_entropy(logits, index) + F.cross_entropy(logits[:, :n].T, index)) / 2)
        return torch.stack(found).sum()

    def _target(self, unit: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        """Return the squared distance from the targets in the own part, and from zero in the other modality's."""
        found = []
        for i, name in enumerate(MODALITIES):
            share = self.settings.own[i]
            n_simulated = len(batch[name]) - len(batch[f"real_{name}"])
            target = torch.cat(
                [self.pair_targets[i][batch["pairs"][:n_simulated]], self.real[i].target[batch[f"real_{name}"]]]
            )
            own = (unit[name] @ self.own[i].T - share**0.5 * target).square().sum(dim=1)
            other = (unit[name] @ self.own[1 - i].T).square().sum(dim=1)
            found.append((own + other).mean() / (share * self.variance[i]))
        return torch.stack(found).sum()

    def _decoded(
        self, model: ClipModel, out: dict[str, dict[str, Tensor]], batch: dict[str, Tensor], pairs: Tensor
    ) -> dict[str, Tensor]:
        """Return the losses of the decoders, which do not change the shared embedding.

        Reconstruction learns from the views' own flux, prediction from the flux of the pairs without added noise.
        """
        s, n = self.settings, self.n_pairs
        lrs, xp = (out[name]["shared"].detach() for name in MODALITIES)
        flux = self.flux[0][pairs[:n]].float(), self.flux[1][pairs[:n]]
        z = standardise(batch["lamost_lrs"])[2]
        again = {
            name: model.reconstruct({"shared": shared, "private": out[name]["private"]}, name)
            for name, shared in zip(MODALITIES, (lrs, xp), strict=True)
        }
        reconstruction = F.l1_loss(again["lamost_lrs"], z)
        reconstruction = reconstruction + relative_error(again["gaia_xp"], batch["gaia_xp"], s.least_flux)
        prediction = relative_error(model.predict({"shared": lrs[:n]}, "gaia_xp"), flux[1], s.least_flux) + F.l1_loss(
            model.predict({"shared": xp[:n]}, "lamost_lrs"), flux[0]
        )
        return {"reconstruction": reconstruction, "prediction": prediction}
