"""Encoder, card and registry: what the rest of specdb relies on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from specdb.encoders import registry
from specdb.encoders.card import Card, load_card, load_model, save_model, weight_hash
from specdb.encoders.encoder import Encoder, has_native_bfloat16
from specdb.encoders.registry import encoder_folder, list_encoders, load_encoder, user_folder
from specdb.errors import CheckpointError, InputError
from tests.encoders.helpers import SMALL, small_model, spectra

PREPARATION = {"lamost_lrs": ("specclip-lrs", 1), "gaia_xp": ("specclip-xp", 1)}


def save(folder: Path, kind: str = "both", name: str = "tiny") -> Card:
    return save_model(folder / name, small_model(kind), Card(name, SMALL[kind], PREPARATION, training={"seed": 0}))


@pytest.fixture
def encoder(tmp_path) -> Encoder:
    save(tmp_path)
    return load_encoder(tmp_path / "tiny")


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A user folder with nothing but what the test puts there, and nothing shipped."""
    monkeypatch.setenv("SPECDB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(registry, "shipped_folder", lambda: tmp_path / "shipped")
    return tmp_path


def flux(n: int, n_pixels: int = 1462, seed: int = 0) -> np.ndarray:
    return spectra(n, n_pixels, seed).numpy()


def test_attributes(encoder):
    assert encoder.name == "tiny" and encoder.metric == "cosine"
    assert encoder.modalities == ("lamost_lrs", "gaia_xp")
    assert encoder.outputs("lamost_lrs") == {"shared": 16, "private": 8}
    assert encoder.n_grid("lamost_lrs") == 1462 and encoder.n_grid("gaia_xp") == 343
    assert encoder.preparation["gaia_xp"] == ("specclip-xp", 1)
    assert len(encoder.weight_hash) == 64 and encoder.weight_hash[:16] in repr(encoder)


@pytest.mark.parametrize("modality", ["lamost_lrs", "gaia_xp"])
def test_shared_is_of_unit_length_and_private_is_raw(encoder, modality):
    x = flux(5, encoder.n_grid(modality))
    out, raw = encoder.encode(x, modality), encoder.encode(x, modality, normalise=False)
    assert out["shared"].dtype == np.float32 and out["shared"].shape == (5, 16)
    np.testing.assert_allclose(np.linalg.norm(out["shared"], axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(out["shared"] * np.linalg.norm(raw["shared"], axis=1)[:, None], raw["shared"], atol=1e-5)
    assert np.array_equal(out["private"], raw["private"])


def test_rows_do_not_depend_on_their_company(encoder):
    x = flux(40)
    whole = encoder.encode(x, "lamost_lrs", batch_size=16)
    for start, stop in [(0, 1), (3, 20), (39, 40), (17, 40)]:
        part = encoder.encode(x[start:stop], "lamost_lrs", batch_size=16)
        for name in whole:
            assert np.array_equal(part[name], whole[name][start:stop])


def test_unpadded_is_the_same_up_to_rounding(encoder):
    x = flux(3)
    short, padded = encoder.encode(x, "lamost_lrs", pad=False), encoder.encode(x, "lamost_lrs")
    np.testing.assert_allclose(short["shared"], padded["shared"], atol=1e-5)


def test_no_spectra(encoder):
    out = encoder.encode(np.empty((0, 1462), np.float32), "lamost_lrs")
    assert out["shared"].shape == (0, 16) and out["private"].shape == (0, 8)


def test_pooled_transformer(tmp_path):
    save(tmp_path, "lrs_mt")
    encoder = load_encoder(tmp_path / "tiny")
    assert encoder.outputs("lamost_lrs") == {"shared": 32}
    x = flux(2)
    mean = encoder.model.embed(torch.from_numpy(x), "lamost_lrs")["shared"].numpy()
    np.testing.assert_allclose(encoder.encode(x, "lamost_lrs", normalise=False)["shared"], mean, atol=1e-6)


@pytest.mark.parametrize("native", [False, True])
def test_bfloat16(encoder, monkeypatch, native):
    monkeypatch.setattr("specdb.encoders.encoder.has_native_bfloat16", lambda: native)
    x = flux(8)
    exact = encoder.encode(x, "lamost_lrs")["shared"]
    rounded = encoder.encode(x, "lamost_lrs", precision="bfloat16")["shared"]
    assert not np.array_equal(rounded, exact)
    assert (rounded * exact).sum(axis=1).min() > 0.999
    block = encoder._variants["cpu", "bfloat16"].lamost_lrs_encoder.backbone.blocks[0].mlp[0].weight
    assert block.dtype == (torch.bfloat16 if native else torch.float32)
    assert np.array_equal(encoder.encode(x, "lamost_lrs")["shared"], exact)
    assert isinstance(has_native_bfloat16(), bool)


@pytest.mark.gpu
def test_gpu_gives_the_same_answer(encoder):
    x = flux(20)
    on_cpu, on_gpu = (encoder.encode(x, "lamost_lrs", device=d)["shared"] for d in ("cpu", "cuda"))
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-4)


def test_batch_sizes(encoder):
    for modality in encoder.modalities:
        sizes = [encoder.batch_size(modality, device) for device in ("cpu", "cuda:0")]
        assert all(8 <= s <= 1024 and s & (s - 1) == 0 for s in sizes) and sizes[0] <= sizes[1]


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (flux(2, 1400), {}, r"flux has shape \(2, 1400\).*\(n, 1462\)"),
        (flux(2)[0], {}, r"flux has shape \(1462,\)"),
        (np.full((2, 1462), "x"), {}, "numbers are needed"),
        (np.where(np.arange(1462) == 7, np.nan, flux(3)), {}, "3 of 3 spectra hold NaN or infinity .first: row 0."),
        (flux(2), {"batch_size": 0}, "batch_size is 0"),
        (flux(2), {"precision": "float16"}, "precision 'float16' is unknown; choose float32 or bfloat16"),
        (flux(2), {"device": "abacus"}, "device 'abacus' cannot be used.*this machine has cpu"),
        (flux(2), {"device": "cuda:99"}, "device 'cuda:99' cannot be used.*this machine has cpu"),
    ],
)
def test_bad_input(encoder, array, options, message):
    with pytest.raises(InputError, match=message):
        encoder.encode(array, "lamost_lrs", **options)


