"""Architectures as frozen dataclasses: what must be known, beside the weights, to build a model again.

The defaults are the published sizes of SpecCLIP (Zhao et al., arXiv 2507.01939); smaller models use the same classes with
smaller numbers. Nothing here imports torch, so that cards can be read without it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from specdb.errors import CheckpointError, InputError

__all__ = [
    "ARCHITECTURES",
    "VARIANTS",
    "ClipConfig",
    "Config",
    "DecoderConfig",
    "HeadConfig",
    "LrsTransformerConfig",
    "MlpHeadConfig",
    "XpAutoencoderConfig",
    "XpTransformerConfig",
    "config_from_dict",
    "config_to_dict",
]

#: The CLIP models: contrastive loss only; plus reconstruction; plus prediction; plus both; both, and a split embedding.
VARIANTS = ("base", "r", "p", "pr", "split")


@dataclass(frozen=True)
class _TransformerConfig:
    """What the two masked transformers have in common.

    Attributes
    ----------
    n_pixels : int
        Length of the modality's grid.
    width, n_layers, n_heads, mlp_ratio : int
        Size of the transformer; the hidden layer of a block is `mlp_ratio` times the width.
    n_positions : int
        Rows of the table of position embeddings; at least the number of tokens.
    mask_chunks, mask_chunk_width : int
        How many runs of how many tokens are hidden in masked modelling.
    dropout : float
    """

    n_pixels: int
    n_positions: int
    width: int = 768
    n_layers: int = 6
    n_heads: int = 6
    mlp_ratio: int = 4
    mask_chunks: int = 6
    mask_chunk_width: int = 10
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.width % self.n_heads:
            raise InputError(f"width {self.width} is not a multiple of n_heads {self.n_heads}")
        if self.n_positions < self.n_tokens:
            raise InputError(f"n_positions {self.n_positions} is less than the {self.n_tokens} tokens of a spectrum")

    @property
    def n_tokens(self) -> int:
        """Tokens of one spectrum, with the statistics token."""
        raise NotImplementedError


@dataclass(frozen=True)
class LrsTransformerConfig(_TransformerConfig):
    """Masked transformer over overlapping sections of a LAMOST LRS spectrum (official name `lrs_mt`, 43 M weights).

    Attributes
    ----------
    section_length, section_stride : int
        Pixels per section and from one start to the next.
    """

    architecture: ClassVar[str] = "lrs_mt"
    modality: ClassVar[str] = "lamost_lrs"

    n_pixels: int = 1462
    n_positions: int = 150
    section_length: int = 20
    section_stride: int = 10

    @property
    def n_tokens(self) -> int:
        """Tokens of one spectrum, with the statistics token."""
        # The official slicing always drops the last section, complete or not; the statistics token comes on top.
        return -(-(self.n_pixels - self.section_length) // self.section_stride) + 1

    @property
    def n_features(self) -> int:
        """Features of one token: a marker or statistic, then the pixels of a section."""
        return self.section_length + 1


@dataclass(frozen=True)
class XpTransformerConfig(_TransformerConfig):
    """Masked transformer with one token per sample of a Gaia XP spectrum (official name `xp_mt`, 43 M weights)."""

    architecture: ClassVar[str] = "xp_mt"
    modality: ClassVar[str] = "gaia_xp"
    n_features: ClassVar[int] = 3

    n_pixels: int = 343
    n_positions: int = 350
    mask_chunk_width: int = 20

    @property
    def n_tokens(self) -> int:
        """Tokens of one spectrum, with the statistics token."""
        return self.n_pixels + 1


@dataclass(frozen=True)
class XpAutoencoderConfig:
    """Plain auto-encoder of a Gaia XP spectrum (official name `xp_oae`, 43 M weights).

    Attributes
    ----------
    n_pixels : int
    hidden, latent : int
        Width of the blocks and of the bottleneck.
    n_encoder_blocks, n_decoder_blocks, expansion : int
        Blocks on either side; the inner layer of a block is `expansion` times `hidden`.
    dropout : float
    """

    architecture: ClassVar[str] = "xp_oae"
    modality: ClassVar[str] = "gaia_xp"

    n_pixels: int = 343
    hidden: int = 1290
    latent: int = 768
    n_encoder_blocks: int = 2
    n_decoder_blocks: int = 2
    expansion: int = 3
    dropout: float = 0.0


@dataclass(frozen=True)
class HeadConfig:
    """From a backbone to the embedding.

    Attributes
    ----------
    shared, private : int
        Dimensions of the embedding. `private` is 0 in all variants but `split`.
    n_heads : int
        Attention heads of the LAMOST LRS head; its private part has half as many.
    mlp_ratio : int
        Hidden layer of the last MLP relative to its width.
    xp_inner : int
        Inner width of the feature MLP of the Gaia XP head.
    dropout : float
    """

    shared: int = 768
    private: int = 0
    n_heads: int = 4
    mlp_ratio: int = 4
    xp_inner: int = 1160
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.shared % self.n_heads or (self.private and self.private % max(self.n_heads // 2, 1)):
            raise InputError(
                f"an embedding of {self.shared} + {self.private} dimensions cannot be divided among {self.n_heads} heads "
                "(half as many for the private part)"
            )


@dataclass(frozen=True)
class DecoderConfig:
    """From an embedding back to spectra.

    Attributes
    ----------
    expansion : int
        Hidden width of the cross-modal decoders (and of all decoders where nothing is split) relative to the shared
        dimension.
    dropout : float
    split_width : int or None
        Length of the two vectors that a split model's own decoders start from; None takes the length of the spectrum, as
        published.
    """

    expansion: int = 4
    dropout: float = 0.1
    split_width: int | None = None


@dataclass(frozen=True)
class ClipConfig:
    """A CLIP model of one or two modalities.

    Attributes
    ----------
    variant : {"base", "r", "p", "pr", "split"}
    lamost_lrs, gaia_xp : backbone configurations or None
        None leaves the modality out; at least one must be there.
    head : HeadConfig
    decoder : DecoderConfig or None
        None builds no decoders, whatever the variant: enough for embeddings, and much smaller.
    logit_multiplier : float
        Cosine similarities are multiplied by this in the contrastive loss (weights_rule: used directly, never learned).
    reconstruction_weight, prediction_weight : float
        Weights of these losses in the total.
    """

    architecture: ClassVar[str] = "clip"

    variant: str = "base"
    lamost_lrs: LrsTransformerConfig | None = field(default_factory=LrsTransformerConfig)
    gaia_xp: XpAutoencoderConfig | None = field(default_factory=XpAutoencoderConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    decoder: DecoderConfig | None = field(default_factory=DecoderConfig)
    logit_multiplier: float = 15.5
    reconstruction_weight: float = 1.0
    prediction_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise InputError(f"CLIP variant {self.variant!r} is unknown; known: {', '.join(VARIANTS)}")
        if (self.variant == "split") != bool(self.head.private):
            raise InputError(f"variant {self.variant!r} with {self.head.private} private dimensions: only `split` has them")
        if self.lamost_lrs is None and self.gaia_xp is None:
            raise InputError("a CLIP model needs at least one modality")

    @classmethod
    def official(cls, variant: str) -> ClipConfig:
        """Return the published size of a variant."""
        return cls(variant=variant, head=HeadConfig(512, 256) if variant == "split" else HeadConfig())

    @property
    def reconstructs(self) -> bool:
        """Whether there are decoders of each modality's own spectrum."""
        return self.decoder is not None and self.variant in ("r", "pr", "split")

    @property
    def predicts(self) -> bool:
        """Whether there are cross-modal decoders; they need both modalities."""
        both = self.lamost_lrs is not None and self.gaia_xp is not None
        return self.decoder is not None and both and self.variant in ("p", "pr", "split")


