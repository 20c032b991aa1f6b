"""Training: splits, views, targets, figures of merit, the loop's resume and stop, and the recipe in miniature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from indexer.evaluate.measures import evaluate, neighbour_labels, repeat_visits
from indexer.train.data import TrainingSet, load_lamost, read_labels, read_packed, split_stars, star_groups
from indexer.train.loop import FAILED_BATCH, LoopSettings, fit
from indexer.train.mini import make_objective
from indexer.train.mini_config import MINI
from indexer.train.objective import Guided
from indexer.train.optimiser import initialise, make_optimisers, orthogonalise
from indexer.train.targets import KernelRidge, TargetMap
from indexer.train.views import ViewSettings, noisy_views
from specdb.encoders.clip import ClipModel
from specdb.errors import CheckpointError, InputError, ReadError, TrainingError
from specdb.spectra.lrs_preparation import LAMOST_GRID
from tests.indexer.training import TINY, synthetic, synthetic_data

N_PIXELS = 1462
TARGETS = TINY.targets[0]


@pytest.fixture(scope="module")
def stars() -> TrainingSet:
    return synthetic()


class TestData:
    def test_positions_become_stars_in_chains_across_ra_zero(self):
        arcsec = 1 / 3600
        ra = np.array([359.9999, 359.9999 + 2 * arcsec, 359.9999 + 4 * arcsec - 360 + 360, 10.0, np.nan, np.nan])
        groups = star_groups(np.mod(ra, 360), np.zeros(6))
        assert groups[0] == groups[1] == groups[2]
        assert len(set(groups.tolist())) == 4

    def test_no_positions_at_all(self):
        assert len(set(star_groups(np.full(3, np.nan), np.full(3, np.nan)).tolist())) == 3

    def test_split_is_by_star_and_even(self, stars):
        fold = split_stars(stars.star, 4, 1)
        assert all(len(set(fold[stars.star == s])) == 1 for s in np.unique(stars.star))
        repeated = np.isin(stars.star, stars.star[120:])
        assert set(np.bincount(fold[repeated])) == {20}
        np.testing.assert_array_equal(fold, split_stars(stars.star, 4, 1))
        assert (fold != split_stars(stars.star, 4, 2)).any()

    def test_packed_spectra_and_labels(self, tmp_path):
        flux = np.linspace(0.5, 1.5, 2 * 3909).reshape(2, -1).astype(np.float16)
        flux[1, :7] = np.nan
        code = np.full((2, 3909), 100, np.uint8)
        code[0, 9] = 255
        arrays = {"obsid": [11, 12], "flux_norm": flux, "err_code": code, "log10_wave0": 3.5682, "dlog10_wave": 1e-4}
        np.savez(tmp_path / "packed_flux.npz", **arrays)
        (tmp_path / "labels.csv").write_text("obsid,class,ra,dec,teff,logg,feh\n11,STAR,10.0,20.0,5800,4.4,\n")
        (spectra,) = read_packed(tmp_path / "packed_flux.npz")
        assert spectra.log10_grid == (3.5682, 1e-4)
        assert spectra.ivar[0, 9] == 0 and (spectra.ivar[1, :7] == 0).all()
        np.testing.assert_allclose(spectra.ivar[0, 0] ** -0.5, 10 ** (8 * 100 / 250 - 5), rtol=1e-5)
        assert spectra.metadata["ra"].to_pylist()[0] == 10.0
        assert read_labels(tmp_path)[11][:2] == (5800.0, 4.4) and np.isnan(read_labels(tmp_path)[11][2])

    def test_damaged_packed_file(self, tmp_path):
        (tmp_path / "packed_flux.npz").write_bytes(b"PK\x03\x04 no")
        with pytest.raises(ReadError, match=r"packed_flux\.npz.*fetch it again"):
            next(read_packed(tmp_path / "packed_flux.npz"))
        with pytest.raises(InputError, match=r"no usable LAMOST LRS spectrum \(found: 1 corrupt\); name a folder"):
            load_lamost(tmp_path)

    @pytest.mark.shared
    def test_real_spectra(self, shared):
        data = load_lamost(shared / "lamost_dr8_repeat")
        assert len(data) + sum(data.provenance["left_out"].values()) >= 168
        assert data.flux.shape[1] == len(LAMOST_GRID) == N_PIXELS
        _, visits = np.unique(data.star, return_counts=True)
        assert (visits > 1).sum() == 74


class TestViews:
    def test_noise_follows_errors_and_is_reproducible(self):
        flux, sigma = torch.ones(500, 200), torch.full((500, 200), 0.05)
        sigma[:, :20] = 0
        only_noise = ViewSettings(noise=(1, 1), continuum=0, window=0, bad_fraction=0)
        view = noisy_views(flux, sigma, only_noise, torch.Generator().manual_seed(1))
        assert (view[:, :20] == 1).all()
        assert float(view[:, 20:].std()) == pytest.approx(0.05, rel=0.02)
        assert torch.equal(view, noisy_views(flux, sigma, only_noise, torch.Generator().manual_seed(1)))

    def test_window_is_a_straight_line(self):
        flux = torch.randn(50, 300)
        settings = ViewSettings(noise=(1, 1), continuum=0, bad_fraction=0, window=30, window_probability=1)
        view = noisy_views(flux, torch.zeros_like(flux), settings, torch.Generator().manual_seed(0))
        changed = view != flux
        assert changed.any(dim=1).float().mean() > 0.8 and int(changed.sum(dim=1).max()) < 30
        row = int(changed.sum(dim=1).argmax())
        inside = changed[row].nonzero()[:, 0]
        around = view[row, inside[0] - 1 : inside[-1] + 2]
        torch.testing.assert_close(around.diff(), around.diff().mean().expand(len(around) - 1), atol=1e-5, rtol=1e-4)


def make_targets(data: TrainingSet, settings=TARGETS) -> np.ndarray:
    return TargetMap.fit(data.flux, data.sigma, data.labels, data.star, settings, ViewSettings(), 0)[1]


class TestTargets:
    def test_visits_are_closer_than_other_stars(self, stars):
        target = make_targets(stars)
        np.testing.assert_allclose(np.linalg.norm(target, axis=1), 1, rtol=1e-5)
        assert target.shape == (160, 3 + 1 + 3) and TARGETS.n_dim == 7
        first, tenth = repeat_visits(target, stars.star)
        assert first.value > 0.6 and tenth.value > 0.9

    def test_without_labels(self, stars):
        unlabelled = replace(stars, labels=np.full_like(stars.labels, np.nan))
        assert make_targets(unlabelled).shape[1] == 4
        silent = replace(TARGETS, label_weight=0.0)
        assert make_targets(stars, silent).shape[1] == silent.n_dim == 4

    def test_other_stars_get_targets_from_the_same_map(self, stars):
        fitted, target = TargetMap.fit(stars.flux, stars.sigma, stars.labels, stars.star, TARGETS, ViewSettings(), 0)
        mapped = fitted(stars.flux)
        np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, rtol=1e-5)
        scores, predicted = np.abs(mapped - target)[:, :4], np.abs(mapped - target)[:, 4:]
        assert scores.max() < 0.05 and 0 < predicted.max() < 0.3  # labels are cross-fitted in training

    def test_kernel_ridge_learns_a_smooth_function(self):
        x = np.linspace(-2, 2, 80)[:, None]
        np.testing.assert_allclose(KernelRidge.fit(x, np.sin(x), 1.0, 1e-3)(x[::7]), np.sin(x[::7]), atol=0.01)


class TestFigures:
    def test_recall_counts_any_other_visit(self):
        star = np.array([0, 0, 0, 1, 1, 2])
        angle = np.radians([0, 1, 50, 49, 90, 91])
        first, second = repeat_visits(np.column_stack([np.cos(angle), np.sin(angle)]), star, (1, 2))
        assert (first.n_queries, first.value) == (5, 2 / 5)
        assert second.value == 3 / 5

    def test_neighbour_labels(self):
        bank = np.eye(3)
        np.testing.assert_array_equal(neighbour_labels(bank, np.array([[1.0], [2], [3]]), bank[:2] * 5, k=1), [[1], [2]])

    def test_evaluate_uses_only_labelled_spectra(self, stars):
        figures = evaluate(stars.flux, stars.star, stars.labels, split_stars(stars.star) == 0)
        assert sum(figures["n_labelled"].values()) == 159
        assert set(figures["knn"]) == {"teff", "logg", "feh"}


class TestOptimiser:
    def test_orthogonalised_matrices_have_singular_values_near_one(self):
        matrix = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert float(values.min()) > 0.5 and float(values.max()) < 1.3

    def test_every_parameter_has_one_optimiser(self):
        model = ClipModel(MINI)
        groups = [p for o in make_optimisers(model, 1e-3, 1e-2) for g in o.param_groups for p in g["params"]]
        assert {id(p) for p in groups} == {id(p) for p in model.parameters()} and len(groups) == len(
            list(model.parameters())
        )


class _Stop(Exception):
    pass


class TestLoop:
    @pytest.fixture
    def problem(self):
        data = synthetic_data()
        rows = np.ones(len(data.lrs), bool), np.ones(len(data.xp), bool)
        return make_objective(data, rows, TINY, 0, torch.Generator().manual_seed(0))

    @pytest.fixture
    def model(self, problem):
        model = Guided(ClipModel(TINY.model), len(problem.common))
        initialise(model, torch.Generator().manual_seed(0))
        return model

    def test_killed_and_resumed_equals_undisturbed(self, tmp_path, model, problem):
        start = {k: v.clone() for k, v in model.state_dict().items()}
        settings = replace(TINY.loop, steps=24, checkpoint_every=8)
        history = fit(model, problem, settings, 3)
        expected = {k: v.clone() for k, v in model.state_dict().items()}

        def die(step: int, losses: dict, seconds: float) -> None:
            if step == 16:
                raise _Stop

        path = tmp_path / "run.checkpoint"
        model.load_state_dict(start)
        with pytest.raises(_Stop):
            fit(model, problem, settings, 3, checkpoint=path, report=die)
        model.load_state_dict(start)
        assert fit(model, problem, settings, 3, checkpoint=path) == history
        model.load_state_dict(start)
        assert fit(model, problem, settings, 3, checkpoint=path) == history, "a finished training is only loaded"
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[name]), name

    def test_checkpoint_of_another_training_is_refused(self, tmp_path, model, problem):
        def die(*_: object) -> None:
            raise _Stop

        path = tmp_path / "run.checkpoint"
        with pytest.raises(_Stop):
            fit(model, problem, TINY.loop, 3, checkpoint=path, report=die)
        with pytest.raises(CheckpointError, match="other settings, seed or data; delete it"):
            fit(model, problem, TINY.loop, 4, checkpoint=path)
        path.write_bytes(b"damaged")
        with pytest.raises(CheckpointError, match=r"is damaged .*; delete it to start the training anew"):
            fit(model, problem, TINY.loop, 3, checkpoint=path)

    def test_a_loss_that_is_not_finite_stops_with_the_batch_saved(self, tmp_path, model, problem):
        problem.flux = problem.flux[0], problem.flux[1].index_fill(0, torch.arange(100), torch.nan)
        with pytest.raises(TrainingError, match=r"loss of step \d+ is not finite \(total nan.*The batch is in .*: look for"):
            fit(model, problem, TINY.loop, 0, checkpoint=tmp_path / "run.checkpoint")
        saved = load_file(tmp_path / FAILED_BATCH)
        assert (saved["pairs"] < 100).any() and saved["gaia_xp"].isnan().any()
        with pytest.raises(TrainingError, match="Give a checkpoint file to have the batch saved"):
            fit(model, problem, TINY.loop, 0)

    def test_pace_rises_and_falls(self):
        pace = [LoopSettings(steps=100).pace(i) for i in range(100)]
        assert pace[0] < pace[2] and max(pace) > 0.99 and pace[-1] < 0.02