def test_unknown_modality(encoder):
    with pytest.raises(InputError, match="knows no 'weave'; it encodes lamost_lrs, gaia_xp, desi, sdss"):
        encoder.encode(flux(2), "weave")


@pytest.mark.parametrize("kind", list(SMALL))
def test_save_and_load(tmp_path, kind):
    model = small_model(kind)
    card = save_model(tmp_path / "m", model, Card("m", SMALL[kind], PREPARATION, title="Test", metrics={"x": 1.5}))
    loaded, again = load_model(tmp_path / "m")
    assert again == card and load_card(tmp_path / "m") == card
    assert card.weight_hash == weight_hash(model.state_dict()) and not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True))
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["card.json", "model.safetensors"]


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / name)
    for file in ("card.json", "model.safetensors"):
        assert (tmp_path / "a" / "tiny" / file).read_bytes() == (tmp_path / "b" / "tiny" / file).read_bytes()


def test_weight_hash_sees_names_and_shapes():
    a = torch.arange(6.0)
    hashes = {weight_hash(s) for s in ({"a": a}, {"b": a}, {"a": a.view(2, 3)}, {"a": a.double()}, {"a": a + 1})}
    assert len(hashes) == 5


def test_nan_weights_are_not_saved(tmp_path):
    model = small_model("xp_oae")
    with torch.no_grad():
        model.input_proj.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match="1 weights of m hold NaN or infinity"):
        save_model(tmp_path, model, Card("m", SMALL["xp_oae"]))
    with pytest.raises(CheckpointError, match="is not the card's"):
        save_model(tmp_path, small_model("lrs_mt"), Card("m", SMALL["xp_oae"]))


def test_damaged_folders(tmp_path):
    save(tmp_path)
    folder = tmp_path / "tiny"
    card, weights = folder / "card.json", folder / "model.safetensors"
    good_card, good_weights = card.read_text(), weights.read_bytes()

    weights.write_bytes(good_weights[:-1] + bytes([good_weights[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"its card says.*changed or is damaged"):
        load_model(folder)
    weights.write_bytes(good_weights[: len(good_weights) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_model(folder)
    weights.write_bytes(good_weights)

    values = json.loads(good_card)
    values["config"]["head"]["shared"] = 24
    card.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"do not fit the architecture: .* has shape .* and \d+ more"):
        load_model(folder)
    for text, message in [
        ("{", "is not the card of an encoder"),
        ("{}", "is not the card of an encoder"),
        ("[]", "is not the card of an encoder"),
        (json.dumps(json.loads(good_card) | {"format_version": 99}), "format version 99; this specdb reads up to 1"),
        (json.dumps(json.loads(good_card) | {"colour": "red"}), "is not the card of an encoder"),
    ]:
        card.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            load_card(folder)
    card.unlink()
    with pytest.raises(CheckpointError, match=r"an encoder is a folder with card.json and model.safetensors"):
        load_card(folder)


def test_registry(home):
    save(user_folder(), name="mine")
    save(home / "shipped", name="specclip-mini")
    save(home / "shipped", name="both")
    save(user_folder(), name="both")
    assert [(e.name, e.origin) for e in list_encoders()] == [
        ("both", "shipped"),
        ("specclip-mini", "shipped"),
        ("mine", "user"),
    ]
    assert load_encoder().name == "specclip-mini"
    assert load_encoder("mine").name == "mine"
    assert encoder_folder(str(user_folder() / "mine")) == user_folder() / "mine"


def test_registry_lists_damaged_encoders(home):
    save(user_folder(), name="good")
    (user_folder() / "bad").mkdir()
    (user_folder() / "bad" / "card.json").write_text("{")
    entries = {e.name: e for e in list_encoders()}
    assert entries["bad"].card is None and "not the card" in entries["bad"].problem
    assert entries["good"].card is not None


def test_unknown_encoder(home):
    with pytest.raises(InputError, match=r"no encoder is called 'nope'.*known encoders: none.*encoders pull specclip-split"):
        load_encoder("nope")


def test_head_is_no_encoder(home):
    save(user_folder(), "mlp_head", "head")
    with pytest.raises(CheckpointError, match="holds a parameter head"):
        load_encoder("head")


def test_user_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SPECDB_HOME", str(tmp_path))
    assert user_folder() == tmp_path / "encoders"
    monkeypatch.delenv("SPECDB_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setattr("sys.platform", "linux")
    assert user_folder() == tmp_path / "c" / "specdb" / "encoders"
    monkeypatch.setattr("sys.platform", "darwin")
    assert user_folder().parts[-4:] == ("Library", "Caches", "specdb", "encoders")
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert user_folder() == tmp_path / "local" / "specdb" / "encoders"


def test_importing_the_package_does_not_import_torch():
    code = (
        "import sys, specdb.encoders as e; e.list_encoders(); assert 'torch' not in sys.modules; assert 'Encoder' in dir(e)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import specdb.encoders as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing
