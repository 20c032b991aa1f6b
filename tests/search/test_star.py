"""What is gathered about one spectrum, and its card."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parent))
from two_modalities import TwoModalities, build_two_modalities

from specdb.catalog.crossmatch import pairs_path
from specdb.cli import cli
from specdb.database import open_database
from specdb.errors import QueryError
from specdb.search.partners import partners_of
from specdb.search.star import card, star_view


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> TwoModalities:
    return build_two_modalities(tmp_path_factory.mktemp("star"), 8)


def test_a_view_holds_neighbours_and_translation(made: TwoModalities) -> None:
    db = open_database(made.db)
    obsid = made.pairs[0][0]
    view = star_view(db, obsid, k=3)
    assert view.modality == "lamost_lrs"
    assert {m: len(h) for m, h in view.hits.items()} == {"lamost_lrs": 3, "gaia_xp": 3}
    assert obsid not in view.hits["lamost_lrs"].ids
    assert len(view.neighbours("gaia_xp")[0].wavelength) == 343
    assert view.translations["gaia_xp"].flux.shape == (1, 343)
    assert not view.problems
    assert len(card(view).axes) == 4


def test_a_file_is_viewed_as_an_id_is(made: TwoModalities) -> None:
    db = open_database(made.db)
    view = star_view(db, next(made.survey.lamost.rglob("*.fits*")), k=2, translate=False)
    assert view.spectrum_id is None
    assert view.name.endswith((".fits", ".fits.gz"))
    assert len(view.hits["lamost_lrs"]) == len(view.hits["gaia_xp"]) == 2
    assert not view.translations


def test_unknown_ids_are_said(made: TwoModalities) -> None:
    with pytest.raises(QueryError, match="no spectrum"):
        star_view(open_database(made.db), 17)


def test_the_commands_draw(made: TwoModalities, tmp_path: Path) -> None:
    first, second = made.pairs[0][0], made.pairs[1][0]
    run = CliRunner().invoke(cli, ["card", str(first), "-k", "2", "-o", str(tmp_path / "c.png"), "--db", str(made.db)])
    assert run.exit_code == 0, run.output
    run = CliRunner().invoke(cli, ["compare", str(first), str(second), "-o", str(tmp_path / "d.svg"), "--db", str(made.db)])
    assert run.exit_code == 0, run.output
    assert (tmp_path / "c.png").stat().st_size > 10_000
    assert (tmp_path / "d.svg").exists()


def test_the_star_itself_is_shown_where_pairs_know_it(made: TwoModalities, tmp_path: Path) -> None:
    shutil.copytree(made.db, tmp_path / "db")
    db = open_database(tmp_path / "db")
    obsid, source = made.pairs[0]
    assert star_view(db, obsid, k=2).observed == {}
    schema = {"lamost_lrs": [obsid] * 2, "gaia_xp": [source, made.pairs[1][1]], "separation_arcsec": [0.1, None]}
    with db.store.writing() as writer:
        writer.put(pairs_path("lamost_lrs", "gaia_xp"), pa.table(schema | {"method": ["position", "lasp.gaia"]}), {})
    # One named by an id comes before one that is only near.
    assert [p.spectrum_id for p in partners_of(db, "lamost_lrs", obsid, "gaia_xp")] == [made.pairs[1][1], source]
    assert [p.spectrum_id for p in partners_of(db, "gaia_xp", source, "lamost_lrs")] == [obsid]
    view = star_view(db, source, modality="gaia_xp", k=2)
    assert [curve.name for curve in view.observed["lamost_lrs"]] == [f"{obsid} observed"]
    assert "the star itself" in card(view).axes[2].get_title()
    db.delete([made.pairs[1][1]], modality="gaia_xp")
    assert [p.spectrum_id for p in partners_of(db, "lamost_lrs", obsid, "gaia_xp")] == [source]
