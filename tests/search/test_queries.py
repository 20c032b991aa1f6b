"""Queries of a database: one and many, filtered, by star, fused; and every way to put them wrongly."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from specdb.catalog.labels import add_labels
from specdb.catalog.selection import select_ids
from specdb.cli import cli
from specdb.database import Database
from specdb.errors import DatabaseError, InputError, QueryError
from specdb.search import Hits, JointHits
from specdb.search.lookups import StarTable
from specdb.search.query import take_rows
from specdb.spectra import get_modality
from specdb.store import Store
from tests.catalog.small_store import ENCODER, N, commit, gaia_id, index_all, lamost, rows, sky

#: The first three LAMOST spectra are of Gaia stars; spectra 5 and 6 are made to be of one star, without a Gaia id.
FIRST = 1001
TWINS = (FIRST + 5, FIRST + 6)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder = tmp_path_factory.mktemp("queries")
    store = Store.create(folder / "db", ENCODER)
    table = lamost()
    ra, dec = table["ra"].to_numpy().copy(), table["dec"].to_numpy().copy()
    ra[6], dec[6] = ra[5], dec[5] + 1 / 3600
    for name, values in (("ra", ra), ("dec", dec)):
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array(values))
    commit(store, get_modality("lamost_lrs"), table, seed=1)
    xp = np.array([gaia_id(i) for i in range(N)])
    ra, dec = sky(0)
    commit(store, get_modality("gaia_xp"), rows(get_modality("gaia_xp"), xp, ra=ra, dec=dec, gaia_source_id=xp), seed=1)
    index_all(store)
    for name, start in (("lasp", 4000.0), ("dr1", 5000.0)):
        path = folder / f"{name}.parquet"
        labels = {"spectrum_id": np.arange(FIRST, FIRST + 20), "teff": start + 100 * np.arange(20)}
        if name == "lasp":
            labels["feh"] = np.linspace(-2, 0, 20)
        pq.write_table(pa.table(labels), path)
        add_labels(store, path, name, id="spectrum_id", on="spectrum_id")
    return Database(store)


def brute(db: Database, query: int, modality: str = "lamost_lrs") -> tuple[np.ndarray, np.ndarray]:
    index = db.index(modality)
    cosine = index.vectors(index.ids) @ index.vectors(np.array([query]))[0]
    order = np.argsort(-cosine)
    return cosine[order], index.ids[order]


# -- conditions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("feh > -1", 10),
        ("lasp.teff < 4500", 5),
        ("lasp.teff < 4500 AND dr1.teff > 5100", 3),
        ("subclass = 'K1'", N // 2),
        ("spectra.subclass = 'K1' AND FEH > -1", 5),
        ("lamost_lrs.snr > 0", N),
        ("spectrum_id IN (SELECT spectrum_id FROM lasp WHERE teff > 5000)", 9),
        ("true -- all of them", N),
        ("false", 0),
        ("lasp.teff IS NULL", N - 20),
    ],
)
def test_conditions_over_metadata_and_labels(db: Database, where: str, count: int) -> None:
    ids = select_ids(db.store, "lamost_lrs", where)
    assert ids.dtype == np.int64
    assert len(ids) == count
    assert (np.diff(ids) > 0).all()


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("teff < 4500", "2 catalogues have a column 'teff'; write dr1.teff or lasp.teff"),
        ("temperature < 4500", r"no column 'temperature' in lamost_lrs and its catalogues \(dr1, lasp\)"),
        ("fehh < 0", "no column 'fehh' .* is it feh"),
        ("lasp.fe < 0", "the catalogue lasp has no column 'fe'; is it feh"),
        ("apogee.teff < 1", "there is no catalogue 'apogee'; there are dr1, lasp"),
        ("spectra.nothing < 1", "lamost_lrs has no column 'nothing'"),
        ("snr >", "is not SQL"),
        ("snr", "'snr' is a value of type FLOAT; a condition is one true-or-false expression"),
        ("true; DROP TABLE spectra", "is not SQL"),
        ("true); DELETE FROM spectra WHERE (true", "is not SQL|is 2 statements|more than a condition"),
        ("true) FROM spectra WHERE (true", "is more than a condition"),
        ("true, false", "is a value of type"),
        ("true), (false", "is more than a condition"),
        ("true) UNION ALL SELECT (false", "is more than a condition"),
        ("snr > 'abc'", "abc"),
        ("count(*) > 1", "aggregate"),
        ("spectrum_id IN (SELECT a FROM read_csv('/etc/passwd'))", "not allowed"),
    ],
)
def test_conditions_that_are_none(db: Database, where: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        db.search(FIRST, where=where)


@settings(max_examples=12, deadline=None)
@given(
    query=st.integers(FIRST, FIRST + N - 1),
    k=st.integers(1, N + 5),
    where=st.sampled_from([None, "feh > -1", "subclass = 'K1'", "false", "snr > 85"]),
    exclude=st.sampled_from(["row", "star", "none"]),
)
def test_answers_are_those_of_brute_force(db: Database, query: int, k: int, where: str | None, exclude: str) -> None:
    hits = db.search(query, k=k, where=where, exclude=exclude)
    cosine, ids = brute(db, query)
    allowed = np.ones(N, bool) if where is None else np.isin(ids, select_ids(db.store, "lamost_lrs", where))
    own = {"none": (), "row": (query,), "star": TWINS if query in TWINS else (query,)}[exclude]
    allowed &= ~np.isin(ids, own)
    assert isinstance(hits, Hits)
    assert hits.ids.tolist() == ids[allowed][:k].tolist()
    np.testing.assert_allclose(hits.scores, np.minimum(cosine[allowed][:k], 1), atol=1e-6)
    assert hits.rows["rank"].to_pylist() == list(range(1, len(hits) + 1))
    if len(hits) < k:
        assert f"{k} asked for, {len(hits)} there are: all are here" in hits.plan.guarantee


def test_the_plan_of_a_search(db: Database) -> None:
    hits = db.search(FIRST, k=3, where="feh > -1")
    assert (hits.plan.kind, hits.plan.n_matching, hits.plan.n_searched) == ("exact", 10, N)
    assert "exact" in hits.meta["plan"]
    assert db.explain("lamost_lrs", k=3).kind == "index"
    assert db.explain("lamost_lrs", radius_deg=5).kind == "radius"


# -- radius ------------------------------------------------------------------------------------------------------------


def test_all_within_a_radius(db: Database) -> None:
    cosine, ids = brute(db, FIRST)
    inside = (cosine >= np.cos(np.radians(75))) & (ids != FIRST)
    hits = db.search(FIRST, radius_deg=75)
    assert hits.ids.tolist() == ids[inside].tolist()
    assert db.search(FIRST, min_score=float(np.cos(np.radians(75))), k=2).ids.tolist() == ids[inside][:2].tolist()
    assert len(db.search(FIRST, min_score=-1, exclude="none")) == N


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k is 0; ask for at least one answer"),
        ({"k": -3}, "k is -3; ask for at least one answer"),
        ({"radius_deg": 0.0}, "radius_deg is 0; it is the angle between embeddings, above 0 and up to 180"),
        ({"radius_deg": 200.0}, "radius_deg is 200"),
        ({"radius_deg": float("nan")}, "radius_deg is nan"),
        ({"min_score": 1.5}, "min_score is 1.5; it is a cosine, from -1 to 1"),
        ({"min_score": 0.5, "radius_deg": 3.0}, "give either radius_deg or min_score"),
        ({"exclude": "twin"}, "exclude is 'twin'; it must be 'row', 'star' or 'none'"),
        ({"star_radius_arcsec": 0.0}, "star_radius_arcsec is 0; it must be above 0 and up to 3600"),
        ({"fuse": "sum"}, "fuse is 'sum'; it must be 'rrf'"),
        ({"fuse": "rrf"}, "there is nothing to fuse in answers from lamost_lrs alone"),
        ({"to": "desi"}, "the database has no modality 'desi'; it has gaia_xp, lamost_lrs"),
        ({"modality": "desi"}, "the database has no modality 'desi'"),
        ({"modality": "gaia_xp"}, "gaia_xp has no embedded spectrum with the id 1001"),
        ({"labels": ["apogee"]}, "there is no catalogue 'apogee'; there are dr1, lasp"),
    ],
)
def test_what_cannot_be_asked(db: Database, options: dict, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        db.search(FIRST, **options)


# -- stars -------------------------------------------------------------------------------------------------------------


def test_the_same_star_by_position_at_the_edges_and_by_gaia_id() -> None:
    def table(ids: list, ra: list, dec: list, gaia: list) -> StarTable:
        return StarTable(np.array(ids), np.array(ra, float), np.array(dec, float), np.array(gaia))

    nan = float("nan")
    second = 1 / 3600
    stored = table(
        [1, 2, 3, 4, 5, 6], [359.9999, 10, 200, 20, nan, 50], [0, 90, -90 + second, 5, nan, 5], [0, 0, 0, 77, 77, 0]
    )
    asked = table(
        [0] * 6, [0.0001, 190, 20, 300, nan, 50], [0, 90 - second, -90, 5, nan, 5 + 4 * second], [0, 0, 0, 77, 0, 0]
    )
    same = stored.same_star(asked, 3.0)
    lists = [sorted(same.values[a:b].tolist()) for a, b in zip(same.limits, same.limits[1:], strict=False)]
    assert lists == [[1], [2], [3], [4, 5], [], []]
    unknown = stored.take(np.array([99, 4]))
    assert np.isnan(unknown.ra[0])
    assert unknown.gaia.tolist() == [0, 77]


def test_a_star_is_left_out_in_the_other_modality_too(db: Database) -> None:
    with_star = db.search(FIRST, to="gaia_xp", k=N)
    without = db.search(FIRST, to="gaia_xp", k=N, exclude="star")
    assert set(with_star.ids) - set(without.ids) == {gaia_id(0)}


# -- several modalities, labels, spectra -------------------------------------------------------------------------------


def test_several_modalities_side_by_side(db: Database) -> None:
    both = db.search(FIRST, to=["lamost_lrs", "gaia_xp"], k=4)
    assert isinstance(both, JointHits)
    assert both.rows["modality"].to_pylist() == ["lamost_lrs"] * 4 + ["gaia_xp"] * 4
    assert both.rows["rank"].to_pylist() == [1, 2, 3, 4] * 2
    assert both.parts["gaia_xp"].ids.tolist() == db.search(FIRST, to="gaia_xp", k=4).ids.tolist()
    assert "gaia_xp" in both.meta


@pytest.mark.parametrize("method", ["rrf", "score"])
def test_fusion_makes_one_list_of_stars(db: Database, method: str) -> None:
    fused = db.search(FIRST, to=["lamost_lrs", "gaia_xp"], k=6, fuse=method, exclude="star")
    rows = fused.to_pandas()
    assert len(rows) == 6
    assert rows["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    assert (np.diff(rows["score"]) <= 0).all()
    # Vectors and positions of both modalities are the same, so that the best stars are found in both.
    assert rows["lamost_lrs_spectrum_id"].notna().all()
    assert ((rows["lamost_lrs_spectrum_id"] - FIRST) == (rows["gaia_xp_spectrum_id"] - gaia_id(0)) / 128).sum() >= 5
    if method == "rrf":
        expected = (1 / (60 + rows["lamost_lrs_rank"])).fillna(0) + (1 / (60 + rows["gaia_xp_rank"])).fillna(0)
        np.testing.assert_allclose(rows["score"], expected)


def test_fusing_nothing_gives_nothing(db: Database) -> None:
    fused = db.search(FIRST, to=["lamost_lrs", "gaia_xp"], where="ra > 400", fuse="rrf")
    assert len(fused) == 0
    assert "gaia_xp_score" in fused.rows.column_names


def test_labels_and_spectra_beside_the_answers(db: Database) -> None:
    hits = db.search(FIRST, k=N, labels=["lasp"], with_spectra=True)
    teff = dict(zip(hits.ids.tolist(), hits.rows["lasp_teff"].to_pylist(), strict=True))
    assert teff[FIRST + 3] == 4300
    assert teff[FIRST + 30] is None
    assert hits.to_table()["flux"].shape == (N - 1, len(get_modality("lamost_lrs").wavelength))
    assert b"wavelength_vac_angstrom" in hits.rows.schema.metadata
    assert len(db.search(FIRST, where="false", labels=["lasp"], with_spectra=True)) == 0


# -- many --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"where": "feh > -1"}, {"exclude": "star"}, {"to": "gaia_xp"}, {"radius_deg": 80.0}]
)
def test_many_queries_answer_as_one_by_one(db: Database, options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specdb.search.batch.BLOCK", 7)
    ids = [FIRST + 5, FIRST, FIRST + 6, FIRST, *range(FIRST + 7, FIRST + 20)]
    answers = db.search_many(ids, k=4, columns=["ra", "subclass"][: 1 + ("to" not in options)], **options)
    rows = answers.rows().to_pandas()
    start = 0
    for query in ids:
        hits = db.search(query, k=4, **options)
        mine = rows.iloc[start : start + len(hits)]
        assert mine["query_id"].tolist() == [query] * len(hits)
        assert mine["spectrum_id"].tolist() == hits.ids.tolist()
        assert mine["rank"].tolist() == list(range(1, len(hits) + 1))
        np.testing.assert_allclose(mine["ra"], hits.rows["ra"].to_numpy())
        start += len(hits)
    assert start == len(rows)


def test_queries_from_tables_files_sql_and_vectors(db: Database, tmp_path: Path) -> None:
    ids = [FIRST, FIRST + 4]
    expected = db.search_many(np.array(ids), k=3).rows().rows
    pq.write_table(pa.table({"spectrum_id": ids, "x": [1, 2]}), tmp_path / "ids.parquet")
    (tmp_path / "ids.csv").write_text("x,spectrum_id\n1,1001\n2,1005\n")
    (tmp_path / "ids.ecsv").write_text(
        "# %ECSV 1.0\n# ---\n# datatype:\n# - {name: spectrum_id, datatype: int64}\nspectrum_id\n1001\n1005\n"
    )
    sql = f"SELECT spectrum_id FROM lamost_lrs WHERE spectrum_id IN ({ids[0]}, {ids[1]}) ORDER BY 1"
    for source in (
        tmp_path / "ids.parquet",
        str(tmp_path / "ids.csv"),
        tmp_path / "ids.ecsv",
        sql,
        pa.table({"spectrum_id": ids}),
    ):
        assert db.search_many(source, k=3).rows().rows.equals(expected)
    vectors = db.index("lamost_lrs").vectors(np.array(ids))
    by_vector = db.search_many(vectors, k=4, to="lamost_lrs").rows().rows
    assert by_vector["query_id"].to_pylist() == [0] * 4 + [1] * 4
    assert by_vector["spectrum_id"].to_pylist()[::4] == ids
    answers = db.search_many(ids, k=3, labels=["lasp"])
    assert answers.save(tmp_path / "answers.parquet") == 6
    assert pq.read_table(tmp_path / "answers.parquet").column_names[-2:] == ["lasp_teff", "lasp_feh"]


@pytest.mark.parametrize(
    ("queries", "error", "message"),
    [
        ([FIRST, 5, 6], QueryError, "2 of 3 ids are not among the embedded spectra of gaia_xp, lamost_lrs, first 5, 6"),
        ([FIRST, gaia_id(3)], QueryError, "the ids are of several modalities .1 in gaia_xp, 1 in lamost_lrs."),
        ([], QueryError, "there is no id among the queries"),
        (np.array([1.5, 2.0]), QueryError, r"queries are float64 of shape \(2,\); give integer ids"),
        (pa.table({"obsid": [1]}), InputError, "the table has no column 'spectrum_id'; it has obsid"),
        (pa.table({"spectrum_id": [FIRST, None]}), InputError, "the table has 1 rows without a spectrum_id"),
        (pa.table({"spectrum_id": ["abc"]}), InputError, "spectrum_id holds what is no whole number"),
        (pa.table({"spectrum_id": [4.2e18]}), InputError, "where floating-point numbers lose digits"),
        ("nowhere.csv", InputError, "nowhere.csv cannot be read"),
        ("SELECT ra FROM lamost_lrs", InputError, "the answer has no column 'spectrum_id'; it has ra"),
        (np.ones((2, 8), np.float32), QueryError, "say which modality is searched for these vectors"),
    ],
)
def test_many_queries_that_cannot_be(db: Database, queries: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        db.search_many(queries)


def test_unknown_ids_can_be_left_out(db: Database) -> None:
    answers = db.search_many([5, FIRST, 6], k=2, skip_unknown=True)
    assert (answers.queries, answers.left_out) == (1, 2)
    with pytest.raises(QueryError, match="none of the 2 ids is among the embedded spectra"):
        db.search_many([5, 6], skip_unknown=True)
    with pytest.raises(QueryError, match="lamost_lrs has no column 'colour'; it has spectrum_id"):
        db.search_many([FIRST], columns=["colour"])
    with pytest.raises(QueryError, match="the database has no modality 'desi'"):
        db.search_many([FIRST], to="desi")


def test_an_index_ahead_of_the_spectra_is_noticed() -> None:
    with pytest.raises(DatabaseError, match="the index knows spectrum 7, the stored spectra do not; run `specdb verify`"):
        take_rows(pa.table({"spectrum_id": [1, 2]}), np.array([2, 7]))
    with pytest.raises(DatabaseError, match="the index knows spectrum 7"):
        take_rows(pa.table({"spectrum_id": pa.array([], pa.int64())}), np.array([7]))


# -- command line ------------------------------------------------------------------------------------------------------


def run(db: Database, *words: object, given: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["search", *map(str, words), "--db", str(db.store.root)], input=given)


def test_search_from_the_command_line(db: Database, tmp_path: Path) -> None:
    one = run(db, FIRST, "-k", 3, "--where", "feh > -1", "--with", "lasp")
    assert one.exit_code == 0, one.output
    assert "lasp_teff" in one.stdout
    assert "plan: exact search of 40 lamost_lrs spectra, 10 of which match 'feh > -1'" in one.stderr
    both = run(db, FIRST, "-k", 3, "--to", "lamost_lrs,gaia_xp", "--exclude-same-star", "--fuse", "rrf", "--json")
    assert [row["rank"] for row in json.loads(both.stdout)] == [1, 2, 3]
    assert run(db, FIRST, "--to", "lamost_lrs,gaia_xp").exit_code == 0
    listed = run(db, "--from", "-", "-k", 2, "--columns", "ra", "--csv", given="spectrum_id\n1001\n1002, 1003\n")
    assert len(listed.stdout.splitlines()) == 7, listed.output
    saved = run(db, "--from", "-", "-k", 2, "--skip-unknown", "-o", tmp_path / "out.csv", given="1001 1\n")
    assert "2 rows written" in saved.stderr
    assert "1 queries answered, 1 left out" in saved.stderr
    assert run(db, FIRST, "-o", tmp_path / "hits.vot").exit_code == 0
    explained = run(db, "--explain", "--where", "subclass = 'K1'", "--modality", "lamost_lrs")
    assert "20 of which match" in explained.stdout
    assert "by" not in explained.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either a QUERY or --from"),
        ([FIRST, "--from", "-"], "give either a QUERY or --from"),
        ([FIRST, "--include-self", "--exclude-same-star"], "choose one of --exclude-same-star and --include-self"),
        ([FIRST, "--columns", "ra"], "--columns and --skip-unknown go with --from"),
        (["--from", "-", "--with-spectra"], "--from searches one modality"),
        (["--from", "-"], "standard input has 1 words that are no ids, first 'stars'"),
    ],
)
def test_command_lines_that_cannot_be(db: Database, words: list, message: str) -> None:
    assert message in run(db, *words, given="stars").stderr


def test_search_by_id_does_not_load_torch(db: Database) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from specdb.cli import cli;"
        f"r = CliRunner().invoke(cli, ['search', '{FIRST}', '--db', {str(db.store.root)!r}]);"
        "print(r.exit_code, [m for m in ('torch', 'sklearn') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert io.StringIO(shown).read().strip() == "0 []"


# -- what a state of the database holds --------------------------------------------------------------------------------


def paired(folder: Path, *weights: str) -> Database:
    """Make a database of both modalities, XP in reverse order, embedded with the given weights, and matched."""
    store = Store.create(folder / "db", ENCODER)
    commit(store, get_modality("lamost_lrs"), lamost(), seed=1, weight_hash=weights[0])
    xp = np.array([gaia_id(i) for i in range(N)])
    table = rows(get_modality("gaia_xp"), xp, gaia_source_id=xp)
    commit(store, get_modality("gaia_xp"), table, seed=2, weight_hash=weights[-1])
    index_all(store)
    pairs = pa.table({"lamost_lrs": [FIRST, FIRST, FIRST + 1], "gaia_xp": [gaia_id(7), gaia_id(9), gaia_id(8)]})
    with store.writing() as writer:
        writer.put("pairs/lamost_lrs-gaia_xp.parquet", pairs, {"kind": "pairs"})
    return Database(store)


def test_fusion_asks_with_the_stars_own_spectrum_of_the_other_instrument(tmp_path: Path) -> None:
    db = paired(tmp_path, "abc")
    fused = db.search(FIRST, to=["lamost_lrs", "gaia_xp"], k=3, fuse="rrf")
    assert isinstance(fused, JointHits)
    best = gaia_id(9)  # of its two the one of higher S/N
    assert fused.parts["gaia_xp"].ids[:10].tolist() == db.search(best, k=10).ids.tolist()
    assert fused.parts["lamost_lrs"].ids[:10].tolist() == db.search(FIRST, k=10).ids.tolist()
    assert f"the star's own gaia_xp spectrum {best}" in fused.parts["gaia_xp"].plan.why
    assert "own" not in fused.parts["lamost_lrs"].plan.why
    back = db.search(gaia_id(8), to=["lamost_lrs", "gaia_xp"], k=3, fuse="rrf")
    assert f"own lamost_lrs spectrum {FIRST + 1}" in back.meta["lamost_lrs"]
    db.delete([best, gaia_id(7)], modality="gaia_xp")
    across = db.search(FIRST, to=["lamost_lrs", "gaia_xp"], k=3, fuse="rrf")
    assert across.parts["gaia_xp"].ids[:10].tolist() == db.search(FIRST, to="gaia_xp", k=10).ids.tolist()
    assert "own" not in across.meta["gaia_xp"]


def test_embeddings_of_two_encoders_are_not_compared(tmp_path: Path) -> None:
    db = paired(tmp_path, "abc", "def")
    with pytest.raises(QueryError, match="lamost_lrs and gaia_xp were embedded with different weights, abc and def"):
        db.search(FIRST, to="gaia_xp")
    with pytest.raises(QueryError, match="embed both with one encoder that knows both"):
        db.search_many([FIRST], to="gaia_xp").rows()
    assert len(db.search(FIRST, to=["lamost_lrs"]).parts["lamost_lrs"]) == 10


def test_deleted_spectra_count_for_nothing(tmp_path: Path) -> None:
    db = paired(tmp_path, "abc")
    where = "spectrum_id < 1011"
    assert db.search(FIRST + 20, where=where).plan.n_matching == 10
    db.delete([FIRST + 2, FIRST + 3, FIRST + 30], modality="lamost_lrs")
    hits = db.search(FIRST + 20, k=40, where=where)
    assert (hits.plan.n_matching, hits.plan.n_searched, len(hits)) == (8, N - 3, 8)
    assert "40 asked for, 8 there are: all are here" in hits.plan.guarantee
    db.delete(where="spectrum_id > 0 AND spectrum_id <> 1021", modality="lamost_lrs")
    assert len(db.search_many([FIRST + 20], radius_deg=30).rows()) == 0


def test_a_condition_is_prepared_once(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = db.search(FIRST, where="snr > 21").ids.tolist()
    monkeypatch.setattr("specdb.search.lookups.select_ids", None)
    assert db.search(FIRST, where="snr > 21").ids.tolist() == wanted
    with pytest.raises(TypeError):
        db.search(FIRST, where="snr > 22")


def test_rows_are_read_where_they_lie(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.array([FIRST + 9, FIRST, FIRST + 9, FIRST + N - 1])
    shown = db.lookups.metadata("lamost_lrs", ids)
    assert shown["spectrum_id"].to_pylist() == ids.tolist()
    assert "flux" not in shown.column_names
    assert db.lookups.metadata("lamost_lrs", ids[:0]).num_rows == 0
    assert db.spectra(ids, "lamost_lrs")["flux"].type.list_size == len(get_modality("lamost_lrs").wavelength)
    with pytest.raises(DatabaseError, match="the index knows spectrum 5, the stored spectra do not"):
        db.lookups.metadata("lamost_lrs", np.array([FIRST, 5]))
    monkeypatch.setattr("specdb.search.pages._KEPT_BYTES", 0)
    few = Database(db.store)
    for modality, spectrum_id in (("lamost_lrs", FIRST), ("gaia_xp", gaia_id(3)), ("lamost_lrs", FIRST)):
        assert few.lookups.metadata(modality, np.array([spectrum_id]))["spectrum_id"].to_pylist() == [spectrum_id]
        assert len(few.lookups._pages._kept) == 1
