"""A database of simulated pairs and an encoder of both modalities whose weights are random: enough for all but its worth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch

from indexer import IngestSettings, build_index
from indexer.simulate import PairSurvey, simulate_pairs
from indexer.train.optimiser import initialise
from specdb.encoders import Card, Encoder, load_encoder, save_model
from specdb.encoders.clip import ClipModel
from specdb.encoders.config import ClipConfig, DecoderConfig, HeadConfig, LrsTransformerConfig, XpAutoencoderConfig

PREPARATION = {"lamost_lrs": ("specclip-lrs", 1), "gaia_xp": ("specclip-xp", 1)}
SPLIT = ClipConfig(
    "split",
    LrsTransformerConfig(
        width=32, n_layers=1, n_heads=2, mlp_ratio=1, n_positions=16, section_length=200, section_stride=100
    ),
    XpAutoencoderConfig(hidden=32, latent=24, n_encoder_blocks=1, n_decoder_blocks=1, expansion=1),
    HeadConfig(16, 8, n_heads=2, mlp_ratio=1, xp_inner=16, dropout=0.0),
    DecoderConfig(expansion=1),
)


@dataclass(frozen=True)
class TwoModalities:
    """Where everything is; `pairs` holds (LAMOST obsid, Gaia source_id)."""

    db: Path
    encoder_folder: Path
    encoder: Encoder
    survey: PairSurvey
    pairs: list[tuple[int, int]]


def save_encoder(folder: Path, config: ClipConfig = SPLIT, name: str = "tiny") -> Encoder:
    """Save an encoder of random weights."""
    model = ClipModel(config)
    initialise(model, torch.Generator().manual_seed(0))
    save_model(folder, model.eval(), Card(name, config, preparation={m: PREPARATION[m] for m in model.modalities}))
    return load_encoder(folder)


def build_two_modalities(folder: Path, n_stars: int = 24) -> TwoModalities:
    """Simulate pairs and build a database of both surveys."""
    survey = simulate_pairs(folder / "pairs", n_stars, seed=3)
    encoder = save_encoder(folder / "encoder")
    for name, spectra in (("lamost", survey.lamost), ("gaia-xp", survey.xp_continuous)):
        settings = IngestSettings(workers=0)
        build_index(folder / "db", name, [spectra], encoder=str(folder / "encoder"), ingest_settings=settings)
    rows = pq.read_table(survey.pairs)
    pairs = list(zip(rows["lamost_obsid"].to_pylist(), rows["gaia_source_id"].to_pylist(), strict=True))
    return TwoModalities(folder / "db", folder / "encoder", encoder, survey, pairs)
