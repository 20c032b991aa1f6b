"""Heads: fitting, calibration, saving, refusing what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import specdb
from specdb.errors import CheckpointError, DatabaseError, InputError, ProvenanceError, TrainingError
from specdb.heads import Flag, Head, HeadConfig, evaluate_head, list_heads, load_head, predict_survey, train_head
from specdb.heads.head import HeadCard, LabelFacts, fit_head
from specdb.heads.inputs import gather_labelled
from specdb.heads.measures import label_figures, pit
from specdb.heads.scaling import Domain, InputScale, LabelScale
from specdb.store import Store, read_table, verify_store
from tests.heads.conftest import ENCODER, label_table, make_database, make_stars

QUICK = {"steps": 150, "hidden": [32], "members_per_fold": 1}
CARD = HeadCard(
    "toy", "toy", "toy-encoder", "a" * 64, (LabelFacts("teff", "K"), LabelFacts("feh")), HeadConfig("shared", "ridge")
)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, stars: dict) -> Store:
    """A database with one head, trained on three quarters of the stars; tests only read it."""
    store = make_database(tmp_path_factory.mktemp("heads") / "db", stars)
    train_head(store, label_table(stars, slice(0, 300)), "atm", HeadConfig("both", "mlp", QUICK, n_folds=3))
    return store


@pytest.mark.parametrize("kind", ["ridge", "knn", "mlp"])
@pytest.mark.parametrize("inputs", ["shared", "private", "both", "pixels"])
def test_every_kind_learns_from_every_input(store: Store, stars: dict, kind: str, inputs: str) -> None:
    settings = QUICK if kind == "mlp" else {}
    head = train_head(store, label_table(stars), "toy", HeadConfig(inputs, kind, settings, n_folds=3))
    scatter = np.array([head.card.metrics["left_out"][name]["sigma"] for name in ("teff", "logg", "feh")])
    assert (scatter < 0.75 * np.array([600, 0.5, 0.3])).all()
    assert list_heads(store) == ["toy"]


def test_sigmas_of_strangers_cover_what_they_should(trained: Store, stars: dict) -> None:
    judged = evaluate_head(trained, load_head(trained, "atm"), label_table(stars))
    figures = judged.figures()["labels"]
    assert judged.what.startswith("80 stars")  # 100 spectra, a fifth of them second visits
    for name, spread in (("teff", 600), ("logg", 0.5), ("feh", 0.3)):
        assert figures[name]["sigma"] < 0.3 * spread
        assert 0.5 < figures[name]["coverage_68"] < 0.88
    assert {"snr", "teff", "feh"} == set(figures["teff"]["by"])


def test_without_labels_the_training_stars_are_judged_out_of_fold(trained: Store) -> None:
    judged = evaluate_head(trained, load_head(trained, "atm"))
    assert len(judged.ids) == 300
    assert "had not seen" in judged.what
    assert 0.6 < judged.figures()["labels"]["feh"]["coverage_68"] < 0.8


def test_a_head_is_the_same_after_saving_and_for_any_batch(trained: Store, stars: dict, tmp_path: Path) -> None:
    head = load_head(trained, "atm")
    data = gather_labelled(trained, label_table(stars), "toy", "both", "toy-encoder")
    head.save(tmp_path / "copy")
    again = Head.load(tmp_path / "copy").predict(data.x)
    whole = head.predict(data.x)
    np.testing.assert_array_equal(again.mean, whole.mean)
    np.testing.assert_allclose(head.predict(data.x[:7]).mean, whole.mean[:7], rtol=1e-5)
    assert head.predict(data.x[:0]).mean.shape == (0, 3)


def test_training_is_reproducible(store: Store, stars: dict) -> None:
    config = HeadConfig("shared", "mlp", QUICK | {"steps": 40}, n_folds=2, seed=3)
    first, second = (train_head(store, label_table(stars), "toy", config) for _ in range(2))
    assert first.model.tensors().keys() == second.model.tensors().keys()
    for name, value in first.model.tensors().items():
        np.testing.assert_array_equal(value, second.model.tensors()[name])


def test_predictions_go_to_parquet_and_sql_and_are_not_made_twice(trained: Store, tmp_path: Path, stars: dict) -> None:
    store = make_database(tmp_path / "db", stars)
    train_head(store, label_table(stars), "atm", HeadConfig("both", "ridge"))
    report = predict_survey(store, load_head(store, "atm"))
    assert (report.predicted, report.kept) == (400, 0)
    assert predict_survey(store, load_head(store, "atm")).kept == 400
    table = pq.read_table(store.root / store.tables("predictions/atm")[0])
    assert table.column_names == [
        "spectrum_id",
        "teff",
        "teff_sigma",
        "logg",
        "logg_sigma",
        "feh",
        "feh_sigma",
        "flags",
        "distance",
    ]
    assert table.schema.field("teff").metadata[b"unit"] == b"K"
    answer = specdb.open(store.root).sql("SELECT count(*) AS n, min(head) AS head FROM predictions WHERE teff_sigma > 0")
    assert answer.to_arrow().to_pylist() == [{"n": 400, "head": "atm"}]
    assert verify_store(store) == []
    train_head(store, label_table(stars), "atm", HeadConfig("both", "knn"))  # another head of that name: all again
    assert predict_survey(store, load_head(store, "atm")).predicted == 400


def test_dying_while_predicting_goes_on_where_it_stopped(
    tmp_path: Path, stars: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_database(tmp_path / "db", stars, parts=4)
    head = train_head(store, label_table(stars), "atm", HeadConfig("shared", "ridge"))
    done = []

    def die(n: int) -> None:
        done.append(n)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_survey(store, head, advance=die)
    report = predict_survey(store, head)
    assert (report.predicted, report.kept) == (200, 200)


def test_strange_spectra_are_flagged(trained: Store, stars: dict) -> None:
    head = load_head(trained, "atm")
    x = gather_labelled(trained, label_table(stars, slice(0, 5)), "toy", "both", "toy-encoder").x.copy()
    x[0] = 40
    x[1, 0] = np.nan
    prediction = head.predict(x)
    assert prediction.flags[0] & Flag.OUTSIDE_INPUTS
    assert prediction.flags[1] == Flag.NOT_FINITE
    assert np.isnan(prediction.mean[1]).all()
    assert (prediction.flags[2:] == 0).all()


def test_gaps_and_errors_of_labels_are_taken_into_account(store: Store, stars: dict) -> None:
    table = label_table(stars)
    gappy = np.where(np.arange(400) % 3 == 0, np.nan, stars["labels"][:, 2])
    table = table.set_column(3, "feh", pa.array(gappy, from_pandas=True)).append_column(
        "feh_err", pa.array(np.full(400, 0.02))
    )
    head = train_head(store, table, "toy", HeadConfig("both", "mlp", QUICK, n_folds=2))
    assert [facts.n for facts in head.card.labels] == [400, 400, 266]
    assert head.label_names == ("teff", "logg", "feh")


def test_labels_no_star_can_have_are_left_out_with_a_count(
    store: Store, stars: dict, caplog: pytest.LogCaptureFixture
) -> None:
    teff = stars["labels"][:, 0].copy()
    teff[:5] = -9999
    table = label_table(stars).set_column(1, "teff", pa.array(teff))
    head = train_head(store, table, "toy", HeadConfig("shared", "ridge"))
    assert "5 values of teff lie outside 2000 to 100000" in caplog.text
    assert head.card.labels[0].n == 395


def test_a_test_fraction_is_kept_from_the_head_star_by_star(store: Store, stars: dict) -> None:
    head = train_head(store, label_table(stars), "toy", HeadConfig("shared", "ridge"), test_fraction=0.25)
    judged = evaluate_head(store, head, label_table(stars))
    by_id = dict(zip(stars["ids"].tolist(), stars["star"].tolist(), strict=True))
    assert not {by_id[i] for i in judged.ids.tolist()} & {by_id[i] for i in head.training.ids.tolist()}
    assert len(judged.ids) + len(head.training.ids) == 400
    with pytest.raises(InputError, match="test_fraction is 1"):
        train_head(store, label_table(stars), "toy", HeadConfig("shared", "ridge"), test_fraction=1.0)


def bad_tables(stars: dict) -> dict[str, tuple[pa.Table, str]]:
    table = label_table(stars)
    return {
        "no id": (table.drop_columns("spectrum_id"), r"columns teff, logg, feh; one must be spectrum_id"),
        "no label": (table.select(["spectrum_id"]), "no numeric column besides spectrum_id"),
        "twice": (pa.concat_tables([table, table.slice(0, 3)]), "3 spectrum_ids occur more than once"),
        "strangers": (table.set_column(0, "spectrum_id", pa.array(np.arange(400))), "none of the 400 labelled ids"),
        "all null": (table.set_column(3, "feh", pa.nulls(400, pa.float64())), "label feh is null for all 400 spectra"),
        "few": (table.slice(0, 30), "label teff is known for 24 stars; at least 50"),
        "constant": (table.set_column(2, "logg", pa.array(np.full(400, 4.4))), "label logg is 4.4 for every star"),
    }


@pytest.mark.parametrize("case", ["no id", "no label", "twice", "strangers", "all null", "few", "constant"])
def test_labels_that_cannot_be_used(store: Store, stars: dict, case: str) -> None:
    table, message = bad_tables(stars)[case]
    with pytest.raises(InputError, match=message):
        train_head(store, table, "toy", HeadConfig("shared", "ridge"))
    assert list_heads(store) == []


def test_embeddings_that_are_not_finite_are_left_out_and_said(tmp_path: Path, stars: dict) -> None:
    broken = stars | {"shared": stars["shared"].copy()}
    broken["shared"][7] = np.nan
    store = make_database(tmp_path / "db", broken)
    head = train_head(store, label_table(stars), "toy", HeadConfig("shared", "ridge"))
    assert head.card.data["left_out"]["input not finite"] == 1
    assert predict_survey(store, head).flagged["NOT_FINITE"] == 1
    with pytest.raises(InputError, match="1 of 400 inputs hold NaN"):
        fit_head(broken["shared"], stars["labels"][:, :2], stars["star"], CARD)


def test_a_head_of_another_encoder_is_refused_by_hash(trained: Store, tmp_path: Path, stars: dict) -> None:
    other = make_database(tmp_path / "db", stars)
    head = load_head(trained, "atm")
    strange = replace(head, card=replace(head.card, weight_hash="b" * 64))
    for use in (lambda: predict_survey(other, strange), lambda: evaluate_head(other, strange, label_table(stars))):
        with pytest.raises(ProvenanceError, match=r"with weights b{16}, the database holds those of toy-encoder"):
            use()
    pixels = train_head(other, label_table(stars), "pix", HeadConfig("pixels", "ridge"))
    moved = replace(pixels, card=replace(pixels.card, preparation={"preparation": "toy", "preparation_version": 2}))
    with pytest.raises(ProvenanceError, match="reads spectra prepared with"):
        predict_survey(other, moved)


def test_what_a_database_lacks_is_said(tmp_path: Path, stars: dict, trained: Store) -> None:
    bare = make_database(tmp_path / "db", stars, private=False)
    with pytest.raises(InputError, match="has no private embedding; train the head with inputs 'shared'"):
        train_head(bare, label_table(stars), "toy", HeadConfig("both", "ridge"))
    with pytest.raises(InputError, match="has no head 'gone'; it has atm"):
        load_head(trained, "gone")
    with pytest.raises(DatabaseError, match="holds no nowhere embeddings by toy-encoder"):
        gather_labelled(bare, label_table(stars), "nowhere", "shared", "toy-encoder")
    empty = Store.create(tmp_path / "empty", "toy-encoder")
    with pytest.raises(DatabaseError, match="holds no spectra yet"):
        train_head(empty, label_table(stars), "toy")
    with pytest.raises(InputError, match="trained on all 300 of these stars"):
        evaluate_head(trained, load_head(trained, "atm"), label_table(stars, slice(0, 300)))
    with pytest.raises(InputError, match="predicts teff, logg, feh; the table has none"):
        evaluate_head(trained, load_head(trained, "atm"), pa.table({"spectrum_id": [1], "mass": [1.0]}))


def test_damaged_heads_are_refused(trained: Store, tmp_path: Path) -> None:
    head = load_head(trained, "atm")
    folder = tmp_path / "atm"
    head.save(folder)
    weights = (folder / "head.safetensors").read_bytes()
    (folder / "head.safetensors").write_bytes(weights[:-1] + b"x")
    with pytest.raises(CheckpointError, match="are not those of its card"):
        Head.load(folder)
    head.save(folder)
    card = json.loads((folder / "head.json").read_text())
    (folder / "head.json").write_text(json.dumps(card | {"format": 99}))
    with pytest.raises(CheckpointError, match="has format 99"):
        Head.load(folder)
    (folder / "head.json").write_text(json.dumps({k: v for k, v in card.items() if k != "labels"}))
    with pytest.raises(CheckpointError, match="is damaged"):
        Head.load(folder)
    (folder / "head.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Head.load(folder)
    with pytest.raises(InputError, match="holds no head"):
        Head.load(tmp_path / "none")
    with pytest.raises(InputError, match=r"inputs have the shape \(2, 3\); head atm reads \(n, 12\)"):
        head.predict(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": "flux"}, "cannot read 'flux'; it reads one of shared, private, both, pixels"),
        ({"kind": "forest"}, "no kind of head is called 'forest'; known: mlp, posterior, ridge, knn"),
        ({"settings": {"depth": 3}}, "a mlp head has no setting depth; it has hidden, dropout"),
        ({"n_folds": 1}, "n_folds is 1; at least 2"),
    ],
)
def test_settings_that_make_no_sense(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        HeadConfig(**change)


def test_names_of_heads_are_folder_names(store: Store, stars: dict) -> None:
    for name in ("", "../x", "a b", ".hidden"):
        with pytest.raises(InputError, match="cannot be the name of a head"):
            train_head(store, label_table(stars), name)


def test_a_loss_that_is_not_finite_stops_the_training(store: Store, stars: dict) -> None:
    with pytest.raises(TrainingError, match="not finite at step"):
        train_head(store, label_table(stars), "toy", HeadConfig("shared", "mlp", QUICK | {"lr": 1e30}, n_folds=2))


def test_figures_of_merit() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=20_000)
    mean, sigma = truth + 0.3 * rng.normal(size=20_000) + 0.05, np.full(20_000, 0.3)
    found = label_figures(truth, mean, sigma)
    assert found["bias"] == pytest.approx(0.05, abs=0.01)
    assert found["sigma"] == pytest.approx(0.3, abs=0.01)
    assert found["coverage_68"] == pytest.approx(0.68, abs=0.02)
    assert found["width_95"] == pytest.approx(1.98, abs=0.05)
    assert np.abs(np.histogram(pit(truth, mean - 0.05, sigma), 10, (0, 1))[0] / 2000 - 1).max() < 0.1
    assert label_figures(truth[:2], mean[:2], sigma[:2]) == {"n": 2}


def test_scales_go_back_and_forth() -> None:
    y = np.array([[5000.0, 1.0], [6000.0, 2.0], [7000.0, np.nan]])
    scale = LabelScale.of(("teff", "logg"), y)
    back, sigma = scale.inverse(scale(y), np.full((3, 2), 0.1, np.float32))
    np.testing.assert_allclose(back, y, rtol=1e-5)
    np.testing.assert_allclose(scale.errors(y, sigma)[:2], 0.1, rtol=1e-4)
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32) @ np.diag([5, 1, 1, 1, 0.1, 0]).astype(np.float32)
    z = InputScale.of(x)(x)
    domain = Domain.of(z)
    assert (domain.distance(z) > 1).mean() < 0.02
    far = z[:3].copy()
    far[:, 5] += 5  # a direction in which the training spectra never vary
    assert (domain.distance(far) > 1).all()


def test_figure_of_a_head_has_four_panels() -> None:
    from specdb.plots.heads import plot_head

    rng = np.random.default_rng(0)
    truth = rng.normal(size=300)
    figure = plot_head(truth, truth + 0.1 * rng.normal(size=300), np.full(300, 0.1), rng.uniform(10, 200, 300), "feh", "dex")
    assert len(figure.axes) == 4
    assert "68 % interval holds" in figure.axes[3].get_title()


def test_encoder_of_the_fixture_is_what_the_cards_say(trained: Store) -> None:
    assert load_head(trained, "atm").card.weight_hash == ENCODER["weight_hash"]
    assert read_table(trained.root / trained.embedding_parts("toy-encoder", "toy")[0]).num_rows == 134
    assert len(make_stars(10)["ids"]) == 10
