"""What an encoder is worth: measures, baselines, which stars are judged, sections, reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from indexer.evaluate.baselines import CanonicalSpace, LinearMap, in_modal_baselines
from indexer.evaluate.measures import neighbour_labels, partner_ranks, recalls, visit_ranks
from indexer.evaluate.pairs import simulated_pairs
from indexer.evaluate.real import HeldOut, RealData, XpSet, held_out_stars, load_database, load_folder
from indexer.evaluate.report import SECTIONS, evaluate_encoder, to_json, write_report
from indexer.evaluate.section import Context, EvaluationSettings, Section
from indexer.evaluate.translation import relative_error
from indexer.train.data import TrainingSet, split_stars
from specdb.catalog import add_labels
from specdb.cli import cli
from specdb.encoders import Card, Encoder
from specdb.errors import InputError
from specdb.store import Store
from tests.search.two_modalities import SPLIT, TwoModalities, build_two_modalities, save_encoder

SMALL = EvaluationSettings(pairs=60, reference=120, neighbours=5, anomaly_stars=90)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> TwoModalities:
    return build_two_modalities(tmp_path_factory.mktemp("two"), 20)


@pytest.fixture(scope="module")
def real() -> RealData:
    """Sixty simulated stars, half of them seen twice by LAMOST, all of them by XP."""
    pairs = simulated_pairs(60, 5)
    n = len(pairs)
    rng = np.random.default_rng(0)
    star = np.concatenate([np.arange(n), np.arange(n // 2)])
    flux = pairs.flux["lamost_lrs"][star]
    labels = np.column_stack([pairs.truth[name] for name in ("teff", "logg", "feh")])[star]
    lrs = TrainingSet(
        flux=flux + 0.01 * rng.standard_normal(flux.shape).astype(np.float32),
        ivar=pairs.ivar["lamost_lrs"][star],
        snr=pairs.snr["lamost_lrs"][star],
        star=star,
        labels=labels,
        is_star=np.ones(len(star), bool),
        spectrum_id=np.arange(len(star)),
        provenance={"files_sha256": "abc"},
    )
    xp = XpSet(pairs.flux["gaia_xp"], pairs.ivar["gaia_xp"], pairs.snr["gaia_xp"], np.arange(n))
    rows = np.arange(6)
    return RealData(lrs, HeldOut(star % 2 == 0, False, "stars of even number"), xp, np.column_stack([rows, rows]), "test")


@pytest.fixture(scope="module")
def context(two: TwoModalities, real: RealData) -> Context:
    return Context(two.encoder, {}, real, {}, SMALL, location=str(two.encoder_folder))


@pytest.fixture(scope="module")
def done(context: Context) -> dict[str, Section]:
    return {section.name: section for section in evaluate_encoder(context)}


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


class TestMeasures:
    def test_ranks_of_visits(self) -> None:
        angle = np.radians([0, 1, 2, 40, 41.5])
        query, rank = visit_ranks(np.column_stack([np.cos(angle), np.sin(angle)]), np.array([0, 1, 0, 2, 2]))
        assert query.tolist() == [0, 2, 3, 4]
        assert rank.tolist() == [2, 2, 1, 1]
        assert [r.value for r in recalls(rank, (1, 2))] == [0.5, 1.0]
        assert recalls(np.empty(0, np.int64))[0].value == 0

    def test_ranks_of_partners_count_equals_against(self) -> None:
        bank = np.array([[1.0, 0], [1, 0], [0, 1]])
        assert partner_ranks(np.array([[2.0, 0], [0, 3]]), bank, np.array([0, 2])).tolist() == [2, 1]
        assert partner_ranks(bank[:1], bank * [[1], [3], [1]], normalise=False).tolist() == [2]

    def test_the_own_star_is_no_neighbour(self) -> None:
        bank, labels = np.eye(3), np.array([[1.0], [2], [3]])
        found = neighbour_labels(
            bank, labels, np.array([[1.0, 0.5, 0]]), 1, bank_star=np.array([7, 8, 9]), query_star=np.array([7])
        )
        assert found.tolist() == [[2]]

    def test_relative_errors_of_unobserved_samples_do_not_count(self) -> None:
        error = relative_error(np.array([[1.1, 5]]), np.array([[1.0, 1]]), np.array([[1.0, 0]]))
        np.testing.assert_allclose(error, [[0.1, np.nan]], rtol=1e-6)


class TestBaselines:
    def test_linear_maps_find_partners_that_are_linear(self) -> None:
        rng = np.random.default_rng(0)
        latent = rng.standard_normal((400, 6))
        a = latent @ rng.standard_normal((6, 40)) + 0.01 * rng.standard_normal((400, 40))
        b = latent @ rng.standard_normal((6, 25)) + 0.01 * rng.standard_normal((400, 25))
        linear, canonical = LinearMap.fit(a[:300], b[:300], 1e-6), CanonicalSpace.fit(a[:300], b[:300])
        assert np.abs(linear(a[300:]) - b[300:]).max() < 0.2
        ranks = partner_ranks(canonical(a[300:], 0), canonical(b[300:], 1), normalise=False)
        assert (ranks == 1).mean() > 0.95

    def test_components_of_the_training_rows(self) -> None:
        flux = np.random.default_rng(0).standard_normal((80, 60))
        found = in_modal_baselines(flux, np.zeros(80, bool))
        assert [x.shape for x in found.values()] == [(80, 60), (80, 50)]


class TestHeldOut:
    facts = {"seed": 1, "settings": {"n_folds": 3}, "data": {"files_sha256": "abc"}}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("training", "trained_on", "says"),
        [
            ({}, None, "does not say what it was trained on"),
            (facts | {"data": {"files_sha256": "other"}}, None, "was trained on other files"),
            (facts | {"weights": "trained without the held-out stars"}, False, "was not trained on"),
            (facts | {"weights": "trained on all stars"}, True, "was trained on these stars"),
            (
                facts | {"weights": "trained on all stars", "held_out": {"left_out_of_weights": True}},
                False,
                "not trained on",
            ),
        ],
    )
    def test_what_the_card_says(self, real: RealData, training: dict, trained_on: bool | None, says: str) -> None:
        assert real.lrs is not None
        found = held_out_stars(Card("x", SPLIT, training=training), real.lrs)
        assert found.trained_on is trained_on
        assert says in found.statement
        folds, seed = (3, 1) if training else (4, 0)
        np.testing.assert_array_equal(found.test, split_stars(real.lrs.star, folds, seed) == 0)

    def test_every_star(self, real: RealData) -> None:
        assert real.lrs is not None
        found = held_out_stars(Card("x", SPLIT, training=self.facts | {"weights": "without"}), real.lrs, every_star=True)
        assert found.test.all()
        assert found.trained_on


class TestSections:
    def test_all_say_something(self, done: dict[str, Section]) -> None:
        assert list(done) == [name.replace("-", "_") for name in SECTIONS]
        for section in done.values():
            assert section.table
            assert section.figures
            assert section.metrics
            assert section.to_markdown().startswith("## ")

    def test_baselines_stand_beside_the_encoder(self, context: Context, done: dict[str, Section]) -> None:
        names = ["1462 normalised pixels", "50 principal components", "tiny"]
        assert [row["representation"] for row in done["retrieval"].table] == names
        assert [row["representation"] for row in done["labels"].table] == names
        assert done["retrieval"].metrics[names[0]]["recall"][0]["value"] > 0.8  # two noisy copies of each spectrum
        assert set(done["cross_modal"].metrics["simulated"]) > {"tiny", "pixels, linear map"}
        assert done["cross_modal"].metrics["real"]["tiny"]["sources"] == len(context.real.xp)
        assert {row["by"] for row in done["translation"].table} == {
            "pixels, linear map", "nearest neighbour", "5 neighbours", "tiny",
        }  # fmt: skip
        assert "not calibrated" in done["translation"].to_markdown()
        assert done["translation"].metrics["real"]["median"]["pixels, linear map"] < 0.3

    def test_a_report(self, context: Context, done: dict[str, Section], tmp_path: Path) -> None:
        two = [done["retrieval"], replace(done["translation"], figures={})]  # drawing takes seconds
        paths = write_report(tmp_path / "out", context, two)
        assert all(path.stat().st_size for path in paths)
        values = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert values["judged_stars"] == "stars of even number"
        assert values["encoder_trained_on_judged_stars"] is False
        assert list(values["sections"]) == ["retrieval", "translation"]
        text = (tmp_path / "out" / "evaluation.md").read_text()
        assert "![repeat visits](repeat_visits.svg)" in text

    def test_what_has_nothing_to_say_gives_the_reason(self, context: Context, tmp_path: Path) -> None:
        no_data = replace(context, real=RealData())
        (section,) = evaluate_encoder(no_data, ["retrieval"])
        assert section.text == ["Left out: there are no real LAMOST spectra."]
        one = save_encoder(
            tmp_path, replace(SPLIT, variant="base", head=replace(SPLIT.head, private=0), gaia_xp=None, decoder=None)
        )
        sections = evaluate_encoder(replace(no_data, encoder=one), ["cross-modal", "translation"])
        assert [s.text[0] for s in sections] == [
            "Left out: tiny encodes lamost_lrs only.",
            "Left out: tiny has no cross-modal decoders.",
        ]
        single = replace(context.real, held_out=HeldOut(np.arange(len(context.real.lrs)) == 0, None, ""))  # type: ignore[arg-type]
        few = evaluate_encoder(replace(context, real=single), ["retrieval", "labels"])
        assert "no star among the judged ones has two spectra" in few[0].text[0]
        assert "1 judged and" in few[1].text[0]

    def test_what_could_not_be_measured_is_null(self, context: Context) -> None:
        section = Section("x", "X", metrics={"value": float("nan"), "more": [float("inf"), 1.0]})
        assert json.loads(to_json(context, [section]))["sections"] == {"x": {"value": None, "more": [None, 1.0]}}

    def test_unknown_sections(self, context: Context) -> None:
        with pytest.raises(InputError, match="there is no section 'gossip'; sections are retrieval, labels"):
            evaluate_encoder(context, ["gossip"])


class TestDatabase:
    def test_pairs_and_labels_come_from_its_tables(self, two: TwoModalities, tmp_path: Path) -> None:
        lamost, gaia = (pa.array(column, pa.int64()) for column in zip(*two.pairs, strict=True))
        numbers = np.linspace(4000, 8000, len(two.pairs))
        labels = {"number": lamost, "teff": numbers, "logg": numbers / 2000, "feh": numbers / -9000}
        with Store.open(two.db).writing() as writer:
            writer.put("pairs/simulated.parquet", pa.table({"lamost_lrs": lamost, "gaia_xp": gaia}), {})
        pq.write_table(pa.table(labels), tmp_path / "simulated.parquet")
        add_labels(Store.open(two.db), tmp_path / "simulated.parquet", "simulated", id="number")
        found = load_database(two.db, two.encoder.card)
        assert found.lrs is not None
        assert found.xp is not None
        assert len(found.pairs) == len(found.lrs)
        known = dict(two.pairs)
        assert all(known[int(found.lrs.spectrum_id[a])] == found.xp.spectrum_id[b] for a, b in found.pairs)
        assert found.lrs.labelled.all()

    def test_the_command(self, two: TwoModalities, tmp_path: Path) -> None:
        out = tmp_path / "out"
        shown = run("evaluate", "--db", two.db, "--section", "retrieval", "--pairs", 40, "--out", out)
        assert shown.exit_code == 0, shown.output
        assert "Left out: no star among the judged ones has two spectra." in shown.stdout
        assert (out / "evaluation.md").read_text().startswith("# tiny")
        as_json = run(
            "evaluate", "--encoder", two.encoder_folder, "--section", "retrieval", "--json", "--beside", two.encoder_folder
        )
        assert json.loads(as_json.stdout)["sections"] == {"retrieval": {}}
        assert "choose one of --data and --db" in run("evaluate", "--db", two.db, "--data", tmp_path).stderr


@pytest.mark.shared
@pytest.mark.slow
def test_the_real_pairs_are_found(shared: Path, two: TwoModalities) -> None:
    real = load_folder(shared, two.encoder.card)
    assert real.lrs is not None
    assert real.xp is not None
    assert real.held_out is not None
    assert (len(real.pairs), len(np.unique(real.pairs[:, 1]))) == (9, 3)
    assert len(real.xp) >= 1999
    assert len(np.unique(real.lrs.star[real.pairs[:, 0]])) == 3


def test_encoders_are_listed_by_the_name_they_are_shown_under(context: Context, two: TwoModalities) -> None:
    other = Encoder(two.encoder.model, replace(two.encoder.card, name="other"))
    assert list(replace(context, beside={"unaligned": other}).encoders) == ["tiny", "unaligned"]
