"""The recipe of `specclip-mini`: simulated pairs, objective, figures, and the whole in miniature."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from indexer.evaluate.measures import partner_ranks, recalls, repeat_visits
from indexer.train import data as training_data
from indexer.train.data import load_xp, read_pairs
from indexer.train.figures import pair_figures, real_pair_figures
from indexer.train.mini import MiniData, main, make_objective, train_encoder, typical_errors
from indexer.train.mini_config import MINI
from indexer.train.objective import MODALITIES, Guided, MiniObjective, same_star_loss
from indexer.train.optimiser import initialise, initialise_input
from indexer.train.pairs import PAIR_LABELS, load_pairs
from indexer.train.views import ViewSettings, noisy_views, xp_noise_root
from specdb.encoders.card import Card, load_model
from specdb.encoders.clip import ClipModel
from specdb.encoders.encoder import Encoder
from specdb.errors import InputError, TrainingError
from tests.indexer.training import TINY, shorter, synthetic, synthetic_data, synthetic_pairs, synthetic_xp


@pytest.fixture(scope="module")
def data() -> MiniData:
    return synthetic_data()


def every_row(data: MiniData) -> tuple[np.ndarray, np.ndarray]:
    return np.ones(len(data.lrs), bool), np.ones(len(data.xp), bool)


@pytest.fixture(scope="module")
def trained(data: MiniData) -> Encoder:
    torch.set_num_threads(1)
    model = train_encoder(data, every_row(data), shorter(60), 0)
    return Encoder(model, Card("tiny", model.config))


class TestPairs:
    def test_parts_are_drawn_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr("indexer.train.pairs._PART_BATCHES", 1)
        pairs = load_pairs(300, 3, tmp_path)
        assert 290 < len(pairs) <= 300 and pairs.star.max() < 300
        assert pairs.labels.shape == (len(pairs), len(PAIR_LABELS)) and np.isfinite(pairs.labels).all()
        assert pairs.lrs_flux.shape[1] == 1462 and pairs.xp_flux.shape[1] == 343
        assert np.isfinite(pairs.lrs_flux).all() and np.isfinite(pairs.xp_flux).all() and (pairs.lrs_sigma >= 0).all()
        kept = sorted(tmp_path.iterdir())
        assert len(kept) == 2
        monkeypatch.setattr("indexer.train.pairs.PairSimulator", None)
        again = load_pairs(300, 3, tmp_path)
        np.testing.assert_array_equal(again.lrs_flux, pairs.lrs_flux)
        np.testing.assert_array_equal(load_pairs(200, 3, tmp_path).star, pairs.star[pairs.star < 200])

    def test_none(self, tmp_path):
        with pytest.raises(InputError, match="n is 0; draw at least one pair"):
            load_pairs(0, 0, tmp_path)


class TestRealXp:
    def test_missing_folder(self, tmp_path):
        with pytest.raises(InputError, match=r"has no folder field; XP spectra are sought in field"):
            load_xp(tmp_path, ("field",))

    def test_nothing_usable(self, tmp_path):
        (tmp_path / "field").mkdir()
        np.savez(tmp_path / "field" / "xp.npz", coefficients=np.zeros((2, 7)))
        with pytest.raises(InputError, match=r"holds no usable Gaia XP spectrum in field; name a folder with spectra"):
            load_xp(tmp_path, ("field",))

    @pytest.mark.shared
    def test_spectra_with_errors_win(self, shared):
        found = load_xp(shared, ("gaia_xp_field2000",))
        assert len(found) == len(np.unique(found.spectrum_id)) >= 1999
        assert np.isfinite(found.snr).sum() >= 1999
        known = read_pairs(shared)
        assert len(known) == 9 and np.isin(known[:, 1], found.spectrum_id).all()

    def test_pairs_need_both_columns(self, tmp_path):
        (tmp_path / "a_pairs.csv").write_text("lamost_obsid,xp_source_id\n11,12345678901234567\n")
        (tmp_path / "b_pairs.csv").write_text("obsid,teff\n11,5000\n")
        np.testing.assert_array_equal(read_pairs(tmp_path), [[11, 12345678901234567]])
        assert read_pairs(tmp_path / "a_pairs.csv").shape == (0, 2)

    def test_spectra_without_errors_take_typical_ones(self):
        xp = synthetic_xp()
        sigma = typical_errors(xp)
        np.testing.assert_allclose(sigma[-1] / xp.flux[-1], np.median(sigma[:40] / xp.flux[:40], axis=0), rtol=1e-5)


class TestXpViews:
    def test_noise_has_the_errors_and_is_smooth(self):
        flux, sigma = torch.ones(800, 343), torch.full((800, 343), 0.05)
        only_noise = ViewSettings(noise=(1, 1), continuum=0, window=0, bad_fraction=0)
        noise = noisy_views(flux, sigma, only_noise, torch.Generator().manual_seed(1), xp_noise_root()) - 1
        torch.testing.assert_close(noise.std(dim=0), torch.full((343,), 0.05), rtol=0.15, atol=0)
        neighbours = (noise[:, 1:] * noise[:, :-1]).mean() / 0.05**2
        assert neighbours > 0.8

    def test_first_layer_sees_components_of_equal_size(self):
        model = ClipModel(TINY.model)
        generator = torch.Generator().manual_seed(0)
        initialise(model, generator)
        backbone = model.gaia_xp_encoder.backbone
        flux = torch.from_numpy(synthetic_pairs().xp_flux)
        initialise_input(backbone, flux, generator)
        seen = backbone.input_proj(backbone.tokens(flux))
        torch.testing.assert_close(seen.mean(dim=0), torch.zeros(32), atol=1e-3, rtol=0)
        assert 0.2 < float(seen.std().detach()) < 1.5


class TestObjective:
    def test_other_visits_are_no_negatives(self):
        unit = torch.eye(3)
        alone = same_star_loss(unit, unit, torch.tensor([0, 1, 2]), 5.0)
        twins = same_star_loss(unit, unit, torch.tensor([0, 0, 2]), 5.0)
        assert twins < alone

    @pytest.fixture
    def objective(self, data) -> MiniObjective:
        return make_objective(data, every_row(data), TINY, 0, torch.Generator().manual_seed(0))

    def test_batch(self, data, objective):
        batch = objective.batch(torch.Generator().manual_seed(0))
        n_pairs = 48 - 16
        assert len(batch["pairs"]) == n_pairs + 16 + 32
        assert batch["lamost_lrs"].shape == (48, 1462) and batch["gaia_xp"].shape == (n_pairs + 16 + 16, 343)
        star = torch.from_numpy(data.lrs.star)[batch["real_lamost_lrs"].view(2, -1)]
        assert torch.equal(star[0], star[1])
        repeated = torch.isin(star[0], torch.from_numpy(data.lrs.star[120:]))
        rows = batch["real_lamost_lrs"].view(2, -1)
        assert (rows[0] != rows[1])[repeated].all() and (rows[0] == rows[1])[~repeated].all()
        pair = batch["pairs"][0]
        assert float((batch["lamost_lrs"][0] - objective.flux[0][pair].float()).abs().median()) < 0.05

    def test_parts_are_orthogonal(self, objective):
        axes = torch.cat([*objective.own, objective.common])
        torch.testing.assert_close(axes @ axes.T, torch.eye(24), atol=1e-5, rtol=0)
        assert len(objective.common) == 24 - (3 + 1 + 3) - (2 + 1 + 5)

    def test_own_parts_do_not_meet(self, data, objective):
        lrs, xp = (F.normalize(objective.pair_targets[i][:5] @ objective.own[i], dim=1) for i in (0, 1))
        torch.testing.assert_close(lrs @ xp.T, torch.zeros(5, 5), atol=1e-5, rtol=0)

    def test_shared_embedding_is_not_moved_by_decoders(self, data, objective):
        model = Guided(ClipModel(TINY.model), len(objective.common))
        batch = objective.batch(torch.Generator().manual_seed(0))
        losses = objective.losses(model, batch, torch.Generator().manual_seed(0))
        assert set(losses) - {"total"} == {
            "alignment", "truth", "target", "visits", "length", "masked", "reconstruction", "prediction"
        }  # fmt: skip
        assert all(math.isfinite(float(loss)) for loss in losses.values())
        (losses["prediction"] + losses["reconstruction"]).backward()
        encoder = model.model.lamost_lrs_encoder
        assert encoder.shared_mlp.encoder.weight.grad is None and encoder.private_mlp.encoder.weight.grad is not None


class TestRecipe:
    def test_finds_partners_and_visits(self, data, trained):
        torch.set_num_threads(1)
        fresh = synthetic_pairs(200, 9)
        lrs = trained.encode(fresh.lrs_flux.astype(np.float32), "lamost_lrs")["shared"]
        xp = trained.encode(fresh.xp_flux, "gaia_xp")["shared"]
        assert recalls(partner_ranks(lrs, xp), (10,))[0].value > 0.25
        assert recalls(partner_ranks(xp, lrs), (10,))[0].value > 0.25
        embedding = trained.encode(data.lrs.flux, "lamost_lrs")["shared"]
        assert repeat_visits(embedding, data.lrs.star)[1].value > 0.5

    def test_figures(self, data, trained):
        found = pair_figures(trained, synthetic_pairs(100, 9))
        assert {r["k"] for r in found["gaia_xp -> lamost_lrs"]["recall"]} == {1, 10, 100}
        assert found["lamost_lrs -> gaia_xp"]["recall"][-1]["value"] == 1
        assert sum(r[0]["n_queries"] for r in found["lamost_lrs -> gaia_xp"]["by_snr"].values()) == 100
        assert set(found["xp_neighbours"]) == {"tiny", "pca50"} and set(found["xp_neighbours"]["tiny"]) == set(PAIR_LABELS)
        assert 0 < found["translation"]["gaia_xp"]["median_relative_error"] < 0.3
        fresh = synthetic_pairs(30, 9)
        real = real_pair_figures(trained, fresh.lrs_flux[:3].astype(np.float32), fresh.xp_flux, np.array([0, 1, 2]))
        assert len(real["ranks"]) == 3 and real["n_sources"] == 30 and min(real["ranks"]) >= 1

    def test_same_seed_same_weights(self, data):
        one, two, other = (train_encoder(data, every_row(data), shorter(3), seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[k], two[k]) for k in one)
        assert any(not torch.equal(one[k], other[k]) for k in one)

    def test_killed_and_resumed_equals_undisturbed(self, tmp_path, data):
        class Killed(Exception):
            pass

        def die(line: str) -> None:
            if line.startswith("step 10/"):
                raise Killed

        path, config = tmp_path / "run.checkpoint", shorter(15)
        with pytest.raises(Killed):
            train_encoder(data, every_row(data), config, 0, checkpoint=path, log=die)
        resumed = train_encoder(data, every_row(data), config, 0, checkpoint=path).state_dict()
        undisturbed = train_encoder(data, every_row(data), config, 0).state_dict()
        assert all(torch.equal(resumed[k], undisturbed[k]) for k in undisturbed)

    def test_too_little_data(self, data):
        few = np.arange(len(data.lrs)) < 10
        with pytest.raises(InputError, match="10 usable LAMOST spectra to train on; at least 16 are needed: give more data"):
            train_encoder(data, (few, every_row(data)[1]), TINY, 0)
        with pytest.raises(InputError, match="3 usable Gaia XP spectra to train on; at least 16 are needed"):
            train_encoder(data, (every_row(data)[0], np.arange(len(data.xp)) < 3), TINY, 0)
        with pytest.raises(InputError, match="50 pairs to train on; a batch takes 96: draw more"):
            train_encoder(replace(data, pairs=data.pairs.take(slice(0, 50))), every_row(data), TINY, 0)

    def test_a_loss_that_is_not_finite_saves_the_batch(self, tmp_path, data):
        pairs = replace(data.pairs, xp_flux=data.pairs.xp_flux.copy())
        pairs.xp_flux[200:] = np.nan
        with pytest.raises(TrainingError, match=r"is not finite.*The batch is in .*look for bad spectra"):
            train_encoder(replace(data, pairs=pairs), every_row(data), TINY, 0, checkpoint=tmp_path / "run.checkpoint")

    def test_command_writes_weights_card_and_figures(self, tmp_path, monkeypatch, capsys):
        known = np.array([[0, 1000], [3, 1007], [77777, 1001]])
        monkeypatch.setattr("indexer.train.mini.load_lamost", lambda folder: synthetic())
        monkeypatch.setattr("indexer.train.mini.load_xp", lambda folder, subfolders: synthetic_xp())
        monkeypatch.setattr("indexer.train.mini.read_pairs", lambda folder: known)

        def pairs(n: int, seed: int, folder: Path, workers: int) -> object:
            folder.mkdir(exist_ok=True)
            return synthetic_pairs(n, seed % 1000)

        monkeypatch.setattr("indexer.train.mini.load_pairs", pairs)
        monkeypatch.setattr("indexer.train.mini.MiniConfig", lambda: TINY)
        out = tmp_path / "mini"
        main(["--data", str(tmp_path), "--out", str(out), "--steps", "2", "--pairs", "200", "--threads", "1"])
        model, card = load_model(out)
        assert card.preparation == {"lamost_lrs": ("specclip-lrs", 1), "gaia_xp": ("specclip-xp", 1)}
        assert {"specclip-mini", "pixels", "pca50", "simulated_pairs", "real_pairs"} <= set(card.metrics)
        assert card.metrics["real_pairs"]["n_visits"] == 2
        assert card.training["labels_used"] and card.training["held_out"] == {"left_out_of_weights": False, "n_folds": 4}
        assert card.training["data"]["lamost_lrs"]["files_sha256"] == "lrs"
        assert str(tmp_path) not in card.provenance["command"]
        assert sorted(p.name for p in out.iterdir()) == ["card.json", "model.safetensors"]
        assert "going on with all stars" in capsys.readouterr().out
        assert not any(p.requires_grad for p in model.parameters())


class TestShipped:
    @pytest.fixture
    def metrics(self) -> dict:
        folder = Path(training_data.__file__).parents[2] / "data" / "encoders" / "specclip-mini"
        assert sum(p.stat().st_size for p in folder.iterdir()) < 12 * 2**20
        return json.loads((folder / "card.json").read_text())["metrics"]

    def test_size_on_paper(self):
        assert sum(v.numel() for v in ClipModel(MINI).state_dict().values()) * 4 < 12e6
        assert ClipModel(MINI).modalities == MODALITIES

    def test_within_lamost_it_beats_principal_components(self, metrics):
        """The figures on the shipped card were measured on held-out stars; they must stay ahead of the baselines."""
        mini, components = metrics["specclip-mini"], metrics["pca50"]
        assert all(a["value"] > b["value"] for a, b in zip(mini["recall"], components["recall"], strict=True))
        for label, figures in mini["knn"].items():
            assert figures["sigma"] < components["knn"][label]["sigma"]
            assert figures["r2"] > components["knn"][label]["r2"]

    def test_across_instruments(self, metrics):
        pairs, real = metrics["simulated_pairs"], metrics["real_pairs"]
        for way in ("lamost_lrs -> gaia_xp", "gaia_xp -> lamost_lrs"):
            assert pairs[way]["recall"][-1]["value"] > 30 * 100 / pairs["n_pairs"]
        assert real["median_rank"] < real["n_sources"] / 10
        for translation in (pairs["translation"]["gaia_xp"], real["translation"]):
            assert translation["median_relative_error"] < translation["nearest_neighbour"]
