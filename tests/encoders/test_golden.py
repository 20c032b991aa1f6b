"""Outputs of the SpecCLIP family against the official code, under the weights rule of the reference data."""

from __future__ import annotations

import hashlib
import json
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from specdb.encoders.clip import contrastive_logits
from specdb.encoders.config import (
    ClipConfig,
    Config,
    LrsTransformerConfig,
    MlpHeadConfig,
    XpAutoencoderConfig,
    XpTransformerConfig,
)
from specdb.encoders.models import Model, build

pytestmark = pytest.mark.shared

CONFIGS: dict[str, Config] = {
    "lrs_mt": LrsTransformerConfig(),
    "xp_mt": XpTransformerConfig(),
    "xp_oae": XpAutoencoderConfig(),
    "clip_base": ClipConfig.official("base"),
    "clip_pr": ClipConfig.official("pr"),
    "clip_split": ClipConfig.official("split"),
    "mlp_head_1024_512_64": MlpHeadConfig(),
    "mlp_head_768_128_32": MlpHeadConfig(hidden=(768, 128, 32)),
}
EMBEDDING, DECODER, LOGIT, HEAD, LOSS, TOKEN = 1e-4, 2e-5, 2e-5, 1e-6, 1e-5, 1e-5


def rule_tensor(name: str, shape: list[int]) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.array(1, dtype=np.int64)
    v = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    if name.endswith("running_var"):
        v = 1 + 0.1 * abs(v)
    else:
        v = 0.02 * v + (1.0 if name.endswith("weight") and len(shape) == 1 else 0.0)
    return v.astype(np.float32)


@pytest.fixture(scope="module")
def shapes(golden: Path) -> dict:
    return json.loads((golden / "state_dicts.json").read_text())["models"]


@pytest.fixture(scope="module")
def digests(golden: Path) -> dict:
    return json.loads((golden / "weights_check.json").read_text())


@pytest.fixture(scope="module")
def want(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "forward.npz") as file:
        return {k: file[k] for k in file.files}


@pytest.fixture(scope="module")
def lrs(want: dict) -> torch.Tensor:
    return torch.from_numpy(want["lrs_input"])


@pytest.fixture(scope="module")
def xp(want: dict) -> torch.Tensor:
    return torch.from_numpy(want["xp_input"])


def load(name: str, shapes: dict, digests: dict) -> Model:
    """Build a model and fill it by the rule; fails unless names and shapes are exactly the official ones."""
    state, digest = {}, hashlib.sha256()
    for key, shape, dtype in shapes[name]:
        # The CLIP models have equal names, hence equal weights, for their backbones: draw these 85 million numbers once.
        array = backbone_tensor(key, tuple(shape)) if ".backbone." in key else rule_tensor(key, shape)
        assert str(array.dtype) == dtype
        digest.update(array.tobytes())
        state[key] = torch.from_numpy(array)
    assert digest.hexdigest() == digests[name]["sha256_of_all_tensor_bytes_in_order"]
    model = empty(name)
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def empty(name: str) -> Model:
    with torch.device("meta"):
        return build(CONFIGS[name])


@cache
def backbone_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return rule_tensor(name, list(shape))


@pytest.fixture(scope="module", autouse=True)
def _forget():
    yield
    backbone_tensor.cache_clear()


def close(got: torch.Tensor, want: np.ndarray, tolerance: float) -> None:
    assert got.shape == want.shape
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=tolerance)


def test_lrs_transformer(shapes, digests, want, lrs):
    model = load("lrs_mt", shapes, digests)
    tokens = model.tokens(lrs)
    close(tokens, want["lrs_mt_tokens"], TOKEN)
    x = model.data_embed(tokens[:1]) + model.position_embed.weight[:146]
    close(model.blocks[0](x), want["lrs_mt_block0_first"], EMBEDDING)
    embedding = model(tokens)
    close(embedding[:1], want["lrs_mt_embedding_first"], EMBEDDING)
    close(model.reconstruct(embedding), want["lrs_mt_reconstructions"], EMBEDDING)
    close(model.embed(lrs, "lamost_lrs")["shared"], want["lrs_mt_mean"], EMBEDDING)
    close(model.embed(lrs[:1], "lamost_lrs")["shared"], want["lrs_mt_mean"][:1], EMBEDDING)


