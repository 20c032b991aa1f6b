"""Properties of the models that need no reference data: shapes, training, masks, the rewritten attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from specdb.encoders.clip import ClipModel, contrastive_loss
from specdb.encoders.config import ClipConfig, HeadConfig, LrsTransformerConfig, config_from_dict, config_to_dict
from specdb.encoders.heads import AttentionPool
from specdb.encoders.models import build
from specdb.encoders.transformer import SelfAttention, masked_reconstruction_loss, standardise
from specdb.errors import CheckpointError, InputError
from tests.encoders.helpers import LRS, SMALL, XP, small_model, spectra


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("kind", [k for k in SMALL if k != "mlp_head"])
def test_embeddings_are_matrices(kind, n):
    model = small_model(kind).eval()
    for modality in model.modalities:
        n_pixels = {"lamost_lrs": 1462, "gaia_xp": 343}[modality]
        out = model.embed(spectra(n, n_pixels), modality)
        assert {k: v.shape for k, v in out.items()} == {k: (n, d) for k, d in model.outputs(modality).items()}


@pytest.mark.parametrize("kind", ["lrs_mt", "xp_mt", "xp_oae", "split"])
def test_flat_spectrum_gives_no_nan(kind):
    model = small_model(kind).eval()
    for modality in model.modalities:
        flux = torch.ones(2, {"lamost_lrs": 1462, "gaia_xp": 343}[modality])
        assert all(v.isfinite().all() for v in model.embed(flux, modality).values())


def test_standardise_uses_the_unbiased_deviation():
    flux = spectra(4, 50)
    mean, std, z = standardise(flux)
    assert torch.allclose(std[:, 0], flux.std(dim=1, correction=1))
    assert torch.allclose(z.std(dim=1), torch.ones(4)) and torch.allclose(z.mean(dim=1), torch.zeros(4), atol=1e-6)
    assert mean.shape == (4, 1)


@pytest.mark.parametrize(("n_pixels", "sections"), [(1462, 145), (1460, 144), (1461, 145), (1470, 145)])
def test_last_section_is_dropped(n_pixels, sections):
    config = LrsTransformerConfig(n_pixels=n_pixels, width=8, n_layers=1, n_heads=1)
    assert config.n_tokens == sections + 1
    assert build(config).tokens(spectra(2, n_pixels)).shape == (2, sections + 1, 21)


def test_attention_scale_is_applied_twice():
    torch.manual_seed(0)
    attention = SelfAttention(12, 3, 0.0).eval()
    x = 3 * torch.randn(2, 5, 12)
    q = attention.q_proj(x).view(2, 5, 3, 4).transpose(1, 2)
    k, v = (a.view(2, 5, 3, 4).transpose(1, 2) for a in attention.kv_proj(x).chunk(2, dim=-1))
    want = attention.out_proj(((q @ k.mT / 4).softmax(-1) @ v).transpose(1, 2).reshape(2, 5, 12))
    assert torch.allclose(attention(x), want, atol=1e-6)


@pytest.mark.parametrize("dim", [24, 16])  # equal to the token width (fused weights), and different
def test_pooling_equals_standard_attention(dim):
    torch.manual_seed(1)
    pool = AttentionPool(24, dim, 4, 0.0).eval()
    torch.nn.init.normal_(pool.multihead_attn.in_proj_bias)
    torch.nn.init.normal_(pool.query)
    tokens = torch.randn(3, 7, 24)
    attended, _ = pool.multihead_attn(pool.query.expand(3, -1, -1), tokens, tokens)
    assert torch.allclose(pool(tokens), pool.layernorm(attended[:, 0]), atol=1e-5)


def test_random_mask():
    model = build(LrsTransformerConfig(width=8, n_layers=1, n_heads=1))
    generator = torch.Generator().manual_seed(5)
    mask = model.random_mask(200, generator)
    assert mask.shape == (200, 146) and mask.dtype == torch.bool
    assert (mask.sum(dim=1) == 60).all()  # six runs of ten, never overlapping
    assert not mask[:, 0].any() and len(mask.unique(dim=0)) > 100
    assert torch.equal(mask, model.random_mask(200, torch.Generator().manual_seed(5)))


def test_mask_hides_tokens_from_the_model():
    model = small_model("lrs_mt").eval()
    flux = spectra(2, 1462)
    mask = model.random_mask(2, torch.Generator().manual_seed(0))
    tokens = model.tokens(flux)
    changed = torch.where(mask[..., None], torch.full_like(tokens, 9.0), tokens)
    assert torch.equal(model(tokens, mask), model(changed, mask))
    assert not torch.equal(model(tokens), model(changed))


def test_masked_reconstruction_loss_counts_hidden_tokens_only():
    tokens, mask = torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.bool)
    mask[0, 1] = True
    guess = torch.ones(2, 4, 3)
    guess[0, 1] = 2.0
    assert masked_reconstruction_loss(guess, tokens, mask) == 4.0
    assert masked_reconstruction_loss(guess, tokens, torch.zeros_like(mask)) == 0.0


def test_masked_modelling_learns():
    model = small_model("lrs_mt").train()
    tokens, generator = model.tokens(spectra(8, 1462)), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    history = []
    for _ in range(12):
        mask = model.random_mask(8, generator)
        loss = masked_reconstruction_loss(model.reconstruct(model(tokens, mask)), tokens, mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.item())
    assert history[-1] < history[0]


@pytest.mark.parametrize("kind", ["base", "r", "p", "pr", "split"])
def test_every_parameter_of_a_clip_model_gets_a_gradient(kind):
    model = small_model(kind).train()
    losses = model.losses(spectra(6, 1462), spectra(6, 343, seed=1))
    expected = {"base": 0, "r": 1, "p": 1, "pr": 2, "split": 2}[kind]
    assert len(losses) == 2 + expected
    losses["total"].backward()
    without = {n for n, p in model.named_parameters() if p.grad is None}
    unused = ("backbone.head.", "backbone.bottleneck_up", "backbone.decoder_blocks", "backbone.output_proj")
    assert all(any(u in name for u in unused) for name in without)


def test_dropout_acts_in_training_only():
    model = small_model("split")
    flux = spectra(2, 1462)
    assert not torch.equal(*(model.train().embed(flux, "lamost_lrs")["shared"] for _ in range(2)))
    assert torch.equal(*(model.eval().embed(flux, "lamost_lrs")["shared"] for _ in range(2)))


def test_one_modality_alone():
    model = small_model("split_lrs")
    assert model.modalities == ("lamost_lrs",)
    assert not any("gaia" in name or "_decoder" in name for name in model.state_dict())
    with pytest.raises(InputError, match="without reconstruction decoders"):
        model.reconstruct({}, "lamost_lrs")
    with pytest.raises(InputError, match="without prediction decoders"):
        model.predict({}, "gaia_xp")


def test_contrastive_loss_is_least_for_aligned_pairs():
    a = F.normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    assert contrastive_loss(a, a) < contrastive_loss(a, a.roll(1, dims=0))
    assert contrastive_loss(torch.zeros(2, 4), torch.zeros(2, 4)).isfinite()


@pytest.mark.parametrize("kind", list(SMALL))
def test_configuration_survives_json(kind):
    assert config_from_dict(config_to_dict(SMALL[kind])) == SMALL[kind]


def test_impossible_configurations():
    with pytest.raises(InputError, match="not a multiple of n_heads"):
        LrsTransformerConfig(width=10, n_heads=3)
    with pytest.raises(InputError, match="less than the 146 tokens"):
        LrsTransformerConfig(n_positions=100)
    with pytest.raises(InputError, match="cannot be divided among 4 heads"):
        HeadConfig(shared=30)
    with pytest.raises(InputError, match="variant 'best' is unknown"):
        ClipConfig("best")
    with pytest.raises(InputError, match="only `split` has them"):
        ClipConfig("split")
    with pytest.raises(InputError, match="at least one modality"):
        ClipConfig("base", None, None)
    with pytest.raises(CheckpointError, match="architecture 'vit' is unknown"):
        config_from_dict({"architecture": "vit"})
    with pytest.raises(CheckpointError, match=r"configuration does not fit.*settings are"):
        config_from_dict({"architecture": "lrs_mt", "depth": 3})


def test_clip_forward_is_embed():
    model = ClipModel(ClipConfig("base", LRS, XP, HeadConfig(16, xp_inner=20))).eval()
    flux = spectra(2, 343)
    assert torch.equal(model(flux, "gaia_xp")["shared"], model.embed(flux, "gaia_xp")["shared"])
    assert torch.equal(model.n_pixels("gaia_xp") * torch.ones(()), torch.tensor(343.0))
