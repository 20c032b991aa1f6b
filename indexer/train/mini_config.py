"""What decides how `specclip-mini` turns out: the model's sizes and the settings of its training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from indexer.train.loop import LoopSettings
from indexer.train.objective import ObjectiveSettings
from indexer.train.targets import TargetSettings
from indexer.train.views import ViewSettings
from specdb.encoders.config import ClipConfig, DecoderConfig, HeadConfig, LrsTransformerConfig, XpAutoencoderConfig

__all__ = ["MINI", "MiniConfig"]

#: SpecCLIP's split model in small: 35 sections of 80 LAMOST pixels instead of 145 of 20, an XP auto-encoder of width 256,
#: 128 shared and 32 private dimensions.
MINI = ClipConfig(
    variant="split",
    lamost_lrs=LrsTransformerConfig(
        width=192,
        n_layers=2,
        n_heads=4,
        mlp_ratio=2,
        n_positions=36,
        section_length=80,
        section_stride=40,
        mask_chunks=3,
        mask_chunk_width=4,
    ),
    gaia_xp=XpAutoencoderConfig(hidden=256, latent=128, n_encoder_blocks=2, n_decoder_blocks=0, expansion=2),
    head=HeadConfig(shared=128, private=32, n_heads=4, mlp_ratio=4, xp_inner=256, dropout=0.0),
    decoder=DecoderConfig(expansion=2, dropout=0.1, split_width=96),
)

_LRS_VIEWS = ViewSettings()
_XP_VIEWS = ViewSettings(noise=(0.1, 1.0), continuum=0.0, continuum_order=0, window_probability=0.0, bad_fraction=0.0)


@dataclass(frozen=True)
class MiniConfig:
    """Everything that decides what comes out, besides the data, the seed and the number of threads.

    Attributes
    ----------
    model, objective, loop : configurations of the parts
    views, pair_views : tuple of ViewSettings
        For LAMOST LRS and Gaia XP: of real spectra, and of simulated ones, which have their noise already.
    targets : tuple of TargetSettings
        For LAMOST LRS (labels of the survey's pipeline) and Gaia XP (labels of simulated stars).
    n_pairs, n_test_pairs : int
        Simulated pairs to train on and to measure with.
    n_target_pairs : int
        Pairs whose labels the targets of XP are fitted with.
    final_steps, final_pace : int, float
        The continuation with all stars, and its learning rates relative to the first training's.
    xp_folders : tuple of str
        Where ordinary stars observed with XP lie below the data folder.
    min_snr : float
        LAMOST spectra below are not trained on (median S/N per pixel).
    n_folds : int
        One in so many stars is held out for the figures.
    """

    model: ClipConfig = MINI
    views: tuple[ViewSettings, ViewSettings] = (_LRS_VIEWS, _XP_VIEWS)
    pair_views: tuple[ViewSettings, ViewSettings] = (
        replace(_LRS_VIEWS, noise=(0.05, 0.5), continuum=0.005, window_probability=0.2),
        replace(_XP_VIEWS, noise=(0.05, 0.5)),
    )
    targets: tuple[TargetSettings, TargetSettings] = (
        TargetSettings(),
        TargetSettings(
            n_components=10,
            n_principal=60,
            label_scale=(1.0, 0.7, 0.7, 0.3, 0.7),
            flux_range=(-1.0, 10.0),
        ),
    )
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    loop: LoopSettings = field(
        default_factory=lambda: LoopSettings(steps=1100, batch_size=200, clip=5.0, checkpoint_every=50)
    )
    n_pairs: int = 98_304
    n_test_pairs: int = 10_000
    n_target_pairs: int = 3000
    final_steps: int = 150
    final_pace: float = 0.3
    xp_folders: tuple[str, ...] = ("gaia_xp_field2000", "gaia_xp_vosa2815")
    min_snr: float = 3.0
    n_folds: int = 4
