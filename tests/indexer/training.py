"""Small synthetic data and configurations that the tests of training share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from indexer.train.data import TrainingSet
from indexer.train.loop import LoopSettings
from indexer.train.mini import MiniData
from indexer.train.mini_config import MiniConfig
from indexer.train.objective import ObjectiveSettings
from indexer.train.pairs import TrainingPairs
from indexer.train.targets import TargetSettings
from specdb.encoders.config import ClipConfig, DecoderConfig, HeadConfig, LrsTransformerConfig, XpAutoencoderConfig

N_LRS, N_XP = 1462, 343

TINY = MiniConfig(
    model=ClipConfig(
        "split",
        LrsTransformerConfig(
            width=32, n_layers=1, n_heads=2, mlp_ratio=1, n_positions=16, section_length=200, section_stride=100,
            mask_chunks=2, mask_chunk_width=2,
        ),
        XpAutoencoderConfig(hidden=32, latent=24, n_encoder_blocks=1, n_decoder_blocks=0, expansion=1),
        HeadConfig(shared=24, private=4, n_heads=2, mlp_ratio=1, xp_inner=32, dropout=0.0),
        DecoderConfig(expansion=1, split_width=8),
    ),
    targets=(
        TargetSettings(n_components=3, n_principal=5),
        TargetSettings(n_components=2, n_principal=5, label_scale=(1.0, 0.7, 0.7, 0.3, 0.7), flux_range=(-1.0, 10.0)),
    ),
    objective=ObjectiveSettings(real=(8, 8), more_xp=16, more_truth=32),
    loop=LoopSettings(steps=60, batch_size=48, checkpoint_every=10),
    n_pairs=256, n_test_pairs=100, n_target_pairs=100, final_steps=2, xp_folders=("xp",),
)  # fmt: skip


def _shapes(strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return LAMOST flux with three lines and XP flux with three humps of the given strengths (n, 3)."""
    x, y = np.arange(N_LRS), np.arange(N_XP)
    lines = np.stack([np.exp(-0.5 * ((x - c) / 6) ** 2) for c in (300, 700, 1100)])
    humps = np.stack([np.exp(-0.5 * ((y - c) / 30) ** 2) for c in (60, 180, 280)])
    return 1 - strength @ lines, 1 + strength @ humps


def _labels(strength: np.ndarray) -> np.ndarray:
    return np.column_stack([5000 + 3000 * strength[:, 0], 4 + strength[:, 1], strength[:, 2]])


def synthetic(n_stars: int = 120, seed: int = 0) -> TrainingSet:
    """LAMOST spectra of stars with three line strengths, every third with a second visit; labels follow the strengths."""
    rng = np.random.default_rng(seed)
    star = np.concatenate([np.arange(n_stars), np.arange(0, n_stars, 3)])
    strength = rng.uniform(0.1, 0.7, (n_stars, 3))[star]
    sigma = np.full((len(star), N_LRS), 0.02, np.float32)
    flux = (_shapes(strength)[0] + rng.normal(0, sigma)).astype(np.float32)
    labels = _labels(strength)
    labels[5] = np.nan
    n = len(star)
    return TrainingSet(
        flux, 1 / sigma**2, np.full(n, 50, np.float32), star, labels, np.ones(n, bool), np.arange(n), _provenance(n, "lrs")
    )


def synthetic_xp(n: int = 60, seed: int = 1) -> TrainingSet:
    """XP spectra of stars with three humps; the last third comes without errors."""
    rng = np.random.default_rng(seed)
    flux = (_shapes(rng.uniform(0.1, 0.7, (n, 3)))[1] + rng.normal(0, 0.02, (n, N_XP))).astype(np.float32)
    ivar = np.full((n, N_XP), 2500, np.float32)
    ivar[2 * n // 3 :] = 0
    snr = np.where(ivar[:, 0] > 0, 50, np.nan).astype(np.float32)
    labels = np.full((n, 3), np.nan)
    return TrainingSet(flux, ivar, snr, np.arange(n), labels, np.ones(n, bool), 1000 + np.arange(n), _provenance(n, "xp"))


def synthetic_pairs(n: int = 256, seed: int = 2) -> TrainingPairs:
    """Pairs of such spectra."""
    rng = np.random.default_rng(seed)
    strength = rng.uniform(0.1, 0.7, (n, 3))
    lrs, xp = _shapes(strength)
    return TrainingPairs(
        lrs_flux=(lrs + rng.normal(0, 0.02, lrs.shape)).astype(np.float16),
        lrs_sigma=np.full(lrs.shape, 0.02, np.float16),
        xp_flux=(xp + rng.normal(0, 0.02, xp.shape)).astype(np.float32),
        xp_sigma=np.full(xp.shape, 0.02, np.float16),
        labels=np.column_stack([_labels(strength), rng.uniform(0, 0.3, n), rng.uniform(0, 0.3, n)]),
        snr=rng.uniform(5, 200, n).astype(np.float32),
        star=np.arange(n),
    )


def synthetic_data() -> MiniData:
    """Return all three."""
    return MiniData(synthetic(), synthetic_xp(), synthetic_pairs())


def shorter(steps: int) -> MiniConfig:
    """Return `TINY` with another number of steps."""
    return replace(TINY, loop=replace(TINY.loop, steps=steps))


def _provenance(n: int, name: str) -> dict:
    return {"n_spectra": n, "left_out": {}, "files_sha256": name, "preparation": {"name": f"specclip-{name}", "version": 1}}
