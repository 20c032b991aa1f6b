"""`specdb train` from the command line."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from specdb.cli import cli
from specdb.encoders import load_card
from tests.indexer.training_data import XP_MODEL, make_database, toml


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["train", *map(str, arguments)])
    return result.exit_code, result.output


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text('title = "a small one"\n' + toml(XP_MODEL))
    return path


def test_list_names_all_trainings():
    code, output = run("--list")
    assert code == 0 and len(output.splitlines()) == 9
    assert "specclip-clip-split  SpecCLIP split, published size" in output


def test_trains_and_is_done_when_called_again(tmp_path, config):
    db = make_database(tmp_path / "db").root
    code, output = run("--config", config, "--db", db, "--dry-run")
    assert code == 0 and "0.05 M weights" in output and "held out" in output and "GiB per device" in output
    code, output = run("--config", config, "--db", db, "--out", tmp_path / "small", "--steps", 4)
    assert code == 0, output
    assert "step 4/4  total" in output and "after 4 steps; held out: total" in output
    card = load_card(tmp_path / "small")
    assert (card.name, card.title, card.training["steps"]) == ("small", "a small one", 4)
    code, output = run("--config", config, "--db", db, "--out", tmp_path / "small", "--steps", 4, "--quiet")
    assert (code, output) == (0, "")


def test_dry_run_of_a_published_size_needs_no_data():
    code, output = run("--config", "specclip-clip-split", "--dry-run")
    assert code == 0 and "126.23 M weights, 40.71 M of them trained" in output and "not known: give --db" in output
    code, output = run("--config", "mini", "--dry-run")
    assert code == 0 and "M weights" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --config NAME or --config FILE.toml"),
        (("--config", "specclip-xp-mt"), "give --out FOLDER"),
        (("--config", "nothing", "--out", "x"), "no training is called 'nothing'"),
        (("--config", "mini", "--out", "x"), "give their folder (--data) and --out"),
        (("--config", "specclip-xp-mt", "--data", "y", "--out", "x"), "--data is for the training 'mini'"),
        (("--config", "specclip-xp-mt", "--db", "y", "--pairs", "z", "--out", "x"), "give either --db or --pairs"),
        (("--config", "specclip-xp-mt", "--out", "x", "--device", "tpu"), "device 'tpu' is unknown"),
    ],
)
def test_what_is_missing_is_said(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = run(*arguments)
    assert code != 0 and message in output
    assert not list(tmp_path.iterdir())