def test_xp_transformer(shapes, digests, want, xp):
    model = load("xp_mt", shapes, digests)
    tokens = model.tokens(xp)
    close(tokens, want["xp_mt_tokens"], TOKEN)
    close(model.reconstruct(model(tokens)), want["xp_mt_reconstructions"], EMBEDDING)
    close(model.embed(xp, "gaia_xp")["shared"], want["xp_mt_mean"], EMBEDDING)


def test_xp_autoencoder(shapes, digests, want, xp):
    model = load("xp_oae", shapes, digests)
    tokens = model.tokens(xp)
    close(tokens, want["xp_oae_tokens"], TOKEN)
    latent = model(tokens)
    close(latent, want["xp_oae_latent"], EMBEDDING)
    close(model.reconstruct(latent), want["xp_oae_reconstructions"], EMBEDDING)


@pytest.mark.parametrize("name", ["clip_pr", "clip_split"])
def test_clip(name, shapes, digests, want, lrs, xp):
    model = load(name, shapes, digests)
    got = {"lrs": model.embed(lrs, "lamost_lrs"), "xp": model.embed(xp, "gaia_xp")}
    for short, embeddings in got.items():
        for part, value in embeddings.items():
            close(value, want[f"{name}_{short}_{part}" if name == "clip_split" else f"{name}_{short}"], EMBEDDING)
    close(contrastive_logits(got["xp"]["shared"], got["lrs"]["shared"]), want[f"{name}_logits_xp_lrs"], LOGIT)
    close(model.predict(got["lrs"], "gaia_xp"), want[f"{name}_lrs_to_xp"], DECODER)
    close(model.predict(got["xp"], "lamost_lrs"), want[f"{name}_xp_to_lrs"], DECODER)
    close(model.reconstruct(got["lrs"], "lamost_lrs"), want[f"{name}_recon_lrs"], DECODER)
    close(model.reconstruct(got["xp"], "gaia_xp"), want[f"{name}_recon_xp"], DECODER)
    key = {"clip_pr": "pr_total_clip_recon_predict", "clip_split": "split_total_clip_recon_cross"}[name]
    losses = model.losses(lrs[:6], xp)
    close(torch.stack(list(losses.values())), want[f"loss_{key}"], LOSS)
    single = model.embed(lrs[:1], "lamost_lrs")["shared"], model.embed(xp[:1], "gaia_xp")["shared"]
    assert [s.shape for s in single] == [(1, got["xp"]["shared"].shape[1])] * 2
    if name == "clip_pr":
        # Under the weights rule `clip_base` has the same encoders; only its names and its loss are a test of their own.
        base = empty("clip_base")
        assert {k: list(v.shape) for k, v in base.state_dict().items()} == {k: shape for k, shape, _ in shapes["clip_base"]}
        base.load_state_dict(
            {k: v for k, v in model.state_dict().items() if "decoder." not in k or "_encoder." in k}, assign=True
        )
        base.eval().requires_grad_(False)
        close(base.losses(lrs[:6], xp)["total"][None], want["loss_base"], LOSS)


@pytest.mark.parametrize("name", ["mlp_head_1024_512_64", "mlp_head_768_128_32"])
@pytest.mark.parametrize("modality", ["lrs", "xp"])
def test_mlp_head(name, modality, shapes, digests, want):
    model = load(name, shapes, digests)
    parts = [want[f"clip_split_{modality}_{part}"] for part in ("shared", "private")]
    embedding = torch.from_numpy(np.concatenate(parts, axis=1))
    mean, std = (torch.from_numpy(want[f"mlp_stats_{s}"]) for s in ("mean", "std"))
    close(model(embedding), want[f"{name}_{modality}"], HEAD)
    close(model((embedding - mean) / std), want[f"{name}_{modality}_stats"], HEAD)
