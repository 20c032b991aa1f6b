"""The section on unusual objects: measures, where the truth comes from, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from indexer.evaluate.anomaly import average_precision, false_alarms
from indexer.evaluate.anomaly_data import _kind, real_known
from specdb.cli import cli
from specdb.errors import InputError
from specdb.plots.anomalies import anomaly_figure
from specdb.store import Store
from tests.search.two_modalities import TwoModalities, build_two_modalities


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> TwoModalities:
    return build_two_modalities(tmp_path_factory.mktemp("two"), 60)


def test_average_precision_is_the_mean_precision_at_the_hits() -> None:
    positive = np.array([True, False, True, False])
    assert average_precision(positive, np.array([4.0, 3, 2, 1])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(positive, np.array([1.0, 2, np.nan, 3])) == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_false_alarms_are_counted_by_signal_to_noise_and_without() -> None:
    snr = np.concatenate([np.arange(1, 301), np.full(100, np.nan)])
    p = np.full(400, 0.5)
    p[:2], p[399] = 0.001, 0.001
    ordinary = np.ones(400, bool)
    ordinary[399] = False
    found = false_alarms(p, ordinary, snr)
    assert [round(v["share"], 4) for v in found.values()] == [0.02, 0, 0, 0]
    assert list(found)[-1] == "no errors"
    assert found["no errors"]["spectra"] == 99
    assert found["S/N tercile 1"]["low"] < 0.02 < found["S/N tercile 1"]["high"]


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        (("GALAXY", "Non", "a.fits"), "galaxy"),
        (("STAR", "G5", "dir/a.fits"), ""),
        (("STAR", "Carbon", "a.fits"), "carbon"),
        ((None, None, "x/planetary_nebula.npz::3"), "planetary_nebula"),
        ((None, None, "pn_symbiotic/XP_1.csv"), "symbiotic"),
        ((None, None, None), ""),
    ],
)
def test_classes_and_file_names_say_what_is_unusual(facts: tuple, kind: str) -> None:
    assert _kind(*facts) == kind


def test_a_list_says_what_is_unusual(two: TwoModalities, tmp_path: Path) -> None:
    assert list(real_known(two.db)) == []
    ids = Store.open(two.db).ids("gaia_xp")[:3].tolist()
    listed = tmp_path / "list.csv"
    listed.write_text("spectrum_id,kind\n" + "".join(f"{i},odd\n" for i in ids))
    (known,) = real_known(two.db, listed)
    assert known.name == "real_gaia_xp"
    assert sorted(known.survey.ids[known.kind == "odd"].tolist()) == sorted(ids)
    listed.write_text("id,kind\n1,odd\n")
    with pytest.raises(InputError, match="it needs spectrum_id and kind"):
        list(real_known(two.db, listed))


def test_the_figure_shows_every_score_and_group() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(200) < 0.1
    figure = anomaly_figure({"a": rng.random(200), "b": positive + rng.random(200)}, positive, {"all": rng.random(180)})
    left, right = figure.axes
    assert len(left.lines) == 2
    assert len(right.lines) == 2


@pytest.mark.slow
def test_the_command(two: TwoModalities, tmp_path: Path) -> None:
    words = ["evaluate", "--anomaly", "--db", two.db, "--stars", 90, "--json", "--out", tmp_path / "out"]
    shown = CliRunner().invoke(cli, [str(word) for word in words])
    assert shown.exit_code == 0, shown.output
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["sections"]["anomaly"]
    assert list(found) == ["simulated_lamost_lrs", "simulated_gaia_xp", "simulated_pairs"]
    scores = found["simulated_pairs"]["scores"]
    assert {"combination", "redshift", "pair_disagreement"} <= set(scores)
    assert scores["redshift"]["votes"]
    assert (tmp_path / "out" / "anomaly_simulated_pairs.svg").exists()