@dataclass(frozen=True)
class MlpHeadConfig:
    """Small network from an embedding to labels (official: 768 -> 1024 -> 512 -> 64 -> 1)."""

    architecture: ClassVar[str] = "mlp_head"

    n_inputs: int = 768
    hidden: tuple[int, ...] = (1024, 512, 64)
    n_outputs: int = 1
    dropout: float = 0.1


Config = LrsTransformerConfig | XpTransformerConfig | XpAutoencoderConfig | ClipConfig | MlpHeadConfig

ARCHITECTURES: dict[str, type[Config]] = {
    c.architecture: c for c in (LrsTransformerConfig, XpTransformerConfig, XpAutoencoderConfig, ClipConfig, MlpHeadConfig)
}

_NESTED: dict[str, type] = {
    "lamost_lrs": LrsTransformerConfig,
    "gaia_xp": XpAutoencoderConfig,
    "head": HeadConfig,
    "decoder": DecoderConfig,
}


def config_to_dict(config: Config) -> dict[str, Any]:
    """Return the configuration as plain values for JSON, with its `architecture`."""
    return {"architecture": config.architecture, **asdict(config)}


def config_from_dict(values: dict[str, Any]) -> Config:
    """Undo `config_to_dict`.

    Raises
    ------
    CheckpointError
        For an unknown architecture or setting, or values that contradict one another.
    """
    values = dict(values)
    name = values.pop("architecture", None)
    if name not in ARCHITECTURES:
        raise CheckpointError(f"architecture {name!r} is unknown; this version knows {', '.join(ARCHITECTURES)}")
    cls: Any = ARCHITECTURES[name]
    try:
        if cls is ClipConfig:
            values |= {k: _NESTED[k](**v) for k, v in values.items() if k in _NESTED and v is not None}
        if cls is MlpHeadConfig and "hidden" in values:
            values["hidden"] = tuple(values["hidden"])
        return cls(**values)
    except (TypeError, InputError) as error:
        known = ", ".join(f.name for f in fields(cls))
        raise CheckpointError(f"the {name} configuration does not fit ({error}); settings are {known}") from error
