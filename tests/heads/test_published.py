"""Heads that others have trained: imported without executing anything, pickles only where they are trusted."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from specdb.cli.heads import heads
from specdb.encoders.config import MlpHeadConfig
from specdb.encoders.mlp_head import MlpHead
from specdb.errors import CheckpointError, InputError, ProvenanceError
from specdb.heads import HeadConfig, LabelFacts, evaluate_head, import_head, import_posterior, load_head, predict_survey
from specdb.heads.inputs import gather_labelled
from specdb.store import Store, read_table
from tests.heads.conftest import ENCODER, label_table

HASH = ENCODER["weight_hash"]
FEH = (LabelFacts("feh", "dex"),)
COMMON: dict[str, Any] = {"encoder": HASH, "modality": "toy"}


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


class Oracle:
    """Stands in for a posterior of sbi: labels are two of the inputs with noise."""

    def sample_batched(self, sample_shape: tuple, x: torch.Tensor, show_progress_bars: bool = True) -> torch.Tensor:
        return (x[:, :2] + 0.1 * torch.randn(len(x), 2)).expand(*sample_shape, -1, -1)


@pytest.fixture
def official(tmp_path: Path) -> tuple[Path, Path, MlpHead]:
    """A stand-in of the published layout for the 12 numbers of the toy embeddings."""
    torch.manual_seed(0)
    network = MlpHead(MlpHeadConfig(12, (16, 8), 1))
    network(torch.randn(64, 12))  # gives batch norm its statistics
    torch.save({"model_state_dict": network.state_dict()}, tmp_path / "feh.pt")
    stats = {"mean": np.linspace(-1, 1, 12).tolist(), "std": np.linspace(0.5, 2, 12).tolist()}
    (tmp_path / "feh_mean_std.json").write_text(json.dumps(stats))
    return tmp_path / "feh.pt", tmp_path / "feh_mean_std.json", network.eval()


def test_a_published_head_predicts_what_its_network_does(store: Store, stars: dict, official: tuple) -> None:
    path, stats, network = official
    import_head(store, path, "feh", FEH, stats=stats, scale=2.0, shift=0.5, **COMMON)
    head = load_head(store, "feh")
    data = gather_labelled(store, label_table(stars), "toy", "both", "toy-encoder")
    found = head.predict(data.x)
    given = json.loads(stats.read_text())
    z = ((data.x - np.array(given["mean"])) / np.array(given["std"])).astype(np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(z)).numpy() * 2 + 0.5
    np.testing.assert_allclose(found.mean, wanted, rtol=1e-4, atol=1e-5)
    assert np.isnan(found.sigma).all() and np.isnan(found.distance).all() and not found.flags.any()
    assert json.loads((store.root / "heads/feh/head.json").read_text())["labels"][0]["low"] is None
    predict_survey(store, head)
    assert read_table(store.root / store.tables("predictions/feh")[0])["feh_sigma"].null_count == 134
    figures = evaluate_head(store, head, label_table(stars)).figures()["labels"]["feh"]
    assert figures["n"] == 400 and np.isnan(figures["coverage_68"])


def test_teff_is_not_taken_for_a_logarithm(store: Store, official: tuple) -> None:
    path, stats, _ = official
    head = import_head(store, path, "teff", (LabelFacts("teff", "K"),), stats=stats, scale=100, shift=6000, **COMMON)
    assert 4000 < head.predict(np.zeros((1, 12), np.float32)).mean[0, 0] < 8000


def test_files_that_do_not_fit_are_refused(store: Store, official: tuple, tmp_path: Path) -> None:
    path, _, network = official
    state = network.state_dict()
    cases = {
        "missing": ({k: v for k, v in state.items() if k != "network.1.bias"}, r"network\.1\.bias is missing"),
        "extra": (state | {"network.99.bias": torch.zeros(2)}, r"network\.99\.bias is not part of the model"),
        "shape": (state | {"network.1.bias": torch.zeros(3)}, r"has shape \(3,\) instead of \(16,\)"),
        "strange": ({"a": torch.zeros(2)}, "belong to no model of the SpecCLIP family"),
    }
    for name, (content, message) in cases.items():
        torch.save({"model_state_dict": content}, tmp_path / f"{name}.pt")
        with pytest.raises(CheckpointError, match=message):
            import_head(store, tmp_path / f"{name}.pt", "feh", FEH, **COMMON)
    two = (*FEH, LabelFacts("logg"))
    with pytest.raises(InputError, match="has 1 outputs and 2 labels were named"):
        import_head(store, path, "feh", two, **COMMON)
    with pytest.raises(ProvenanceError, match="with weights b{16}"):  # noqa: RUF043
        import_head(store, path, "feh", FEH, encoder="b" * 64, modality="toy")
    torch.save(MlpHead(MlpHeadConfig(5, (4,), 1)).state_dict(), tmp_path / "narrow.pt")
    with pytest.raises(InputError, match="the head reads 5 numbers; toy embeddings by toy-encoder have both 12, shared 8"):
        import_head(store, tmp_path / "narrow.pt", "feh", FEH, **COMMON)
    for content, message in (
        ("{", "cannot be read as statistics"),
        (json.dumps({"mean": [0] * 12, "std": [1] * 11}), "12 means and 11 standard deviations; the head reads 12"),
        (json.dumps({"mean": [0] * 12, "std": [0] + [1] * 11}), "1 standard deviations are not positive"),
    ):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(InputError, match=message):
            import_head(store, path, "feh", FEH, stats=tmp_path / "bad.json", **COMMON)
    assert not list((store.root / "heads").glob("*"))


@pytest.mark.parametrize("how", ["pickle", "renamed", "torch", "inside"])
def test_hostile_files_execute_nothing(store: Store, tmp_path: Path, how: str) -> None:
    touched, path = tmp_path / "touched", tmp_path / ("bomb.pkl" if how == "pickle" else "bomb.pt")
    if how in ("pickle", "renamed"):
        path.write_bytes(pickle.dumps(Bomb(touched)))
    else:
        torch.save(Bomb(touched) if how == "torch" else {"model_state_dict": Bomb(touched)}, path)
    message = "not a byte of it was read; add --trust-pickle" if how == "pickle" else "holds no dictionary|older layout"
    with pytest.raises(CheckpointError, match=message):
        import_head(store, path, "feh", FEH, **COMMON)
    assert not touched.exists()


def test_a_trusted_posterior_teaches_a_head_and_is_not_kept(store: Store, tmp_path: Path, stars: dict) -> None:
    pytest.importorskip("sbi")
    path = tmp_path / "post.pkl"
    path.write_bytes(pickle.dumps(Oracle()))
    labels = (LabelFacts("a"), LabelFacts("b"))
    quick = {"steps": 60, "hidden": [32], "hidden_features": 16, "components": 1, "members_per_fold": 1, "draws": 100}
    head = import_posterior(store, path, "post", labels, settings=quick, **COMMON)
    x = gather_labelled(store, label_table(stars), "toy", "both", "toy-encoder").x
    assert np.corrcoef(load_head(store, "post").predict(x).mean[:, 0], x[:, 0])[0, 1] > 0.8
    assert head.sample(x[:4], 10).shape == (4, 10, 2)
    assert sorted(p.name for p in (store.root / "heads/post").iterdir()) == ["head.json", "head.safetensors"]
    with pytest.raises(InputError, match="draws 2 labels and 1 were named"):
        import_posterior(store, path, "post", FEH, settings=quick, **COMMON)
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(CheckpointError, match="holds a list, which draws no samples"):
        import_posterior(store, path, "post", labels, **COMMON)
    path.write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match="cannot be unpickled here"):
        import_posterior(store, path, "post", labels, **COMMON)


def test_command(store: Store, official: tuple, tmp_path: Path) -> None:
    path, stats, _ = official
    options = ["--encoder", HASH, "--modality", "toy", "--db", str(store.root)]
    done = CliRunner().invoke(
        heads, ["import", str(path), "--name", "f", "--label", "feh:dex", "--stats", str(stats), *options]
    )
    assert done.exit_code == 0, done.output
    assert load_head(store, "f").card.labels[0].unit == "dex"
    one = ["--name", "g", "--label", "feh"]
    assert "give two numbers" in CliRunner().invoke(heads, ["import", str(path), *one, "--rescale", "2", *options]).output
    both = ["--rescale", "2,1", "--trust-pickle"]
    assert "--rescale is for perceptrons" in CliRunner().invoke(heads, ["import", str(path), *one, *both, *options]).output
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([1]))
    warned = CliRunner().invoke(heads, ["import", str(tmp_path / "x.pkl"), *one, "--trust-pickle", *options])
    assert "runs now, with your rights" in warned.output and isinstance(warned.exception, CheckpointError)


def test_published_heads_are_not_trained() -> None:
    from specdb.heads.published import PublishedMlp

    with pytest.raises(InputError, match="is imported, not trained"):
        PublishedMlp.fit(None, HeadConfig("both", "published").resolved(), 0)  # type: ignore[arg-type]
