"""The encoder as the rest of specdb sees it: prepared spectra in, embeddings out, as NumPy arrays."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from specdb.encoders.card import Card
from specdb.encoders.clip import ClipModel
from specdb.encoders.config import ClipConfig, XpAutoencoderConfig
from specdb.encoders.lrs import LrsTransformer
from specdb.encoders.xp import XpAutoencoder, XpTransformer
from specdb.errors import InputError
from specdb.spectra.modalities import get_modality, modality_names

__all__ = ["Encoder", "EncoderModel", "has_native_bfloat16"]

EncoderModel = LrsTransformer | XpTransformer | XpAutoencoder | ClipModel

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

#: Numbers in one activation (batch x tokens x width) that a forward pass should hold. On a CPU this keeps the activations
#: in the cache (measured with the full-size transformer: 8 spectra are faster than 1 or 32); a GPU wants more to do.
_ACTIVATION = {"cpu": 1 << 20, "cuda": 1 << 26}


def has_native_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16 matrix products (AVX512-BF16, AMX)."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, bool)()) for probe in probes)


class Encoder:
    """A model with its card.

    Parameters
    ----------
    model : EncoderModel
        On the CPU, in float32.
    card : Card

    Attributes
    ----------
    card : Card
    name : str
    modalities : tuple of str
        Those that its weights were trained on.
    served : tuple of str
        Those that it can encode: also spectra of other instruments that are prepared to look like the trained ones.
    weight_hash : str
        64 hexadecimal digits; the first 16 are enough to show.
    metric : str
        ``cosine``.
    preparation : mapping of modality to (name, version)
        What its spectra must have been prepared with.
    """

    def __init__(self, model: EncoderModel, card: Card) -> None:
        self.model = model.eval()
        self.card = card
        self._variants: dict[tuple[str, str], EncoderModel] = {("cpu", "float32"): self.model}

    def __repr__(self) -> str:
        return f"Encoder({self.name!r}, {', '.join(self.modalities)}, {self.weight_hash[:16]})"

    @property
    def name(self) -> str:
        """Name under which it is registered, and of its folder in a database."""
        return self.card.name

    @property
    def weight_hash(self) -> str:
        """SHA-256 of the weights."""
        return self.card.weight_hash

    @property
    def metric(self) -> str:
        """How embeddings are compared."""
        return self.card.metric

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities that its weights were trained on."""
        return self.model.modalities

    @property
    def served(self) -> tuple[str, ...]:
        """Modalities that it can encode: the trained ones, and those whose prepared spectra look like them."""
        alike = (name for name in modality_names() if get_modality(name).encoded_as in self.modalities)
        return (*self.modalities, *alike)

    def input_of(self, modality: str) -> str:
        """Return the trained modality as which spectra are encoded: their own, or the one that they are made to look like.

        Raises
        ------
        InputError
            For a modality that the encoder has no input for.
        """
        if modality in self.modalities:
            return modality
        if modality in self.served:
            return get_modality(modality).encoded_as
        raise InputError(f"encoder {self.name} knows no {modality!r}; it encodes {', '.join(self.served)}")

    @property
    def preparation(self) -> Mapping[str, tuple[str, int]]:
        """Name and version of the preparation it was trained with, by modality."""
        return self.card.preparation

    def outputs(self, modality: str) -> dict[str, int]:
        """Return the dimension of each embedding: ``shared`` and, in a split model, ``private``."""
        return self.model.outputs(self.input_of(modality))

    def n_grid(self, modality: str) -> int:
        """Return how many samples a prepared spectrum must have."""
        return int(self._backbone(modality).n_pixels)

    def batch_size(self, modality: str, device: str = "cpu") -> int:
        """Return the number of spectra per forward pass that suits model and device: a power of two, 8 to 1024."""
        backbone = self._backbone(modality)
        numbers = backbone.hidden if isinstance(backbone, XpAutoencoderConfig) else backbone.n_tokens * backbone.width
        fitting = _ACTIVATION["cuda" if device.startswith("cuda") else "cpu"] // numbers
        return min(max(1 << fitting.bit_length() >> 1, 8), 1024)

    def encode(
        self,
        flux: np.ndarray,
        modality: str,
        *,
        batch_size: int | None = None,
        device: str = "cpu",
        precision: str = "float32",
        normalise: bool = True,
        pad: bool = True,
    ) -> dict[str, np.ndarray]:
        """Encode prepared spectra.

        Every forward pass sees exactly `batch_size` rows: the last one is filled up with copies of its first row. So a
        spectrum gets the same embedding, to the last bit, wherever it stands and however many others come with it, on the
        same machine with the same number of threads and the same `batch_size`.

        Parameters
        ----------
        flux : ndarray (n, n_grid), float32
            As in `specdb.spectra.Prepared`.
        modality : str
        batch_size : int, optional
            Spectra per forward pass; by default what suits model and device (`batch_size`).
        device : str
            ``cpu``, ``cuda``, ``cuda:1``.
        precision : {"float32", "bfloat16"}
            bfloat16 rounds the weights of the transformer blocks, which do nearly all the work. A CPU without bfloat16
            instructions multiplies these rounded weights in float32, which is both faster and closer there than imitating
            the arithmetic.
        normalise : bool
            Scale ``shared`` to unit length.
        pad : bool
            False leaves the last forward pass short: faster for single queries, but the last bits may differ.

        Returns
        -------
        dict of ndarray (n, d), float32
            ``shared`` and, in a split model, ``private`` (never scaled).

        Raises
        ------
        InputError
            For an unknown modality, device or precision, a wrong shape, or values that are not finite.
        """
        flux = self._check(flux, modality)
        trained = self.input_of(modality)
        if batch_size is None:
            batch_size = self.batch_size(modality, device)
        elif batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be 1 or more")
        model, where = self._variant(device, precision), torch.device(device)
        out = {name: np.empty((len(flux), dim), np.float32) for name, dim in self.outputs(modality).items()}
        with torch.inference_mode():
            for start in range(0, len(flux), batch_size):
                rows = flux[start : start + batch_size]
                batch = rows
                if pad and len(rows) < batch_size:
                    batch = np.concatenate([rows, np.broadcast_to(rows[:1], (batch_size - len(rows), rows.shape[1]))])
                embeddings = model.embed(torch.tensor(batch, device=where), trained)  # dict of (batch, d)
                if normalise:
                    embeddings["shared"] = F.normalize(embeddings["shared"], dim=1)
                for name, values in embeddings.items():
                    out[name][start : start + len(rows)] = values[: len(rows)].float().cpu().numpy()
        return out

    def _backbone(self, modality: str) -> Any:
        trained, config = self.input_of(modality), self.model.config
        return getattr(config, trained) if isinstance(config, ClipConfig) else config

    def _check(self, flux: np.ndarray, modality: str) -> np.ndarray:
        n_grid = self.n_grid(modality)
        flux = np.asarray(flux)
        if flux.ndim != 2 or flux.shape[1] != n_grid:
            raise InputError(
                f"flux has shape {flux.shape}; encoder {self.name} takes prepared {modality} spectra, (n, {n_grid})"
            )
        if flux.dtype.kind not in "fiu":
            raise InputError(f"flux has dtype {flux.dtype}; numbers are needed")
        flux = flux.astype(np.float32, copy=False)
        bad = np.flatnonzero(~np.isfinite(flux).all(axis=1))
        if len(bad):
            raise InputError(
                f"{len(bad)} of {len(flux)} spectra hold NaN or infinity (first: row {bad[0]}); "
                "the preparation repairs or rejects such spectra, so prepare them first"
            )
        return flux

    def _variant(self, device: str, precision: str) -> EncoderModel:
        """Return the model on a device in a precision; each combination is made once."""
        if (device, precision) not in self._variants:
            if precision not in PRECISIONS:
                raise InputError(f"precision {precision!r} is unknown; choose {' or '.join(PRECISIONS)}")
            try:
                model = copy.deepcopy(self.model).to(torch.device(device))
            except (RuntimeError, AssertionError, NotImplementedError) as error:
                reason = str(error).splitlines()[0]
                have = ", ".join(["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))])
                raise InputError(f"device {device!r} cannot be used ({reason}); this machine has {have}") from error
            if precision == "bfloat16":
                model.set_precision(torch.bfloat16)
                if torch.device(device).type == "cpu" and not has_native_bfloat16():
                    model.set_precision(torch.float32)
            self._variants[device, precision] = model
        return self._variants[device, precision]
