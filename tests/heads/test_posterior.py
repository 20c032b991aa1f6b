"""Posterior heads: draws, calibration, saving without pickle, figures, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from specdb.cli.heads import heads
from specdb.errors import CheckpointError, InputError, ProvenanceError, QueryError
from specdb.heads import Head, HeadConfig, evaluate_head, load_head, predict_survey, train_head
from specdb.heads.diagnose import check_draws
from specdb.heads.inputs import gather_labelled
from specdb.heads.sampling import draw_posteriors
from specdb.store import Store
from tests.heads.conftest import label_table, make_database

pytest.importorskip("sbi")

QUICK = {"steps": 60, "hidden": [32], "hidden_features": 16, "components": 2, "draws": 200, "members_per_fold": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, stars: dict) -> Store:
    """A database with a posterior head and a plain one; tests only read it."""
    store = make_database(tmp_path_factory.mktemp("posterior") / "db", stars)
    train_head(store, label_table(stars, slice(0, 300)), "post", HeadConfig("both", "posterior", QUICK, n_folds=2))
    train_head(store, label_table(stars), "plain", HeadConfig("both", "ridge"))
    return store


def inputs_of(store: Store, stars: dict, rows: slice) -> np.ndarray:
    return gather_labelled(store, label_table(stars, rows), "toy", "both", "toy-encoder").x


def test_draws_agree_with_predictions_and_hold_the_truth(trained: Store, stars: dict) -> None:
    head = load_head(trained, "post")
    data = gather_labelled(trained, label_table(stars, slice(300, 400)), "toy", "both", "toy-encoder")
    draws = head.sample(data.x, 400, seed=1)
    assert draws.shape == (100, 400, 3)
    predicted = head.predict(data.x, quantiles=(0.16, 0.5, 0.84))
    assert (np.abs(np.median(draws, axis=1) - predicted.mean) < 0.5 * predicted.sigma).all()
    assert predicted.quantiles.shape == (100, 3, 3)
    assert (np.abs(predicted.quantiles[..., 1] - predicted.mean) < 0.5 * predicted.sigma).all()
    assert (np.diff(predicted.quantiles, axis=2) > 0).all()
    inside = np.abs(predicted.mean - data.y) <= predicted.sigma
    assert 0.5 < inside.mean() < 0.88
    np.testing.assert_array_equal(head.sample(data.x[:3], 50, seed=2), head.sample(data.x[:3], 50, seed=2))


def test_a_posterior_is_the_same_after_saving(trained: Store, stars: dict, tmp_path: Path) -> None:
    head = load_head(trained, "post")
    head.save(tmp_path / "copy")
    x = inputs_of(trained, stars, slice(0, 20))
    again = Head.load(tmp_path / "copy")
    np.testing.assert_array_equal(again.predict(x).mean, head.predict(x).mean)
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["head.json", "head.safetensors"]
    np.testing.assert_array_equal(again.training.pit, head.training.pit)


@pytest.mark.parametrize("estimator", ["zuko_maf", "zuko_nsf"])
def test_flows_are_posteriors_too(store: Store, stars: dict, estimator: str) -> None:
    settings = QUICK | {"estimator": estimator, "steps": 15, "transforms": 1, "members_per_fold": 1, "draws": 20}
    head = train_head(store, label_table(stars), "flow", HeadConfig("shared", "posterior", settings, n_folds=2))
    x = gather_labelled(store, label_table(stars, slice(0, 5)), "toy", "shared", "toy-encoder").x
    np.testing.assert_array_equal(load_head(store, "flow").sample(x, 10), head.sample(x, 10))


def test_inputs_that_are_not_finite_have_no_draws(trained: Store, stars: dict) -> None:
    head = load_head(trained, "post")
    x = inputs_of(trained, stars, slice(0, 3)).copy()
    x[1, 0] = np.inf
    draws = head.sample(x, 10)
    assert np.isnan(draws[1]).all() and np.isfinite(draws[[0, 2]]).all()
    assert np.isnan(head.pit(x, stars["labels"][:3])[1]).all()


def test_checks_are_made_of_stars_left_out_and_of_strangers(trained: Store, stars: dict) -> None:
    head = load_head(trained, "post")
    without = evaluate_head(trained, head)
    assert without.posterior is not None and without.posterior.n == 300
    judged = evaluate_head(trained, head, label_table(stars))
    figures = judged.figures()["posterior"]
    assert figures["n"] == 100 and len(figures["ranks"]) == 3
    assert sum(figures["ranks"][0]) == 100
    assert 0.1 < judged.pit[:, 0].mean() < 0.9
    assert evaluate_head(trained, load_head(trained, "plain")).posterior is None


def test_checks_tell_right_from_overconfident_posteriors() -> None:
    rng = np.random.default_rng(0)
    middle = rng.normal(size=(1000, 2))
    truth = middle + rng.normal(size=(1000, 2))
    draws = middle[:, None] + rng.normal(size=(1000, 200, 2))
    right = check_draws(draws.astype(np.float32), truth, ("a", "b"))
    wrong = check_draws((middle[:, None] + 0.4 * (draws - middle[:, None])).astype(np.float32), truth, ("a", "b"))
    assert right is not None and wrong is not None
    assert min(right.rank_p_values) > 1e-3
    assert max(wrong.rank_p_values) < 1e-6
    assert np.abs(np.subtract(right.coverage, right.levels)).max() < 0.1
    assert check_draws(draws[:50].astype(np.float32), truth[:50], ("a", "b")) is None


def test_quantiles_become_columns(trained: Store, tmp_path: Path, stars: dict) -> None:
    store = make_database(tmp_path / "db", stars)
    train_head(store, label_table(stars), "atm", HeadConfig("both", "ridge"))
    head = load_head(store, "atm")
    predict_survey(store, head, quantiles=(0.025, 0.84))
    table = pq.read_table(store.root / store.tables("predictions/atm")[0])
    assert {"teff_q2_5", "teff_q84", "feh_q84"} <= set(table.column_names)
    sigma = (table["feh_q84"].to_numpy() - table["feh"].to_numpy()) / table["feh_sigma"].to_numpy()
    np.testing.assert_allclose(sigma, 0.99446, rtol=1e-3)
    assert predict_survey(store, head, quantiles=(0.025, 0.84)).kept == 400
    assert predict_survey(store, head).predicted == 400  # without quantiles it is another table
    with pytest.raises(InputError, match=r"the quantiles are 0.5, 1.0; each must lie between 0 and 1"):
        predict_survey(store, head, quantiles=(0.5, 1.0))


def test_draws_are_streamed_and_saved(trained: Store, tmp_path: Path) -> None:
    db = ["--db", str(trained.root)]
    files = ["-o", str(tmp_path / "s.parquet"), "--figure", str(tmp_path / "c.png")]
    done = CliRunner().invoke(heads, ["sample", "post", "--ids", "1003,1001", "--draws", "60", *files, *db])
    assert done.exit_code == 0, done.output
    rows = pq.read_table(tmp_path / "s.parquet")
    assert rows.column_names == ["spectrum_id", "draw", "teff", "logg", "feh"]
    assert rows.num_rows == 120 and set(rows["spectrum_id"].to_pylist()) == {1001, 1003}
    assert (tmp_path / "c.png").stat().st_size > 10_000
    query = ["--sql", "SELECT spectrum_id FROM toy WHERE spectrum_id < 1010"]
    done = CliRunner().invoke(heads, ["sample", "post", *query, "--draws", "5", "-o", str(tmp_path / "s.csv"), *db])
    assert done.exit_code == 0 and "10 spectra with 5 draws each" in done.output
    assert (
        "give --ids or --sql"
        in CliRunner().invoke(heads, ["sample", "post", "--ids", "1", *query, "-o", "x.csv", *db]).output
    )
    assert "give numbers" in CliRunner().invoke(heads, ["sample", "post", "--ids", "a", "-o", "x.csv", *db]).output


def test_evaluation_draws_the_checks(trained: Store, tmp_path: Path) -> None:
    done = CliRunner().invoke(heads, ["evaluate", "post", "--out", str(tmp_path / "f"), "--db", str(trained.root)])
    assert done.exit_code == 0, done.output
    assert "ranks uniform with p" in done.output
    assert sorted(path.name for path in (tmp_path / "f").glob("*.png")) == [
        "feh.png",
        "logg.png",
        "posterior.png",
        "teff.png",
    ]


def test_what_has_no_posterior_is_refused(trained: Store, stars: dict) -> None:
    plain, post = load_head(trained, "plain"), load_head(trained, "post")
    with pytest.raises(InputError, match="head plain is of kind ridge, which predicts each label by itself; train one with"):
        plain.sample(inputs_of(trained, stars, slice(0, 2)))
    with pytest.raises(InputError, match="of kind ridge"):
        draw_posteriors(trained, plain)
    with pytest.raises(InputError, match="0 draws were asked for"):
        post.sample(inputs_of(trained, stars, slice(0, 2)), 0)
    with pytest.raises(QueryError, match=r"toy has no spectrum with the id 5 \(2 ids are unknown\)"):
        draw_posteriors(trained, post, np.array([1001, 5, 6]))
    with pytest.raises(ProvenanceError, match=r"with weights b{16}"):
        draw_posteriors(trained, replace(post, card=replace(post.card, weight_hash="b" * 64)))


def test_settings_and_labels_that_make_no_sense(store: Store, stars: dict) -> None:
    with pytest.raises(InputError, match="no estimator is called 'gan'; there are mdn, zuko_maf, zuko_nsf"):
        HeadConfig("both", "posterior", {"estimator": "gan"})
    feh = np.where(np.arange(400) < 300, stars["labels"][:, 2], np.nan)
    logg = np.where(np.arange(400) >= 280, stars["labels"][:, 1], np.nan)
    table = label_table(stars).set_column(2, "logg", pa.array(logg, from_pandas=True))
    table = table.set_column(3, "feh", pa.array(feh, from_pandas=True))
    with pytest.raises(InputError, match="20 stars have all 3 labels; a joint posterior needs at least 50"):
        train_head(store, table, "toy", HeadConfig("both", "posterior", QUICK, n_folds=2))


def test_a_posterior_is_drawn_only_from_enough_finite_draws() -> None:
    from specdb.plots.heads import plot_posterior

    draws = np.random.default_rng(0).normal(size=(200, 2))
    assert len(plot_posterior(draws, ["a", "b"], np.array([0.0, np.nan]), "one star").axes) == 4
    draws[0] = np.nan
    with pytest.raises(InputError, match="199 of 200 draws are finite; all must be, and 50 are needed"):
        plot_posterior(draws, ["a", "b"])


def test_weights_that_the_installed_sbi_does_not_know(trained: Store) -> None:
    from specdb.heads.posterior import PosteriorEnsemble, PosteriorSettings

    tensors = load_head(trained, "post").model.tensors()
    with pytest.raises(CheckpointError, match="does not know the weights of this posterior head"):
        PosteriorEnsemble.from_tensors(tensors, PosteriorSettings(**QUICK | {"hidden": (32,), "components": 3}))
