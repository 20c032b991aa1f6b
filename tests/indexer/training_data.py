"""A small database of made-up pairs, and tiny configurations, for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from indexer.train.config import TrainConfig, parse_config
from specdb.spectra import get_modality, metadata_table
from specdb.store import Store, spectra_table
from specdb.store.manifest import Batch

LRS_MODEL = """
architecture = "lrs_mt"
width = 32
n_layers = 1
n_heads = 2
mlp_ratio = 1
n_positions = 16
section_length = 200
section_stride = 100
mask_chunks = 2
mask_chunk_width = 2
"""
XP_MODEL = 'architecture = "xp_oae"\nhidden = 48\nlatent = 24\nn_encoder_blocks = 1\nn_decoder_blocks = 1\nexpansion = 1\n'
XP_MT_MODEL = 'architecture = "xp_mt"\nwidth = 16\nn_layers = 1\nn_heads = 2\nmlp_ratio = 1\n'
#: What makes models as narrow as these learn.
LEARNS = '[start]\nfresh = "scaled"\n'
LOOP = """
[loop]
optimiser = "adamw"
lr = 3e-3
steps = 6
batch_size = 16
checkpoint_every = 2
[data]
validation = 0.2
validation_size = 24
buffer = 48
"""


def toml(model: str, more: str = "") -> str:
    return f"[model]{model if model.startswith(chr(10)) else chr(10) + model}{LOOP}{more}"


def clip_toml(variant: str, more: str = "") -> str:
    def section(name: str, text: str) -> str:
        return f"[model.{name}]\n" + "\n".join(line for line in text.splitlines() if not line.startswith("architecture"))

    split = "private = 8\n" if variant == "split" else ""
    return (
        f'[model]\narchitecture = "clip"\nvariant = "{variant}"\n{section("lamost_lrs", LRS_MODEL)}\n'
        f"{section('gaia_xp', XP_MODEL)}\n[model.head]\nshared = 16\nn_heads = 2\nxp_inner = 16\ndropout = 0.1\n{split}"
        f"[model.decoder]\nexpansion = 1\n{LOOP}{more}"
    )


def configured(text: str) -> TrainConfig:
    return parse_config(text, "test.toml")


def make_database(root: Path, n: int = 150, parts: int = 2, ids: bool = True, seed: int = 0) -> Store:
    """Two modalities of the same stars: three numbers per star decide lines in one and slopes in the other."""
    rng = np.random.default_rng(seed)
    store = Store.create(root, "specclip-mini")
    strength = rng.uniform(0.1, 0.7, (n, 3))
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-0.2, 0.9, n)))
    source_id = (rng.permutation(n).astype(np.int64) + 1) << 43
    x, y = np.linspace(0, 1, 1462), np.linspace(-1, 1, 343)
    lines = np.stack([np.exp(-0.5 * ((x - c) / 0.01) ** 2) for c in (0.2, 0.5, 0.8)])
    lrs = 1 - strength @ lines + rng.normal(0, 0.01, (n, 1462))
    xp = 1 + strength @ np.stack([y, y**2, np.sin(3 * y)]) + rng.normal(0, 0.01, (n, 343))
    order = {"lamost_lrs": np.arange(n), "gaia_xp": rng.permutation(n)}
    with store.writing() as writer:
        for name, flux in (("lamost_lrs", lrs), ("gaia_xp", xp)):
            modality = get_modality(name)
            made = {
                "modality": name,
                "preparation": modality.preparation.name,
                "preparation_version": modality.preparation.version,
            }
            for number, rows in enumerate(np.array_split(order[name], parts)):
                columns: dict[str, object] = {
                    "spectrum_id": rows + 1000 if name == "lamost_lrs" else source_id[rows],
                    "ra": ra[rows],
                    "dec": dec[rows],
                    "class": ["STAR"] * len(rows),
                }
                if ids:
                    columns["gaia_source_id"] = source_id[rows]
                prepared = {
                    "flux": flux[rows].astype(np.float32),
                    "ivar": np.ones_like(flux[rows], np.float32),
                    "snr": np.full(len(rows), 30, np.float32),
                    "quality": np.zeros(len(rows), np.int32),
                    "n_repaired": np.zeros(len(rows), np.int32),
                }
                table = spectra_table(modality, metadata_table(columns, modality.columns), prepared)
                rejected = store.rejected(name)
                writer.commit_ingest(modality, Batch(number, len(rows)), table, rejected, made)
        if not ids:
            pairs = pa.table({"lamost_lrs": np.arange(n) + 1000, "gaia_xp": source_id, "separation_arcsec": np.zeros(n)})
            writer.put("pairs/lamost_lrs-gaia_xp.parquet", pairs, {"made_by": "test"})
    return store
