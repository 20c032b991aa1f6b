"""Transfer of heads to a survey that sees the same stars through other optics."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from specdb.cli import cli
from specdb.errors import DependencyError, InputError, ProvenanceError
from specdb.heads import Head, HeadConfig, evaluate_head, fit_head, load_head, predict_survey, train_head
from specdb.heads.head import HeadCard, LabelFacts
from specdb.heads.transfer import (
    TransferPlan,
    discrepancy,
    line_sensitivity,
    loss_landscape,
    transfer,
    transfer_head,
    transfer_strategies,
)
from specdb.heads.transfer.fit import narrowed
from specdb.heads.transfer.strategies import resolve, strategy_class
from specdb.store import Store
from tests.heads.conftest import ENCODER, label_table, make_database, make_stars

QUICK = {
    "residual": {"steps": 120, "hidden": (16,), "members_per_fold": 1},
    "lora": {"steps": 90, "rank": 2},
    "full": {"steps": 90},
}
SOURCE = {"hidden": [24], "steps": 200, "members_per_fold": 1}
LABELS = ("teff", "logg", "feh")


def distorted(stars: dict[str, np.ndarray], seed: int = 7) -> dict[str, np.ndarray]:
    """The same stars through other optics: every channel has a gain and an offset of its own."""
    rng = np.random.default_rng(seed)
    seen = {}
    for key in ("shared", "flux"):
        gain, offset = rng.uniform(0.6, 1.5, stars[key].shape[1]), rng.normal(0, 0.4, stars[key].shape[1])
        seen[key] = (gain * stars[key] + offset + 0.03 * rng.normal(size=stars[key].shape)).astype(np.float32)
    return stars | seen


@pytest.fixture(scope="module")
def target() -> dict[str, np.ndarray]:
    return distorted(make_stars(300, seed=5))


def card(inputs: str = "pixels", kind: str = "mlp", labels: tuple[str, ...] = LABELS, weights: str = "") -> HeadCard:
    settings = SOURCE if kind == "mlp" else {}
    return HeadCard("toy", "toy", "", weights, tuple(map(LabelFacts, labels)), HeadConfig(inputs, kind, settings, n_folds=3))


@pytest.fixture(scope="module")
def source() -> Head:
    stars = make_stars(400)
    return fit_head(stars["flux"], stars["labels"], stars["star"], card())


def fit(source: Head, target: dict[str, np.ndarray], strategy: str, n: int = 200, **options: object) -> Head:
    columns = target["flux"][:n], target["labels"][:n], target["star"][:n]
    return transfer_head(source, *columns, card(), strategy, QUICK.get(strategy), **options)  # type: ignore[arg-type]


def error(head: Head, target: dict[str, np.ndarray]) -> float:
    """Squared error of [Fe/H] of stars that are not learnt from, in units of the variance."""
    truth = target["labels"][200:, 2]
    return float(np.mean((head.predict(target["flux"][200:]).mean[:, 2] - truth) ** 2) / truth.var())


@pytest.mark.parametrize("strategy", ["residual", "lora", "full", "scratch"])
def test_learning_beats_taking_the_head_as_it_is(source: Head, target: dict[str, np.ndarray], strategy: str) -> None:
    head = fit(source, target, strategy)

    assert error(head, target) < 0.7 * error(fit(source, target, "zero-shot"), target)
    made = head.card.data["transfer"]
    assert (made["source"], made["strategy"]) == ("toy", strategy)
    assert 0.5 < head.card.metrics["left_out"]["feh"]["coverage_68"] < 0.85


def test_zero_shot_is_the_source_with_other_uncertainties(source: Head, target: dict[str, np.ndarray]) -> None:
    head = fit(source, target, "zero-shot")

    mine, its = head.predict(target["flux"]), source.predict(target["flux"])
    np.testing.assert_array_equal(mine.mean, its.mean)
    assert (mine.sigma[:, 2] > 1.3 * its.sigma[:, 2]).all()
    within = np.abs(mine.mean - target["labels"])[200:] < mine.sigma[200:]
    assert 0.5 < within.mean() < 0.85


@pytest.mark.parametrize("strategy", transfer_strategies())
def test_a_transferred_head_is_a_head(source: Head, target: dict[str, np.ndarray], strategy: str, tmp_path: Path) -> None:
    head = fit(source, target, strategy, seed=3)
    head.save(tmp_path / "moved")
    again = Head.load(tmp_path / "moved")

    np.testing.assert_array_equal(head.predict(target["flux"]).mean, again.predict(target["flux"]).mean)
    np.testing.assert_array_equal(head.predict(target["flux"]).sigma, again.predict(target["flux"]).sigma)
    assert again.card.data["transfer"]["strategy"] == strategy
    if strategy != "zero-shot":  # which may well predict what no star has
        assert (again.predict(target["flux"]).flags == 0).mean() > 0.8


@pytest.mark.parametrize("strategy", transfer_strategies())
def test_the_same_seed_gives_the_same_head(source: Head, target: dict[str, np.ndarray], strategy: str) -> None:
    one, two = (fit(source, target, strategy, n=100, seed=1).predict(target["flux"]) for _ in range(2))
    np.testing.assert_array_equal(one.mean, two.mean)


@pytest.mark.parametrize("kind", ["ridge", "knn"])
def test_heads_without_a_network_can_be_corrected(target: dict[str, np.ndarray], kind: str, tmp_path: Path) -> None:
    stars = make_stars(400)
    plain = fit_head(stars["flux"], stars["labels"], stars["star"], card(kind=kind))
    head = fit(plain, target, "residual")
    head.save(tmp_path / "moved")

    assert error(head, target) < error(fit(plain, target, "zero-shot"), target)
    np.testing.assert_array_equal(
        Head.load(tmp_path / "moved").predict(target["flux"]).mean, head.predict(target["flux"]).mean
    )
    with pytest.raises(InputError, match=f"train the weights of an mlp head on; this is a {kind} head"):
        fit(plain, target, "full")
    with pytest.raises(InputError, match=f"a {kind} head predicts teff, logg, feh together"):
        narrowed(plain, ("feh",))


def test_fewer_labels_than_the_source_has(source: Head, target: dict[str, np.ndarray]) -> None:
    one = narrowed(source, ("feh", "teff"))

    np.testing.assert_allclose(one.predict(target["flux"]).mean, source.predict(target["flux"]).mean[:, [2, 0]], rtol=1e-5)
    np.testing.assert_allclose(one.predict(target["flux"]).sigma, source.predict(target["flux"]).sigma[:, [2, 0]], rtol=1e-5)
    columns = target["flux"][:90], target["labels"][:90, 2:], target["star"][:90]
    assert transfer_head(source, *columns, card(labels=("feh",)), "full", QUICK["full"]).label_names == ("feh",)


# -- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 40}, "label teff is known for 3[0-9] stars; at least 50 are needed"),
        ({"y": np.nan}, "label feh is null for all 100 spectra"),
        ({"y": 0.25}, "label feh is 0.25 for every star"),
        ({"x": np.nan}, "100 of 100 inputs hold NaN or infinity"),
        ({"width": 5}, "head toy reads 12 numbers per spectrum, the target gives 5"),
        (
            {"labels": ("teff", "logg", "mh")},
            "head toy predicts teff, logg, feh, the target's labels are teff, logg, mh.*mh AS feh",
        ),
        ({"strategy": "wish"}, "no transfer strategy is called 'wish'; known: residual, lora, full, zero-shot, scratch"),
        ({"settings": {"ranks": 3}}, "strategy full has no setting ranks; it has: steps, "),
    ],
)
def test_bad_input(source: Head, target: dict[str, np.ndarray], change: dict[str, object], message: str) -> None:
    n = change.get("n", 100)
    x, y, star = (target[k][:n].copy() for k in ("flux", "labels", "star"))  # type: ignore[misc]
    if "y" in change:
        y[:, 2] = change["y"]
    if "x" in change:
        x[:, 3] = change["x"]
    x = x[:, : change.get("width", 12)]  # type: ignore[misc]
    with pytest.raises(InputError, match=message):
        transfer_head(
            source,
            x,
            y,
            star,
            card(labels=change.get("labels", LABELS)),  # type: ignore[arg-type]
            str(change.get("strategy", "full")),
            change.get("settings"),  # type: ignore[arg-type]
        )


def test_embeddings_by_another_encoder_are_refused(target: dict[str, np.ndarray]) -> None:
    stars = make_stars(100)
    head = fit_head(stars["shared"], stars["labels"], stars["star"], card("shared", "ridge", weights="a" * 64))

    with pytest.raises(
        ProvenanceError, match=r"weights aaaaaaaaaaaaaaaa, the target holds those of  with bbbb.*embed the target"
    ):
        transfer_head(
            head, target["shared"], target["labels"], target["star"], card("shared", weights="b" * 64), "zero-shot"
        )


def test_without_peft(source: Head, target: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(DependencyError, match=r'pip install "specdb\[heads\]"'):
        fit(source, target, "lora")


def test_a_residual_head_is_not_trained_on_its_own() -> None:
    stars = make_stars(90)
    with pytest.raises(InputError, match="make it with `specdb transfer HEAD --strategy residual`"):
        fit_head(stars["flux"], stars["labels"], stars["star"], replace(card(), config=HeadConfig("pixels", "residual")))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"sizes": (20,)}, "20 labelled stars were asked for; at least 50 are needed"),
        ({"seeds": 0}, "0 seeds"),
        ({"strategies": ("full",), "settings": {"lora": {}}}, "there are settings for lora, which is not among full"),
    ],
)
def test_bad_plans(plan: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TransferPlan(**plan)  # type: ignore[arg-type]


def test_every_strategy_says_what_it_is() -> None:
    for name in transfer_strategies():
        assert strategy_class(name).name == name
        assert resolve(name, {}) is not None


# -- from database to database ---------------------------------------------------------------------------------------------


@pytest.fixture
def stores(tmp_path: Path, target: dict[str, np.ndarray]) -> tuple[Store, Store]:
    stars = make_stars(400)
    here, there = make_database(tmp_path / "here", stars), make_database(tmp_path / "there", target)
    train_head(here, label_table(stars), "atm", HeadConfig("pixels", settings=SOURCE, n_folds=3))
    return here, there


PLAN = TransferPlan(("full", "zero-shot"), (60, 150), 2, settings={"full": {"steps": 30}})


def test_from_one_database_to_another(stores: tuple[Store, Store], target: dict[str, np.ndarray]) -> None:
    here, there = stores
    said: list[str] = []
    found = transfer(
        here,
        "atm",
        "toy",
        label_table(target),
        target=there,
        inputs=("pixels", "both"),
        plan=PLAN,
        save_as="moved",
        report=lambda what, done, jobs: said.append(f"{done} of {jobs}: {what}"),
    )

    assert said[0] == "0 of 16: full on pixels, 60 stars"
    assert found.comparison is not None
    rows = found.comparison.rows
    assert len(rows) == 16 * 3 * 3  # three labels of all, metal-poor and metal-rich stars
    assert {row["stars"] for row in rows} == {60, 150}
    assert not set(found.head.training.ids) & set(found.comparison.test.ids)
    table = found.comparison.table("feh")
    assert [row["strategy"] for row in table] == ["full", "zero-shot"]
    assert set(table[0]) == {"strategy", "pixels", "both"}
    assert load_head(here, "atm_both").card.data["like"] == "atm"
    head = load_head(there, "moved")
    assert head.card.data["transfer"]["source"].startswith("atm")
    assert head.card.labels[0].unit == "K"
    assert predict_survey(there, head).predicted == 300
    assert evaluate_head(there, head, label_table(target)).figures()["n"] > 80


def test_without_labels_the_head_is_taken_as_it_is(stores: tuple[Store, Store], target: dict[str, np.ndarray]) -> None:
    here, there = stores
    found = transfer(here, "atm", "toy", target=there, save_as="moved")

    assert found.comparison is None
    head = load_head(there, "moved")
    assert head.card.data["transfer"]["calibrated on"] == "toy"
    its = load_head(here, "atm").predict(target["flux"])
    np.testing.assert_array_equal(head.predict(target["flux"]).sigma, its.sigma)
    assert predict_survey(there, head).predicted == 300
    with pytest.raises(InputError, match="without --labels the head can only be taken over as it is"):
        transfer(here, "atm", "toy", target=there, plan=PLAN)
    with pytest.raises(InputError, match="without labels nothing is compared; head atm reads pixels"):
        transfer(here, "atm", "toy", target=there, inputs=("both",))


def test_stars_that_the_source_has_learnt_from_judge_nothing(tmp_path: Path) -> None:
    stars = make_stars(400)
    store = make_database(tmp_path / "db", stars)
    train_head(store, label_table(stars, slice(200)), "atm", HeadConfig("pixels", settings=SOURCE, n_folds=3))
    other = label_table(stars)
    other = other.set_column(3, "feh", pa.array(np.asarray(other["feh"]) * 0.9 + 0.1))
    plan = replace(
        PLAN, strategies=("zero-shot", "residual"), settings={"residual": QUICK["residual"]}, sizes=(100,), seeds=1
    )
    found = transfer(store, "atm", "toy", other, plan=plan, save_as="system")

    assert found.comparison is not None
    assert not set(found.comparison.test.ids) & set(stars["ids"][:200])
    with pytest.raises(InputError, match="labelled stars are among those that the source head was trained on"):
        transfer(store, "atm", "toy", label_table(stars, slice(210)), plan=replace(plan, sizes=()), save_as="system")
    with pytest.raises(InputError, match="would replace its source atm"):
        transfer(store, "atm", "toy", other, save_as="atm")


@pytest.mark.parametrize(
    ("rows", "plan", "message"),
    [
        (
            slice(60),
            {},
            "the target has [0-9]+ labelled stars, of which [0-9]+ would judge; at least 50 .* and 20 to judge: 73 in",
        ),
        (
            slice(300),
            {"sizes": (5000,)},
            "5000 labelled stars were asked for; the target has [0-9]+, and [0-9]+ more that judge",
        ),
    ],
)
def test_too_few_stars(
    stores: tuple[Store, Store], target: dict[str, np.ndarray], rows: slice, plan: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        transfer(
            stores[0], "atm", "toy", label_table(target, rows), target=stores[1], plan=TransferPlan(**plan), save_as="m"
        )  # type: ignore[arg-type]


def test_another_encoder_in_the_target(
    tmp_path: Path, target: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    stars = make_stars(400)
    here = make_database(tmp_path / "here", stars)
    train_head(here, label_table(stars), "atm", HeadConfig("both", "ridge"))
    monkeypatch.setitem(ENCODER, "weight_hash", "b" * 64)
    there = make_database(tmp_path / "there", target)

    with pytest.raises(ProvenanceError, match="embed the target with the same encoder, or transfer a head on pixels"):
        transfer(here, "atm", "toy", label_table(target), target=there, save_as="moved")


def test_the_command(stores: tuple[Store, Store], target: dict[str, np.ndarray], tmp_path: Path) -> None:
    here, there = stores
    csv = tmp_path / "labels.csv"
    table = label_table(target)
    lines = ["spectrum_id,teff,feh,alphafe"]
    noise = np.random.default_rng(0).normal(0, 0.02, table.num_rows)
    columns = (table[name].to_pylist() for name in ("spectrum_id", "teff", "feh"))
    lines += [f"{i},{t},{f},{-0.2 * f + e}" for i, t, f, e in zip(*columns, noise, strict=True)]
    csv.write_text("\n".join(lines))
    run = CliRunner()
    added = run.invoke(cli, ["labels", "add", str(csv), "--name", "cal", "--id", "spectrum_id", "--db", str(there.root)])
    assert added.exit_code == 0, added.output
    known = label_table(make_stars(400))
    alpha = pa.array(-0.2 * np.asarray(known["feh"]))
    train_head(here, known.append_column("alphafe", alpha), "abundances", HeadConfig("pixels", settings=SOURCE, n_folds=3))
    words = [
        "transfer",
        "abundances",
        "--to",
        "toy",
        "--target-db",
        str(there.root),
        "--db",
        str(here.root),
        "--strategy",
        "full",
    ]
    words += [
        "--labels",
        "SELECT spectrum_id, teff, feh, alphafe FROM cal",
        "--strategy",
        "zero-shot",
        "--n",
        "60",
        "--n",
        "120",
    ]
    words += ["--set", "full.steps=40", "-o", str(tmp_path / "out"), "--name", "moved", "--test-fraction", "0.5"]
    done = run.invoke(cli, words)

    assert done.exit_code == 0, done.output
    assert "R2 of feh (all / metal-poor / metal-rich), 120 stars learnt from" in done.output
    assert "saved as moved: full on pixels, 120 stars" in done.output
    record = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert record["discrepancy"]["full on pixels"]["mmd2"] < record["discrepancy"]["zero-shot on pixels"]["mmd2"]
    made = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"feh.png", "learning-feh.png", "plane.png"} <= made
    assert run.invoke(cli, ["heads", "predict", "moved", "--db", str(there.root), "-q"]).exit_code == 0
    plain = run.invoke(
        cli, ["transfer", "abundances", "--to", "toy", "--target-db", str(there.root), "--db", str(here.root)]
    )
    assert "abundances_toy: abundances as it is, for toy; its sigmas were calibrated on toy" in plain.output
    wrong = run.invoke(cli, [*words, "--set", "lora=4"])
    assert wrong.exit_code == 2
    assert "write STRATEGY.KEY=VALUE" in wrong.output


# -- judging ---------------------------------------------------------------------------------------------------------------


def test_the_discrepancy_sees_shapes() -> None:
    rng = np.random.default_rng(0)

    def plane(n: int, blur: float) -> np.ndarray:
        feh = rng.normal(-0.4, 0.3, n)
        alpha = np.where(rng.random(n) < 0.5, 0.05, 0.25) + 0.02 * rng.normal(size=n)
        return np.column_stack(
            [feh, alpha.mean() + (alpha - alpha.mean()) * np.sqrt(1 - blur) + 0.1 * np.sqrt(blur) * rng.normal(size=n)]
        )

    same, smeared = discrepancy(plane(600, 0), plane(500, 0)), discrepancy(plane(600, 0.6), plane(500, 0))
    assert abs(same.mmd2) < 3 * same.error + 1e-3
    assert same.p_value > 0.01
    assert smeared.p_value < 0.01
    assert smeared.mmd2 > smeared.null_95 > 0
    assert (same.n, same.m) == (600, 500)
    with pytest.raises(InputError, match="samples of 10 and 500 stars"):
        discrepancy(plane(10, 0), plane(500, 0))
    with pytest.raises(InputError, match="same value for every reference star"):
        discrepancy(plane(100, 0), np.ones((50, 2)))


def test_the_discrepancy_is_unbiased() -> None:
    rng = np.random.default_rng(1)
    found = [discrepancy(rng.normal(size=(60, 2)), rng.normal(size=(60, 2)), permutations=1) for _ in range(40)]
    mean = np.mean([one.mmd2 for one in found])
    scatter = np.std([one.mmd2 for one in found])
    assert abs(mean) < 4 * scatter / np.sqrt(40)
    assert 0.4 < np.mean([one.error for one in found]) / scatter < 2.5


def test_landscapes_have_their_lowest_point_near_the_solution(source: Head, target: dict[str, np.ndarray]) -> None:
    stars = make_stars(200, seed=9)
    found = loss_landscape({"source": source, "full": fit(source, target, "full")}, stars["flux"], stars["labels"], steps=5)

    assert found["source"].loss.shape == (5, 5)
    assert found["source"].loss[2, 2] < found["source"].loss[[0, 0, -1, -1], [0, -1, 0, -1]].min()
    assert found["source"].loss[2, 2] < 0.3
    with pytest.raises(InputError, match="steps is 4; give an odd number"):
        loss_landscape({"source": source}, stars["flux"], stars["labels"], steps=4)
    with pytest.raises(InputError, match="corrected is a residual head"):
        loss_landscape({"corrected": fit(source, target, "residual")}, stars["flux"], stars["labels"])


@pytest.mark.parametrize("strategy", ["full", "residual"])
def test_sensitivities_are_derivatives(source: Head, target: dict[str, np.ndarray], strategy: str) -> None:
    head, step = fit(source, target, strategy), 1e-2
    flux = target["flux"][:40]
    found = line_sensitivity(head, flux, batch_size=16)

    assert found.mean.shape == found.error.shape == (3, 12)
    for pixel in (0, 7):
        moved = np.stack([flux, flux])
        moved[0, :, pixel] += step
        moved[1, :, pixel] -= step
        up, down = (head.predict(one).mean for one in moved)
        expected = ((up - down) / (2 * step)).mean(axis=0)
        off = np.abs(found.mean[:, pixel] - expected)
        assert (off < 0.05 * np.abs(expected) + 0.03 * np.abs(found.mean).max(axis=1)).all()


def test_sensitivities_need_what_made_the_inputs() -> None:
    stars = make_stars(100)
    head = fit_head(stars["shared"], stars["labels"], stars["star"], card("shared", "ridge", weights="a" * 64))
    with pytest.raises(InputError, match="give the encoder, so that gradients reach the spectrum"):
        line_sensitivity(head, stars["flux"])
    near = fit_head(stars["flux"], stars["labels"], stars["star"], card(kind="knn"))
    with pytest.raises(InputError, match="a knn head has no gradients"):
        line_sensitivity(near, stars["flux"])
