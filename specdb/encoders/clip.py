"""The CLIP models: heads over both backbones, decoders where the variant has them, and the losses.

`base` aligns the embeddings only; `r` adds decoders of each modality's own spectrum, `p` decoders of the other modality's,
`pr` both; `split` has both and divides the embedding into a shared and a private part (Zhao et al., arXiv 2507.01939).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from specdb.encoders.config import ClipConfig
from specdb.encoders.heads import LrsHead, SplitDecoder, VectorDecoder, XpHead
from specdb.encoders.transformer import standardise
from specdb.errors import InputError

__all__ = ["ClipModel", "contrastive_logits", "contrastive_loss"]


def contrastive_logits(a: Tensor, b: Tensor, multiplier: float = 15.5) -> Tensor:
    """Return the cosine similarities (n, m) of embeddings (n, d) and (m, d), times a multiplier.

    Norms below 1e-3 count as 1e-3, as published.
    """
    return multiplier * F.normalize(a, dim=1, eps=1e-3) @ F.normalize(b, dim=1, eps=1e-3).T


def contrastive_loss(a: Tensor, b: Tensor, multiplier: float = 15.5) -> Tensor:
    """Return the symmetric cross entropy of pairs: row i of `a` (B, d) belongs to row i of `b` (B, d)."""
    logits = contrastive_logits(a, b, multiplier)  # (B, B)
    labels = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


class ClipModel(nn.Module):
    """Embeddings of one or two modalities in one space.

    A decoder is named after what it produces: `gaia_xp_cross_decoder` predicts Gaia XP from the LAMOST LRS embedding.
    """

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = c = config
        if c.gaia_xp is not None:
            self.gaia_xp_encoder = XpHead(c.gaia_xp, c.head)
        if c.lamost_lrs is not None:
            self.lamost_lrs_encoder = LrsHead(c.lamost_lrs, c.head)
        for modality in self.modalities:
            if c.reconstructs:
                self.add_module(f"{modality}_decoder", self._decoder(modality, cross=False))
            if c.predicts:
                self.add_module(f"{modality}_cross_decoder", self._decoder(modality, cross=True))

    def _decoder(self, modality: str, cross: bool) -> nn.Module:
        c, n_pixels = self.config, self.n_pixels(modality)
        assert c.decoder is not None
        if c.head.private and not cross:
            return SplitDecoder(c.head.shared, c.head.private, n_pixels, c.decoder.split_width)
        wide = c.decoder.expansion * c.head.shared
        hidden = (wide, wide, wide) if modality == "lamost_lrs" else (wide, wide // 2, wide // 4)
        return VectorDecoder(c.head.shared, hidden, n_pixels, c.decoder.dropout)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities it has an encoder for."""
        return tuple(m for m in ("lamost_lrs", "gaia_xp") if getattr(self.config, m) is not None)

    def n_pixels(self, modality: str) -> int:
        """Return the length of a modality's grid."""
        return getattr(self.config, modality).n_pixels

    def outputs(self, modality: str) -> dict[str, int]:
        """Return the dimension of each embedding."""
        head = self.config.head
        return {"shared": head.shared} | ({"private": head.private} if head.private else {})

    def embed(self, flux: Tensor, modality: str) -> dict[str, Tensor]:
        """Map spectra (B, n_pixels) to ``shared`` (B, d) and, in a split model, ``private`` (B, d'); not normalised."""
        return self.get_submodule(f"{modality}_encoder")(flux)

    forward = embed

    def set_precision(self, dtype: torch.dtype) -> None:
        """Run the backbones' blocks, which do nearly all the work, in another precision; the heads keep their own."""
        for modality in self.modalities:
            self.get_submodule(f"{modality}_encoder.backbone").set_precision(dtype)  # type: ignore[operator]

    def reconstruct(self, embeddings: dict[str, Tensor], modality: str) -> Tensor:
        """Decode a modality's own embeddings into its spectra (B, n_pixels); LAMOST LRS spectra come out standardised."""
        if not self.config.reconstructs:
            raise InputError(f"this CLIP model (variant {self.config.variant!r}) was built without reconstruction decoders")
        return self.get_submodule(f"{modality}_decoder")(**embeddings)

    def predict(self, embeddings: dict[str, Tensor], to: str) -> Tensor:
        """Predict spectra (B, n_pixels) of the modality `to` from the shared embeddings of the other one."""
        if not self.config.predicts:
            raise InputError(f"this CLIP model (variant {self.config.variant!r}) was built without prediction decoders")
        return self.get_submodule(f"{to}_cross_decoder")(embeddings["shared"])

    def losses(
        self, lamost_lrs: Tensor, gaia_xp: Tensor, gather: Callable[[Tensor], Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of pairs of spectra.

        Reconstruction and prediction errors are mean absolute errors summed over the two modalities. Targets are the
        prepared spectra, except that LAMOST LRS is standardised as a target of reconstruction (but not of prediction).

        Parameters
        ----------
        lamost_lrs, gaia_xp : Tensor (B, n_pixels of the modality)
            Row i of both is the same star.
        gather : callable, optional
            Brings together the shared embeddings of all processes that train the model, for the contrastive loss.

        Returns
        -------
        dict of Tensor ()
            ``total``, ``contrastive`` and, where the variant has them, ``reconstruction`` and ``prediction``.
        """
        c = self.config
        lrs, xp = self.embed(lamost_lrs, "lamost_lrs"), self.embed(gaia_xp, "gaia_xp")
        gathered = [e["shared"] if gather is None else gather(e["shared"]) for e in (xp, lrs)]
        losses = {"contrastive": contrastive_loss(gathered[0], gathered[1], c.logit_multiplier)}
        total = losses["contrastive"]
        if c.reconstructs:
            losses["reconstruction"] = F.l1_loss(self.reconstruct(xp, "gaia_xp"), gaia_xp) + F.l1_loss(
                self.reconstruct(lrs, "lamost_lrs"), standardise(lamost_lrs)[2]
            )
            total = total + c.reconstruction_weight * losses["reconstruction"]
        if c.predicts:
            losses["prediction"] = F.l1_loss(self.predict(lrs, "gaia_xp"), gaia_xp) + F.l1_loss(
                self.predict(xp, "lamost_lrs"), lamost_lrs
            )
            total = total + c.prediction_weight * losses["prediction"]
        return {"total": total, **losses}
