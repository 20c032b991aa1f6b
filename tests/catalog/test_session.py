"""SQL: what can be named, what functions there are, and that nothing else can be reached."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import SkyCoord
from astropy_healpix import lonlat_to_healpix

from specdb.catalog import UNTRUSTED, Limits, Session, connect, run_sql
from specdb.catalog.harmless import HARMLESS
from specdb.database import Database
from specdb.errors import DatabaseError, QueryError
from specdb.export import save_rows
from specdb.rows import Rows
from specdb.store import Store
from tests.catalog.small_store import DIM, N, gaia_id


def one(store: Store, sql: str) -> object:
    [row] = run_sql(store, sql).to_pylist()
    [value] = row.values()
    return value


# -- what can be named -------------------------------------------------------------------------------------------------


def test_tables_and_their_comments(store: Store) -> None:
    listed = run_sql(store, "SHOW TABLES")
    assert listed["name"].to_pylist() == ["embeddings", "gaia_xp", "lamost_lrs", "rejected", "spectra"]
    assert "default encoder" in listed["comment"][0].as_py()


def test_spectra_unite_the_modalities_with_all_their_columns(store: Store) -> None:
    counts = run_sql(store, "SELECT modality, count(*) AS n, count(bp_n_relevant_bases) FROM spectra GROUP BY 1")
    assert counts["n"].to_pylist() == [N, N]
    assert one(store, "SELECT count(*) FROM embeddings WHERE modality = 'gaia_xp'") == N
    assert one(store, "SELECT len(flux) FROM spectra WHERE spectrum_id = 1001") == 1462
    assert one(store, "SELECT count(*) FROM rejected") == 2


def test_plain_columns_keep_units_and_descriptions(store: Store) -> None:
    schema = run_sql(store, "SELECT ra, s.dec AS d, ra + 1 AS x, lower(subclass) AS ra_2 FROM lamost_lrs s").schema
    assert schema.field("ra").metadata[b"unit"] == b"deg"
    assert schema.field("d").metadata[b"description"] == b"declination, ICRS"
    assert schema.field("x").metadata is None
    everything = run_sql(store, "SELECT * FROM lamost_lrs LIMIT 1").schema
    assert everything.field("mjd").metadata[b"unit"] == b"d"
    assert run_sql(store, "SELECT * FROM (SELECT ra * 0 AS ra FROM lamost_lrs)").schema.field("ra").metadata is None


def test_the_schema_names_units(store: Store) -> None:
    with connect(store) as session:
        table = session.schema("SPECTRA")
        assert {
            "table": "spectra",
            "column": "ra",
            "type": "DOUBLE",
            "unit": "deg",
            "ucd": "pos.eq.ra;meta.main",
        }.items() <= next(row for row in table.to_pylist() if row["column"] == "ra").items()
        assert set(session.schema()["table"].to_pylist()) == set(session.tables)
        with pytest.raises(QueryError, match="there is no table 'stars'; tables: embeddings, gaia_xp"):
            session.schema("stars")


def test_columns_of_one_name_are_numbered(store: Store) -> None:
    found = run_sql(store, "SELECT a.spectrum_id, b.spectrum_id, 1 AS spectrum_id_1 FROM spectra a, spectra b LIMIT 1")
    assert found.column_names == ["spectrum_id", "spectrum_id_2", "spectrum_id_1"]


def test_describe_summarize_explain_and_with(store: Store) -> None:
    assert "ra" in run_sql(store, "DESCRIBE lamost_lrs")["column_name"].to_pylist()
    assert run_sql(store, "SUMMARIZE SELECT ra, dec FROM spectra").num_rows == 2
    assert (
        "PYTHON_ARROW_SCAN" in run_sql(store, "EXPLAIN (FORMAT JSON) SELECT ra FROM spectra").to_pylist()[0]["explain_value"]
    )
    assert run_sql(store, "explain analyze select count(*) from spectra").num_rows == 1
    assert one(store, "WITH spectra AS (SELECT 1 AS x) SELECT x FROM spectra") == 1
    assert (
        one(store, "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < 5) SELECT sum(1) FROM t") == 5
    )
    assert run_sql(store, "PIVOT spectra ON modality IN ('gaia_xp', 'x') USING count(*) GROUP BY survey").num_rows == 1
    assert run_sql(store, "SELECT 'knn(1); COPY' AS text -- ; DROP TABLE spectra").num_rows == 1


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT nope FROM spectra", 'column "nope" not found.*tables: embeddings'),
        ("SELECT * FROM stars", "there is no table 'stars'; tables: embeddings"),
        ("SELECT * FROM information_schema.tables", "there is no table 'information_schema.tables'"),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT 1; SELECT 2", "these are 2 SQL statements; give one"),
        ("", "these are 0 SQL statements"),
        ("PIVOT spectra ON modality USING count(*)", r"PIVOT must name its values here: PIVOT t ON c IN"),
        ("SHOW DATABASES", "only SHOW TABLES is answered"),
        ("DROP VIEW spectra", "a statement of type DROP is not allowed; ask questions: SELECT"),
        ("EXPLAIN DELETE FROM spectra", "only questions are answered"),
        ("SELECT * FROM read_csv('x')", r"the table function read_csv\(\) is not allowed; there are generate_series, knn"),
        ("SELECT 1 / ('a'::INT)", "Could not convert string 'a' to INT32|Conversion Error"),
    ],
)
def test_errors_say_what_to_do(store: Store, sql: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        run_sql(store, sql)


# -- functions ---------------------------------------------------------------------------------------------------------


def test_knn_is_a_table_that_joins(db: Database) -> None:
    hits = db.search(1001, k=5)
    rows = db.sql("SELECT n.*, s.subclass FROM knn(1001, k := 5) n JOIN spectra s USING (spectrum_id) ORDER BY rank").rows
    assert rows["spectrum_id"].to_pylist() == hits.ids.tolist()
    np.testing.assert_array_equal(rows["score"].to_numpy(), hits.scores)
    assert rows["rank"].to_pylist() == [1, 2, 3, 4, 5]
    assert set(rows["subclass"].to_pylist()) <= {"G5", "K1"}


def test_knn_of_every_row_searches_in_batches(db: Database) -> None:
    rows = db.sql("SELECT e.spectrum_id AS q, n.* FROM embeddings e, knn(e.spectrum_id, k := 3) n ORDER BY q, rank").rows
    assert rows.num_rows == 2 * N * 3
    for query in (1001, 1017, gaia_id(5)):
        mine = rows.filter(pa.array(rows["q"].to_numpy() == query))
        assert mine["spectrum_id"].to_pylist() == db.search(query, k=3).ids.tolist()


def test_knn_into_another_modality_and_from_a_subquery(db: Database) -> None:
    rows = db.sql("SELECT * FROM knn((SELECT min(spectrum_id) FROM lamost_lrs), k := 4, modality := 'gaia_xp')").rows
    assert rows["spectrum_id"].to_pylist() == db.search(1001, k=4, to="gaia_xp").ids.tolist()
    assert db.sql("SELECT count(*) AS n FROM knn(1001)").rows["n"][0].as_py() == 10
    assert db.sql("SELECT * FROM knn(NULL)").rows.num_rows == 0
    assert db.sql("SELECT * FROM knn(1001, k := 1000)").rows.num_rows == N - 1
    lateral = "SELECT n.* FROM (VALUES (1001, 2), (1002, 3)) t(i, k), knn(t.i, k := t.k) n"
    assert db.sql(lateral).rows.num_rows == 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("knn(5)", "no indexed spectrum has the id 5; `specdb index` adds new ones"),
        ("knn(1001, k := 0)", "knn: k is 0; ask for at least one answer"),
        ("knn(1001, modality := 'sdss')", "the database has no modality 'sdss'"),
    ],
)
def test_errors_of_knn_are_our_own(db: Database, call: str, message: str) -> None:
    with pytest.raises(QueryError, match=message):
        db.sql(f"SELECT * FROM {call}")


def test_knn_without_indices(fresh: Store) -> None:
    with pytest.raises(QueryError, match="knn and similarity need the indices: use db"):
        run_sql(fresh, "SELECT * FROM knn(1001)")
    shutil.rmtree(fresh.root / "index")
    with pytest.raises(QueryError, match="no indexed spectrum has the id 1001"):
        Database(fresh).sql("SELECT * FROM knn(1001)")


def test_similarity_of_ids_and_of_vectors(db: Database) -> None:
    [row] = db.sql(
        "SELECT similarity(1001, 1002) AS i, similarity(a.shared, b.shared) AS v, similarity(1001, 1001) AS one, "
        "similarity(1001, NULL) AS none FROM embeddings a, embeddings b WHERE a.spectrum_id = 1001 AND b.spectrum_id = 1002"
    )
    x = db.index("lamost_lrs").vectors(np.array([1001, 1002]))
    assert row["i"] == pytest.approx(float(x[0] @ x[1]), abs=1e-6)
    assert row["v"] == pytest.approx(row["i"], abs=1e-6)
    assert row["one"] == pytest.approx(1, abs=1e-6)
    assert row["none"] is None
    with pytest.raises(QueryError, match="no indexed spectrum has the id 7"):
        db.sql("SELECT similarity(1001, 7)")


def test_positions_agree_with_astropy(store: Store) -> None:
    sql = (
        "SELECT ra, dec, galactic_l(ra, dec) l, galactic_b(ra, dec) b, healpix(ra, dec, 6) h, "
        "separation_arcsec(ra, dec, 10, 20) s FROM lamost_lrs"
    )
    table = run_sql(store, sql).to_pydict()
    stars = SkyCoord(table["ra"], table["dec"], unit="deg")
    galactic = SkyCoord(table["l"], table["b"], unit="deg", frame="galactic")
    assert galactic.separation(stars.galactic).arcsec.max() < 0.1
    assert min(table["l"]) >= 0 and max(table["l"]) < 360
    expected = lonlat_to_healpix(stars.ra, stars.dec, nside=64, order="nested")
    np.testing.assert_array_equal(table["h"], expected)
    np.testing.assert_allclose(table["s"], stars.separation(SkyCoord(10, 20, unit="deg")).arcsec, rtol=1e-12)


def test_cones_at_the_poles_and_across_ra_zero(store: Store) -> None:
    both = "SELECT count(*) AS n FROM lamost_lrs WHERE in_cone(ra, dec, {}, {}, {})"
    assert one(store, both.format(0, 0, 0.1)) == 2
    assert one(store, both.format(123, 90, 1)) == 1
    assert one(store, both.format(180, 10, 0.001)) == 1
    assert one(store, "SELECT healpix(10, 91, 5)") is None
    assert one(store, "SELECT in_cone(NULL, 0, 0, 0, 1)") is None


# -- limits ------------------------------------------------------------------------------------------------------------


def test_what_takes_for_ever_is_stopped(store: Store) -> None:
    with (
        connect(store, limits=Limits(seconds=0.2)) as session,
        pytest.raises(QueryError, match=r"stopped after 0.2 s, the limit here; narrow it with WHERE or LIMIT"),
    ):
        session.query("SELECT count(*) FROM range(100000000000) a, range(100000000000) b")
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)]


def test_memory_and_rows_are_limited(store: Store) -> None:
    with connect(store, limits=Limits(memory_bytes=1 << 26)) as session, pytest.raises(QueryError, match="more memory"):
        session.query("SELECT list(range) FROM range(1000000000)")
    with connect(store, limits=Limits(rows=10)) as session:
        assert session.query("SELECT * FROM range(1000000)").num_rows == 10
        assert session.query("SELECT * FROM range(7)").num_rows == 7
        assert session.cut_off is False
        session.query("SELECT * FROM range(11)")
        assert session.cut_off is True


def test_results_are_streamed(store: Store, tmp_path: Path) -> None:
    with connect(store, limits=Limits(memory_bytes=1 << 28)) as session:
        reader = session.reader("SELECT range AS a, 'text ' || range AS b FROM range(100000000000)")
        assert sum(reader.read_next_batch().num_rows for _ in range(3)) > 100_000
        reader.close()
    with connect(store) as session:
        assert save_rows(session.reader("SELECT range AS a FROM range(300000)"), tmp_path / "a.parquet") == 300_000


@pytest.mark.parametrize("suffix", [".vot", ".fits", ".ecsv", ".parquet"])
def test_units_arrive_in_files(store: Store, tmp_path: Path, suffix: str) -> None:
    from astropy.table import Table

    path = tmp_path / f"stars{suffix}"
    with connect(store) as session:
        save_rows(session.reader("SELECT spectrum_id, ra, subclass FROM lamost_lrs ORDER BY 1"), path)
    if suffix == ".parquet":
        assert pa.parquet.read_schema(path).field("ra").metadata[b"unit"] == b"deg"
        return
    table = Table.read(path)
    assert table["ra"].unit == "deg"
    assert table["spectrum_id"].tolist() == list(range(1001, 1001 + N))


def test_errors_while_streaming_are_ours(store: Store) -> None:
    with connect(store) as session:
        reader = session.reader("SELECT CASE WHEN range > 500000 THEN error('too far') ELSE 1 END FROM range(1000000)")
        with pytest.raises(QueryError, match="too far"):
            reader.read_all()


# -- strangers ---------------------------------------------------------------------------------------------------------

ESCAPES = [
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_csv_auto('{root}/manifest.json')",
    "SELECT * FROM read_json('{root}/manifest.json')",
    "SELECT * FROM read_parquet('{root}/spectra/lamost_lrs/part-00000.parquet')",
    "SELECT * FROM '{root}/spectra/lamost_lrs/part-00000.parquet'",
    "SELECT * FROM parquet_metadata('{root}/spectra/lamost_lrs/part-00000.parquet')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM read_csv('https://example.org/x.csv')",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "COPY spectra TO '{root}/stolen.csv'",
    "COPY (SELECT 1) TO '{root}/stolen.parquet'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{root}/stolen.csv'",
    "EXPLAIN /* a */ ANALYZE -- b\n COPY (SELECT 1) TO '{root}/stolen.csv'",
    "EXPORT DATABASE '{root}/stolen'",
    "ATTACH '{root}/stolen.db'",
    "CREATE TABLE stolen AS SELECT * FROM spectra",
    "CREATE OR REPLACE VIEW spectra AS SELECT 1",
    "CREATE MACRO knn(x) AS 1",
    "INSERT INTO spectra SELECT * FROM spectra",
    "WITH x AS (INSERT INTO spectra VALUES (1) RETURNING *) SELECT * FROM x",
    "DELETE FROM spectra",
    "DROP VIEW spectra",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '100GB'",
    "SET enable_external_access = true",
    "RESET memory_limit",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "SELECT current_setting('temp_directory')",
    "SELECT @@temp_directory",
    "SELECT lower(current_setting('secret_directory'))",
    "SELECT list_transform([1], x -> current_setting('home_directory'))",
    "SELECT count(*) FILTER (WHERE current_setting('threads') = '1') FROM spectra",
    "SELECT 1 ORDER BY current_setting('temp_directory')",
    "SELECT sum(ra) OVER (PARTITION BY current_setting('temp_directory')) FROM spectra",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_logs",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_views",
    "SELECT * FROM pg_views",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM system.main.duckdb_views",
    "SELECT * FROM temp.main.spectra",
    "SHOW ALL TABLES",
    "SHOW DATABASES",
    "SELECT * FROM (SHOW DATABASES)",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('spectra')",
    "SELECT * FROM query_table(['spectra/lamost_lrs'])",
    "SELECT * FROM \"spectra/lamost_lrs\"",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM python_map_function(1)",
    "SELECT * FROM python_arrow_scan()",
    "SELECT * FROM seq_scan('spectra')",
    "SELECT * FROM store",
    "SELECT * FROM spectra_frame",
    "SELECT _knn(1001, 5, NULL)",
    "SELECT length(replace(replace('aaaaaaaaaa', 'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa'))",
    "SELECT list_transform([1], lambda x: getenv('HOME'))",
    "SELECT list_reduce([1, 2], lambda x, y: current_setting('threads'))",
    "SELECT levenshtein(s, s) FROM (SELECT string_agg('ab', '') AS s FROM range(200000))",
    "SELECT damerau_levenshtein(s, s) FROM (SELECT string_agg('ab', '') AS s FROM range(50000))",
    "SELECT jaro_winkler_similarity(s, s) FROM (SELECT string_agg('ab', '') AS s FROM range(200000))",
    "SELECT length(regexp_replace('aaaaaaaaaa', 'a', 'aaaaaaaaaa', 'g'))",
    "SELECT getenv('HOME')",
    "SELECT current_query()",
    "SELECT version()",
    "SELECT write_log('x')",
    "SELECT sleep_ms(100000)",
    "SELECT nextval('x')",
    "SELECT pg_sleep(100)",
    "SELECT repeat('x', 2000000000)",
    "SELECT list_sum(range(2000000000))",
    "SELECT * FROM unnest(range(2000000000))",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT list_resize([1], 2000000000)",
    "SELECT list_aggregate([1, 2], 'sum')",
    "SELECT main.current_setting('threads')",
    "SELECT system.main.abs(1)",
    "PREPARE x AS SELECT 1",
    "EXECUTE x",
    "BEGIN TRANSACTION",
    "CHECKPOINT",
    "VACUUM",
    "USE temp",
    "SELECT 1; COPY (SELECT 1) TO '{root}/stolen.csv'",
    "DESCRIBE SELECT * FROM read_csv('/etc/passwd')",
    "SUMMARIZE SELECT * FROM read_csv('/etc/passwd')",
    "FROM read_csv('/etc/passwd')",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT 1 WHERE EXISTS (FROM read_text('/etc/passwd'))",
    "VALUES ((SELECT 1 FROM glob('/*')))",
    "SELECT * FROM spectra JOIN read_text('/etc/passwd') ON true",
    "SELECT * FROM range(1) LIMIT (SELECT count(*) FROM glob('/*'))",
    "FROM '/etc/passwd'",
    "FROM '{root}/*.json'",
    "FROM 'https://example.org/x.parquet'",
    "SELECT * FROM \"/etc/passwd\"",
    "SELECT * FROM \"{root}/manifest.json\"",
    "SELECT * FROM spectra POSITIONAL JOIN '/etc/passwd'",
    "SELECT * FROM read_text(['/etc/passwd'])",
    "SELECT * FROM read_json_objects('{root}/manifest.json')",
    "SELECT * FROM read_ndjson_auto('{root}/manifest.json')",
    "SELECT * FROM read_duckdb('{root}/x.db')",
    "SELECT * FROM parquet_scan('{root}/*/*/*.parquet')",
    "SELECT * FROM sqlite_scan('{root}/x.db', 't')",
    "SELECT * FROM read_xlsx('x.xlsx')",
    "SELECT * FROM spectra, LATERAL read_text(spectra.source_file)",
    "PREPARE x AS COPY (SELECT 1) TO '{root}/stolen.csv'",
    "PREPARE x AS SELECT * FROM read_text($1)",
    "EXECUTE x('/etc/passwd')",
    "DEALLOCATE x",
    "COPY spectra FROM '/etc/passwd'",
    "COPY FROM DATABASE temp TO memory",
    "COPY (SELECT 1) TO '/dev/stdout'",
    "IMPORT DATABASE '{root}'",
    "ATTACH ':memory:' AS m",
    "ATTACH 'https://example.org/x.db'",
    "DETACH temp",
    "LOAD '{root}/x.duckdb_extension'",
    "FORCE INSTALL httpfs FROM 'https://example.org'",
    "UPDATE EXTENSIONS",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE PERSISTENT SECRET s (TYPE http)",
    "DROP SECRET s",
    "SELECT * FROM which_secret('s3://a', 's3')",
    "SET VARIABLE x = 1",
    "SELECT getvariable('x')",
    "SET SESSION threads = 64",
    "RESET ALL",
    "PRAGMA memory_limit = '100GB'",
    "PRAGMA threads = 64",
    "PRAGMA show_tables",
    "SET lock_configuration = false",
    "SELECT set_config('threads', '64', false)",
    "CREATE TEMP TABLE t AS SELECT 1",
    "CREATE SCHEMA s",
    "CREATE TYPE t AS ENUM ('a')",
    "CREATE SEQUENCE s",
    "CREATE TEMP MACRO in_cone(a, b, c, d, e) AS true",
    "DROP MACRO TABLE knn",
    "ALTER VIEW spectra RENAME TO x",
    "UPDATE spectra SET ra = 0",
    "MERGE INTO spectra USING spectra ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE spectra",
    "COMMENT ON VIEW spectra IS 'x'",
    "SELECT * FROM duckdb_functions()",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM duckdb_variables()",
    "SELECT * FROM duckdb_memory()",
    "SELECT * FROM duckdb_temporary_files()",
    "SELECT * FROM duckdb_prepared_statements()",
    "SELECT * FROM duckdb_settings",
    "SELECT * FROM pg_catalog.pg_settings",
    "SELECT * FROM pragma_table_info('spectra')",
    "SELECT * FROM pragma_user_agent()",
    "SELECT * FROM test_all_types()",
    "SELECT * FROM repeat_row(1, num_rows := 2000000000)",
    "SELECT * FROM repeat('x', 2000000000)",
    "SELECT * FROM checkpoint()",
    "SELECT * FROM force_checkpoint()",
    "SELECT * FROM enable_logging()",
    "SELECT * FROM parse_duckdb_log_message('x', 'y')",
    "SELECT json_execute_serialized_sql('x')",
    "PRAGMA json_execute_serialized_sql('{}')",
    "SELECT json_serialize_plan('SELECT 1')",
    "SELECT * FROM sql_auto_complete('SEL')",
    "SELECT printf('%2000000000d', 1)",
    "SELECT format('{:>2000000000}', 1)",
    "SELECT rpad('x', 2000000000, 'y')",
    "SELECT generate_series(1, 2000000000)",
    "SELECT list_sum(generate_series(1, 2000000000))",
    "SELECT array_to_string(range(2000000000), 'x')",
    "SELECT regexp_matches('a', '((a{1,1000}){1,1000}){1,1000}')",
    "SELECT current_database()",
    "SELECT current_schemas(true)",
    "SELECT txid_current()",
    "SELECT pg_typeof(1)",
    "SELECT txid_current_snapshot()",
    "SELECT can_cast_implicitly(1, 2)",
    "SELECT error('x')",
    "SELECT stats(ra) FROM spectra",
    "SELECT finalize(1)",
    "SELECT aggregate_state(1)",
    "SELECT create_sort_key(ra, 'ASC') FROM spectra",
    "SELECT (VALUES (getenv('HOME')))",
    "SELECT list_aggr([1], 'current_setting')",
    "SELECT list_reduce([1, 2], (x, y) -> getenv('HOME'))",
    "SELECT apply([1], x -> read_text('/etc/passwd'))",
    "SELECT CASE WHEN true THEN getenv('HOME') END",
    "SELECT [getenv('HOME')]",
    "SELECT {'a': getenv('HOME')}",
    "SELECT count(*) FROM spectra GROUP BY getenv('HOME')",
    "SELECT 1 LIMIT length(getenv('HOME'))",
    "SELECT ra FROM spectra USING SAMPLE 1 WHERE getenv('HOME') = ''",
    "SELECT ra FROM spectra QUALIFY getenv('HOME') = ''",
    "PIVOT (FROM glob('/*')) ON file IN ('/etc') USING count(*)",
    "UNPIVOT (FROM glob('/*')) ON file INTO NAME n VALUE v",
    "WITH x AS MATERIALIZED (FROM glob('/*')) SELECT 1",
    "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT 1 FROM t, glob('/*')) FROM t",
    "SELECT * FROM spectra ASOF JOIN glob('/*') g ON spectra.ra >= g.file",
    "SELECT * FROM spectra AT (VERSION => 1)",
    "SHOW VARIABLES",
    "SHOW threads",
    "SHOW temp_directory",
    "FROM (SHOW secret_directory)",
    "DESCRIBE '/etc/passwd'",
    "SUMMARIZE '/etc/passwd'",
    "EXPLAIN FROM '/etc/passwd'",
    "EXPLAIN (ANALYZE, FORMAT JSON) COPY (SELECT 1) TO '{root}/stolen.csv'",
    "EXPLAIN EXPLAIN SELECT * FROM read_text('/etc/passwd')",
    "SELECT 1 --\n; ATTACH '{root}/stolen.db'",
    "/* SELECT */ ATTACH '{root}/stolen.db'",
    "SELECT U&'x'; SELECT 1",
]  # fmt: skip


@pytest.fixture(scope="module")
def stranger(db: Database) -> Iterator[Session]:
    with connect(db.store, index=db.index, limits=UNTRUSTED) as session:
        yield session


@pytest.mark.parametrize("sql", ESCAPES, ids=range(len(ESCAPES)))
def test_there_is_no_way_out(store: Store, stranger: Session, sql: str) -> None:
    spectra_frame = pa.table({"a": [1]})  # a variable of the program, which DuckDB would find by its name
    before = sorted(path.name for path in store.root.iterdir())
    sql = sql.replace("{root}", str(store.root))
    with pytest.raises(QueryError) as caught:
        stranger.query(sql)
    assert "root:" not in str(caught.value).replace(sql, "")
    assert len(spectra_frame) == 1
    assert sorted(path.name for path in store.root.iterdir()) == before
    assert stranger.query("SELECT count(*) AS n FROM lamost_lrs")["n"][0].as_py() == N


@pytest.mark.parametrize("name", ["current_user", "session_user", "current_catalog", "current_schema", "current_role"])
def test_words_of_the_language_tell_nothing_of_the_machine(stranger: Session, name: str) -> None:
    assert stranger.query(f"SELECT {name} AS x")["x"].to_pylist()[0] in ("duckdb", "memory", "main")


def test_errors_tell_strangers_no_paths(fresh: Store) -> None:
    store = fresh
    part = store.root / store.spectra_parts("lamost_lrs")[0]
    part.write_bytes(b"damaged")
    with pytest.raises(DatabaseError) as caught:
        run_sql(store, "SELECT ra FROM lamost_lrs", untrusted=True)
    assert str(store.root) not in str(caught.value)
    with pytest.raises(DatabaseError, match=r"`specdb verify` says"):
        run_sql(store, "SELECT ra FROM lamost_lrs")


def test_deep_nesting_is_refused_not_crashed_on(store: Store) -> None:
    for text in ("(" * 5000 + "1" + ")" * 5000, "1" + " + 1" * 20_000, "abs(" * 900 + "1" + ")" * 900):
        try:
            run_sql(store, f"SELECT {text}", untrusted=True)
        except QueryError:
            continue


def test_strangers_may_do_what_is_useful(db: Database) -> None:
    rows = db.sql(
        "WITH near AS (SELECT * FROM knn(1001, k := 5)) SELECT s.subclass, count(*) AS n, round(avg(n.score), 2) AS score, "
        "median(healpix(ra, dec, 3)) FROM near n JOIN spectra s USING (spectrum_id) WHERE NOT in_cone(ra, dec, 0, 0, 1) "
        "AND coalesce(snr_g, 0) >= 0 AND subclass LIKE 'G%' GROUP BY ALL HAVING count(*) > 0 ORDER BY n DESC",
        untrusted=True,
    )
    assert isinstance(rows, Rows)


def test_every_listed_function_exists_or_is_syntax(store: Store) -> None:
    with duckdb.connect(":memory:") as connection:
        known = {name.lower() for (name,) in connection.execute("SELECT function_name FROM duckdb_functions()").fetchall()}
    ours = {"knn", "similarity", "in_cone", "separation_arcsec", "healpix", "galactic_l", "galactic_b"}
    syntax = {"coalesce", "<>", "<->", "->", "!=", "=", "<", ">", "<=", ">=", "collate_nocase"}
    assert HARMLESS - known - ours - syntax == set()


def test_vectors_have_their_length(store: Store) -> None:
    assert one(store, "SELECT len(shared) FROM embeddings LIMIT 1") == DIM


def test_vectors_that_nobody_names_are_not_read(fresh: Store) -> None:
    with connect(fresh) as session:
        assert session.query("SELECT count(*) AS n FROM embeddings WHERE modality = 'gaia_xp'")["n"][0].as_py() == N
        assert "shared" in session.query("SELECT * FROM embeddings LIMIT 1").column_names
        assert session.query("SELECT spectrum_id FROM embeddings JOIN lamost_lrs USING (spectrum_id)").num_rows == N
        assert session.query("SELECT avg(len(e.shared)) AS n FROM embeddings e")["n"][0].as_py() == DIM
