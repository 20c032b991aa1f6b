"""`specdb train`: configurations, streams, tasks, all variants from data to encoder, resume, and what can go wrong."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file

from indexer.train import recipe
from indexer.train.config import list_configs, load_config, parse_config
from indexer.train.loop import FAILED_BATCH, LoopSettings, fit, read_records
from indexer.train.recipe import CHECKPOINT, make_model, plan, train
from indexer.train.runtime import RuntimeSettings, launch
from indexer.train.sources import DatabaseSource, DataSettings, SimulatedSource, find_pairs
from indexer.train.split import held_out, sky_key
from indexer.train.streams import Stream
from indexer.train.tasks import hidden_features_loss
from specdb.encoders import build, load_card, load_encoder
from specdb.encoders.card import save_model
from specdb.errors import CheckpointError, DependencyError, InputError, ProvenanceError, TrainingError
from specdb.spectra import get_modality, metadata_table
from specdb.store import Store, spectra_table
from specdb.store.manifest import Batch
from tests.indexer.training_data import LEARNS, LRS_MODEL, XP_MODEL, XP_MT_MODEL, clip_toml, configured, make_database, toml


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return make_database(tmp_path_factory.mktemp("train") / "db")


class TestConfig:
    def test_named_trainings_have_the_published_sizes(self):
        assert set(list_configs()) == {
            "mini", "specclip-lrs-mt", "specclip-xp-oae", "specclip-xp-mt", "specclip-clip", "specclip-clip-r",
            "specclip-clip-p", "specclip-clip-pr", "specclip-clip-split",
        }  # fmt: skip
        millions = {name: round(plan(load_config(name)).parameters / 1e6) for name in list_configs() if name != "mini"}
        assert millions == {
            "specclip-lrs-mt": 43, "specclip-xp-oae": 43, "specclip-xp-mt": 43, "specclip-clip": 100,
            "specclip-clip-r": 134, "specclip-clip-p": 134, "specclip-clip-pr": 168, "specclip-clip-split": 126,
        }  # fmt: skip
        clip = load_config("specclip-clip-split")
        assert clip.model.logit_multiplier == 15.5 and clip.loop.batch_size // clip.loop.accumulate == 1024
        assert clip.loop.pace(clip.loop.steps // 10 - 1) == 1 and clip.loop.pace(clip.loop.steps - 1) < 1e-6

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[loop", r"test.toml is not TOML"),
            (
                "sed = 1\n[model]\narchitecture='xp_oae'",
                r"'sed' is unknown; known are seed, title, model, data, loop, start",
            ),
            ("[loop]\nsteps = 3", r"has no \[model\] with an architecture; give lrs_mt"),
            ("[model]\narchitecture='xp'", r"\[model\]: architecture 'xp' is unknown; this version knows lrs_mt"),
            ("[model]\narchitecture='xp_oae'\nwide=3", r"\[model\]: .*'wide'.*settings are n_pixels, hidden"),
            ("[model]\narchitecture='mlp_head'", r"use `specdb heads train`"),
            (toml(XP_MODEL, "[start]\nfroze = true"), r"\[start\]: 'froze' is unknown; known are model, lamost_lrs"),
            (toml(XP_MODEL).replace("steps = 6", "steps = 'x'"), r"\[loop\]: steps is 'x'; int is needed"),
            (toml(XP_MODEL).replace("steps = 6", "steps = true"), r"\[loop\]: steps is True; int is needed"),
            (toml(XP_MODEL).replace("steps = 6", "betas = [1]"), r"\[loop\]: betas is \[1\]; two numbers is needed"),
            (toml(XP_MODEL).replace("steps = 6", "steps = 0"), r"\[loop\]: steps is 0; it must be 1 or more"),
            (toml(XP_MODEL).replace("lr = 3e-3", "lr = 0"), r"lr is 0.0; it must be positive"),
            (toml(XP_MODEL).replace("steps = 6", "schedule = 'linear'"), r"schedule 'linear' is unknown; choose cosine"),
            (toml(XP_MODEL).replace('"adamw"', "'sgd'"), r"optimiser 'sgd' is unknown; choose muon, adamw"),
            (toml(XP_MODEL).replace("steps = 6", "accumulate = 3"), r"batch_size 16 is not a multiple of accumulate 3"),
            (toml(XP_MODEL).replace("validation = 0.2", "validation = 2"), r"a share between 0 and 1"),
            (toml(XP_MODEL).replace("validation = 0.2", "source = 'web'"), r"data source 'web' is unknown"),
            (toml(XP_MODEL, "[start]\nfresh = 'zero'"), r"fresh is 'zero'; choose published or scaled"),
            (toml(XP_MODEL, "[start]\ngaia_xp = 'a'"), r"are for CLIP models; give start.model"),
            ("loop = 3\n[model]\narchitecture='xp_oae'", r"\[loop\] must be a table of settings"),
            ("seed = -1\n[model]\narchitecture='xp_oae'", r"seed is -1; it must be between 0"),
        ],
    )
    def test_what_is_wrong_is_said(self, text, message):
        with pytest.raises(InputError, match=message):
            parse_config(text, "test.toml")

    def test_no_such_training(self):
        with pytest.raises(InputError, match=r"no training is called 'specclip'.*known trainings: specclip-clip, "):
            load_config("specclip")

    def test_schedules(self):
        warm = LoopSettings(steps=100, warm_up=0.1, schedule="warmup_cosine", final=0.0)
        assert [warm.pace(s) for s in (0, 9, 10)] == [0.1, 1, 1] and warm.pace(99) < 1e-3 < warm.pace(90)
        constant = LoopSettings(steps=100, warm_up=0.1, schedule="constant")
        assert constant.pace(0) == 0.1 and constant.pace(50) == constant.pace(99) == 1


class TestSplit:
    def test_both_instruments_hold_out_the_same_stars(self):
        rng = np.random.default_rng(0)
        ra, dec = rng.uniform(0, 360, 4000), np.degrees(np.arcsin(rng.uniform(-1, 1, 4000)))
        from indexer.simulate.xp_files import simulated_source_ids

        ids, none, number = simulated_source_ids(ra, dec, np.arange(4000)), np.zeros(4000, np.int64), np.arange(4000)
        by_id = sky_key(ids, np.full(4000, np.nan), dec, number)
        np.testing.assert_array_equal(by_id, sky_key(none, ra, dec, number))
        held = held_out(by_id, 0.2)
        assert 0.17 < held.mean() < 0.23 and (held_out(by_id, 0.5) | ~held).all()

    def test_spectra_without_place_are_stars_of_their_own(self):
        nowhere = sky_key(np.zeros(50, np.int64), np.full(50, np.nan), np.full(50, np.nan), np.arange(50))
        assert len(np.unique(nowhere)) == 50


class TestStream:
    def source(self, store, tmp_path, modalities=("lamost_lrs", "gaia_xp"), **settings) -> DatabaseSource:
        settings = {"validation": 0.2, "buffer": 48} | settings
        return DatabaseSource(store, modalities, DataSettings(**settings), 5, tmp_path / "partners.npy")

    def test_an_epoch_is_every_training_spectrum_once(self, store, tmp_path):
        source = self.source(store, tmp_path)
        assert source.n_chunks == 2 and sum(source.counts().values()) == 150
        chunks = [source.chunk(i) for i in range(4)]
        epochs = [np.concatenate([c["lamost_lrs"] for c in chunks[i : i + 2]]) for i in (0, 2)]
        assert all(len(np.unique(e[:, 0])) == len(e) == source.counts()["training"] for e in epochs)
        assert not np.array_equal(*epochs) and np.array_equal(*(np.sort(e[:, 0]) for e in epochs))
        held = source.validation()["lamost_lrs"][:, 0]
        assert not np.isin(held, epochs[0][:, 0]).any() and len(held) == source.counts()["validation"]
        assert np.array_equal(source.chunk(3)["gaia_xp"], chunks[3]["gaia_xp"])

    def test_partners_belong_to_one_star(self, store, tmp_path):
        chunk = self.source(store, tmp_path).chunk(0)
        strength = [
            1 - chunk["lamost_lrs"][:, c].mean() if c < 0 else 1 - chunk["lamost_lrs"][:, c] for c in (292, 730, 1169)
        ]
        fit_, *_ = np.linalg.lstsq(np.column_stack(strength), chunk["gaia_xp"][:, -1] - 1, rcond=None)
        residual = chunk["gaia_xp"][:, -1] - 1 - np.column_stack(strength) @ fit_
        assert residual.std() < 0.05 < chunk["gaia_xp"][:, -1].std()

    def test_pairs_of_the_table_and_of_equal_ids_are_the_same(self, store, tmp_path):
        other = make_database(tmp_path / "db", ids=False)
        (by_id, how), (by_table, table) = find_pairs(store), find_pairs(other)
        assert (how, table) == ("equal gaia_source_id", "pairs/lamost_lrs-gaia_xp.parquet")
        order = [("lamost_lrs", "ascending")]
        assert by_id.sort_by(order).equals(by_table.sort_by(order))

    def test_processes_share_batches_without_overlap_and_positions_are_exact(self, store, tmp_path):
        source = self.source(store, tmp_path)
        one = Stream(source, 20)
        two = [Stream(source, 20, rank, 2) for rank in (0, 1)]
        for _ in range(9):
            batch, halves = one.next()["lamost_lrs"], [s.next()["lamost_lrs"] for s in two]
            assert torch.equal(torch.stack(halves, 1).flatten(0, 1), batch)
        again = Stream(source, 20)
        again.seek(one.position())
        assert torch.equal(again.next()["gaia_xp"], one.next()["gaia_xp"])
        for stream in (one, again, *two):
            stream.close()

    def test_selection(self, store, tmp_path):
        with pytest.raises(InputError, match="0 pairs to train on and 0 held out; both are needed"):
            self.source(store, tmp_path, min_snr=31.0)
        assert self.source(store, tmp_path, ("gaia_xp",), stars_only=True).counts()["training"] > 100

    def test_simulated_pairs_go_on_after_the_held_out_ones(self):
        source = SimulatedSource(("gaia_xp",), DataSettings(source="simulated", validation_size=20, buffer=256), 0)
        held, first = source.validation()["gaia_xp"], source.chunk(0)["gaia_xp"]
        assert held.shape == (20, 343) and first.shape[0] <= 256 and not np.isin(held[:, 0], first[:, 0]).any()
        assert source.counts() == {"training": None, "validation": 20}
        assert set(source.preparation()) == {"gaia_xp"}


class TestRefusals:
    def test_no_database(self, tmp_path):
        with pytest.raises(InputError, match=r"reads a database; give one \(--db\), or set source"):
            train(configured(toml(XP_MODEL)), tmp_path / "out")

    def test_a_modality_that_is_not_there(self, tmp_path):
        empty = Store.create(tmp_path / "db", "specclip-mini")
        with pytest.raises(InputError, match=r"has no gaia_xp spectra \(it has: none\).*`specdb ingest gaia-xp PATH`"):
            train(configured(toml(XP_MODEL)), tmp_path / "out", db=empty.root)

    def test_unpaired_survey(self, store, tmp_path):
        lonely = make_database(tmp_path / "db", 40, ids=False)
        with lonely.writing() as writer:
            writer.remove(["pairs/lamost_lrs-gaia_xp.parquet"])
        with pytest.raises(InputError, match=r"no LAMOST spectrum in .* has a partner in Gaia XP.*specdb crossmatch"):
            train(configured(clip_toml("base")), tmp_path / "out", db=lonely.root)

    def _add_part(self, store: Store, version: int = 1, shift: float = 0.0) -> None:
        modality = get_modality("gaia_xp")
        modality = replace(modality, wavelength=modality.wavelength + shift)
        prepared = {name: np.ones((3, 343), np.float32) for name in ("flux", "ivar")}
        prepared |= {name: np.zeros(3, np.int32) for name in ("snr", "quality", "n_repaired")}
        rows = spectra_table(modality, metadata_table({"spectrum_id": [1, 2, 3]}, modality.columns), prepared)
        made = {"preparation": modality.preparation.name, "preparation_version": version}
        with store.writing() as writer:
            writer.commit_ingest(modality, Batch(9, 3), rows, store.rejected("gaia_xp"), made)

    def test_mismatched_grids(self, tmp_path):
        store = make_database(tmp_path / "db", 30)
        self._add_part(store, shift=1.0)
        with pytest.raises(ProvenanceError, match=r"part-00009.parquet lies on another grid \(343 samples\) than gaia_xp"):
            train(configured(toml(XP_MODEL)), tmp_path / "out", db=store.root)

    def test_mixed_preparations(self, tmp_path):
        store = make_database(tmp_path / "db", 30)
        self._add_part(store, version=2)
        with pytest.raises(ProvenanceError, match=r"prepared differently \(specclip-xp 1, specclip-xp 2\); ingest anew"):
            train(configured(toml(XP_MODEL)), tmp_path / "out", db=store.root)

    def test_batch_larger_than_the_data(self, store, tmp_path):
        config = configured(toml(XP_MODEL).replace("batch_size = 16", "batch_size = 500"))
        with pytest.raises(InputError, match=r"to train on are fewer than a micro-batch of 500; lower batch_size"):
            train(config, tmp_path / "out", db=store.root)

    def test_start_from_another_size_or_preparation(self, store, tmp_path):
        preparation = {"lamost_lrs": ("specclip-lrs", 1), "gaia_xp": ("specclip-xp", 1)}
        small = configured(toml(XP_MODEL.replace("latent = 24", "latent = 16")))
        save_model(tmp_path / "xp", build(small.model), recipe.Card("xp", small.model, {"gaia_xp": ("specclip-xp", 1)}))
        config = configured(clip_toml("base", f"[start]\ngaia_xp = '{tmp_path / 'xp'}'"))
        with pytest.raises(
            CheckpointError, match=r"do not fit the architecture: .*bottleneck.*give the sizes of .* in \[model\]"
        ):
            train(config, tmp_path / "out", db=store.root)
        with pytest.raises(ProvenanceError, match=r"preparation specclip-xp 1, the data here have specclip-xp 2"):
            make_model(config, preparation | {"gaia_xp": ("specclip-xp", 2)})
        lrs_only = replace(configured(clip_toml("base")).model, gaia_xp=None)
        save_model(tmp_path / "lrs", build(lrs_only), recipe.Card("lrs", lrs_only, {"lamost_lrs": ("specclip-lrs", 1)}))
        config = configured(clip_toml("base", f"[start]\ngaia_xp = '{tmp_path / 'lrs'}'"))
        with pytest.raises(CheckpointError, match="has no gaia_xp part to start from"):
            make_model(config, preparation)

    def test_a_loss_that_is_not_finite(self, store, tmp_path):
        config = configured(toml(XP_MODEL).replace("lr = 3e-3", "lr = 1e30\nclip = 1e30"))
        with pytest.raises(TrainingError, match=r"loss of step \d+ is not finite .*The batch is in .*failed_batch"):
            train(config, tmp_path / "out", db=store.root)
        assert load_file(tmp_path / "out" / FAILED_BATCH)["gaia_xp"].shape == (16, 343)

    def test_folder_of_another_encoder(self, store, tmp_path):
        config = configured(toml(XP_MODEL).replace("steps = 6", "steps = 1"))
        card = train(config, tmp_path / "out", db=store.root)
        assert train(config, tmp_path / "out") == card, "a finished training is only read"
        with pytest.raises(InputError, match=r"holds another encoder .*; choose a new folder"):
            train(replace(config, seed=9), tmp_path / "out", db=store.root)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("gpu",), r"device 'gpu' is unknown; choose cpu, cuda or cuda:NUMBER"),
            (("cpu", 0), "0 devices of 'cpu' were asked for"),
            (("cuda:99",), "this machine has . CUDA devices"),
            (("cpu", 1, "half"), "precision 'half' is unknown; choose float32 or bfloat16"),
        ],
    )
    def test_devices(self, arguments, message):
        with pytest.raises(InputError, match=message):
            RuntimeSettings(*arguments)

    def test_lightning_is_named_where_it_is_needed(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "lightning.fabric", None)
        with pytest.raises(DependencyError, match=r'needs Lightning; install it with: pip install "specdb\[train\]"'):
            launch(RuntimeSettings("cpu", 1, "bfloat16"), lambda runtime: None)

    def test_folder_of_pairs(self, tmp_path):
        with pytest.raises(InputError, match=r"has no lamost, gaia_xp/sampled, pairs.parquet; `specdb simulate pairs"):
            recipe.database_of_pairs(tmp_path, tmp_path / "db")


class TestTasks:
    def test_only_hidden_features_that_were_not_zero_count(self):
        tokens = torch.tensor([[[0.0, 2.0], [0.0, 3.0]]])
        mask = torch.tensor([[False, True]])
        guess = torch.tensor([[[9.0, 9.0], [9.0, 1.0]]])
        assert hidden_features_loss(guess, tokens, mask) == 4

    @pytest.mark.parametrize("model", [LRS_MODEL, XP_MODEL, XP_MT_MODEL], ids=["lrs_mt", "xp_oae", "xp_mt"])
    def test_pre_training_gets_better(self, store, tmp_path, model):
        config = configured(
            toml(model).replace("steps = 6", "steps = 40").replace("checkpoint_every = 2", "checkpoint_every = 10")
        )
        lines: list[str] = []
        card = train(config, tmp_path / "out", db=store.root, log=lines.append)
        rows = list(csv.DictReader((tmp_path / "out" / "losses.csv").open()))
        assert float(rows[-1]["validation/total"]) < 0.8 * float(rows[0]["validation/total"])
        assert lines[-1].startswith("step 40/40  total ") and len(rows) == 4
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "card.json",
            "losses.csv",
            "losses.png",
            "model.safetensors",
        ]
        encoder = load_encoder(tmp_path / "out")
        modality = encoder.modalities[0]
        flux = np.ones((2, encoder.n_grid(modality)), np.float32) + np.random.default_rng(0).normal(
            size=encoder.n_grid(modality)
        )
        assert np.isfinite(encoder.encode(flux, modality)["shared"]).all()
        assert card.training["data"]["training"] == 150 - card.training["data"]["validation"]
        assert card.metrics["total"] == float(rows[-1]["validation/total"])

    @pytest.mark.parametrize("variant", ["base", "r", "p", "pr", "split"])
    def test_alignment_of_all_variants(self, store, tmp_path, variant):
        config = configured(
            clip_toml(variant, LEARNS)
            .replace('"adamw"', '"muon"')
            .replace("steps = 6", "steps = 60")
            .replace("checkpoint_every = 2", "checkpoint_every = 20")
        )
        card = train(config, tmp_path / "out", db=store.root)
        records = list(csv.DictReader((tmp_path / "out" / "losses.csv").open()))
        first, last = (float(r["validation/total"]) for r in (records[0], records[-1]))
        assert last < first and card.metrics["recall@10"] > 0.5, "10 of 24 at random"
        parts = {"r": {"reconstruction"}, "p": {"prediction"}, "base": set()}.get(variant, {"reconstruction", "prediction"})
        assert {"contrastive", *parts} == set(card.metrics) - {"what", "total", "recall@1", "recall@10"}
        assert load_encoder(tmp_path / "out").modalities == ("lamost_lrs", "gaia_xp")

    def test_backbones_of_pre_trained_encoders_stay_or_move(self, store, tmp_path):
        pre = {"lamost_lrs": toml(LRS_MODEL), "gaia_xp": toml(XP_MODEL)}
        for modality, text in pre.items():
            train(configured(text), tmp_path / modality, db=store.root)
        start = "\n".join(f"{m} = '{tmp_path / m}'" for m in pre)
        for freeze in (True, False):
            config = configured(clip_toml("pr", f"[start]\n{start}\nfreeze = {str(freeze).lower()}"))
            out = tmp_path / f"clip-{freeze}"
            card = train(config, out, db=store.root)
            assert set(card.training["started_from"]) == set(pre)
            weights = load_file(out / "model.safetensors")
            for modality in pre:
                before = load_file(tmp_path / modality / "model.safetensors")
                name = next(n for n in before if n.endswith("_proj.weight") or n.endswith("data_embed.weight"))
                same = torch.equal(before[name], weights[f"{modality}_encoder.backbone.{name}"])
                assert same == freeze
        again = configured(clip_toml("pr", f"[start]\nmodel = '{tmp_path / 'clip-True'}'"))
        assert train(again, tmp_path / "again", db=store.root).training["started_from"] == {
            "model": load_card(tmp_path / "clip-True").weight_hash
        }

    def test_losses_are_the_published_ones(self, store, tmp_path):
        config = configured(clip_toml("split"))
        source = DatabaseSource(store, config.modalities, config.data, 0, tmp_path / "p.npy")
        model, _ = make_model(config, source.preparation())
        stream = Stream(source, 16)
        task = recipe.make_task(model, stream, source.validation(), recipe.Runtime())
        batch = task.batch(torch.Generator())
        model.eval()
        ours, reference = task.losses(model, batch, torch.Generator()), model.losses(**batch)
        assert all(torch.equal(ours[name], reference[name]) for name in reference)
        stream.close()


class _Stop(Exception):
    pass


class TestResume:
    @pytest.mark.parametrize("model", [toml(LRS_MODEL), clip_toml("split")], ids=["lrs_mt", "split"])
    def test_killed_at_any_checkpoint_equals_undisturbed(self, store, tmp_path, model, monkeypatch):
        config = configured(model.replace("steps = 6", "steps = 6\naccumulate = 2"))
        expected = train(config, tmp_path / "whole", db=store.root)

        for kill in (2, 4):
            out = tmp_path / f"killed-{kill}"

            def die(line: str, kill: int = kill) -> None:
                if line.startswith(f"step {kill}/"):
                    raise _Stop

            with pytest.raises(_Stop):
                train(config, out, db=store.root, log=die)
            assert [r["step"] for r in read_records(out / CHECKPOINT)] == list(range(2, kill + 1, 2))
            torch.manual_seed(kill)  # whatever the state of the process
            assert train(config, out, db=store.root).weight_hash == expected.weight_hash
            assert (out / "losses.csv").read_text() == (tmp_path / "whole" / "losses.csv").read_text()

    def test_another_setting_is_refused(self, store, tmp_path):
        config = configured(toml(XP_MODEL))

        def die(line: str) -> None:
            raise _Stop

        with pytest.raises(_Stop):
            train(config, tmp_path / "out", db=store.root, log=die)
        with pytest.raises(CheckpointError, match="belongs to a training with other settings, seed or data; delete it"):
            train(replace(config, seed=4), tmp_path / "out", db=store.root)

    def test_early_stopping_returns_the_best_weights(self):
        class Worse:
            def __init__(self) -> None:
                self.totals = [3.0, 1.0, 2.0, 2.0, 0.0]
                self.seen: list[torch.Tensor] = []

            def batch(self, generator):
                return {"x": torch.randn(4, 2, generator=generator)}

            def losses(self, model, batch, generator):
                return {"total": model(batch["x"]).square().mean()}

            def validate(self, model):
                self.seen.append(model.weight.detach().clone())
                return {"total": self.totals[len(self.seen) - 1]}

        model, problem = torch.nn.Linear(2, 2), Worse()
        settings = LoopSettings(steps=50, batch_size=4, checkpoint_every=5, optimiser="adamw", patience=2)
        assert len(fit(model, problem, settings, 0)) == 20
        assert torch.equal(model.weight, problem.seen[1])


def test_one_step_with_accumulation_is_one_step_without(store, tmp_path):
    """Mean squared errors of halves average to the whole's, so accumulating must change nothing but rounding."""
    weights = []
    for more in ("", "\naccumulate = 4"):
        config = configured(toml(XP_MODEL).replace("steps = 6", f"steps = 2{more}").replace("lr = 3e-3", "lr = 1e-4"))
        out = tmp_path / f"out{len(weights)}"
        train(config, out, db=store.root)
        weights.append(load_file(out / "model.safetensors"))
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=2e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_equal_one(store, tmp_path):
    """The contrastive loss compares all pairs and gradients are shared: two processes do what one does."""
    text = clip_toml("base").replace("dropout = 0.1", "dropout = 0.0").replace("steps = 6", "steps = 3")
    config = configured(text.replace("lr = 3e-3", "lr = 1e-4"))
    one = train(config, tmp_path / "one", db=store.root)
    two = train(config, tmp_path / "two", db=store.root, runtime=RuntimeSettings("cpu", 2))
    assert two.provenance["devices"] == 2
    assert two.metrics["total"] == pytest.approx(one.metrics["total"], abs=1e-4)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], atol=1e-4, rtol=0)
    with pytest.raises(
        TrainingError, match=r"one of the 2 processes stopped: .*15 spectra in a micro-batch cannot be shared"
    ):
        odd = configured(text.replace("batch_size = 16", "batch_size = 15"))
        train(odd, tmp_path / "odd", db=store.root, runtime=RuntimeSettings("cpu", 2))


@pytest.mark.slow
def test_bfloat16_through_fabric(store, tmp_path):
    config = configured(toml(LRS_MODEL).replace("steps = 6", "steps = 2"))
    card = train(config, tmp_path / "out", db=store.root, runtime=RuntimeSettings("cpu", 1, "bfloat16"))
    assert card.provenance["precision"] == "bfloat16" and np.isfinite(card.metrics["total"])
    assert load_file(tmp_path / "out" / "model.safetensors")["head.weight"].dtype == torch.float32


def test_pairs_table_prefers_the_nearest(tmp_path):
    store = make_database(tmp_path / "db", 30, ids=False)
    table = pa.table({"lamost_lrs": [1000, 1000], "gaia_xp": [1 << 43, 2 << 43], "separation_arcsec": [2.0, 0.1]})
    with store.writing() as writer:
        writer.put("pairs/lamost_lrs-gaia_xp.parquet", table, {})
    assert find_pairs(store)[0]["gaia_xp"].to_pylist()[0] == 2 << 43
