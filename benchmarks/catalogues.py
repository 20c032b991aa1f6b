"""Catalogues against the plain way, in one run: a join of ten million rows, a positional match, knn in SQL.

    python benchmarks/catalogues.py [join] [match] [knn] [--rows 10000000] [--stars 1000000] [--vectors 200000]

The database of the join is synthetic (64-dimensional vectors, about 2.5 GB at ten million) and removed afterwards.
Processor time is given beside wall time, because this is often run on machines that others use.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from common import machine, write_results

from specdb.catalog import connect
from specdb.catalog.cards import Card, IdKey
from specdb.catalog.sphere import best, within
from specdb.search import VectorIndex
from specdb.store import Batch, Entry, Manifest, Store, digest, embedding_table
from specdb.store.tables import write_table

DIM = 64
ENCODER = "synthetic"


def timed(work: Callable[[], Any], repeats: int = 5) -> tuple[float, float, Any]:
    """Return the best wall time and processor time in s, and the last result."""
    best_wall = best_cpu = np.inf
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        best_wall, best_cpu = min(best_wall, time.perf_counter() - wall), min(best_cpu, time.process_time() - cpu)
    return best_wall, best_cpu, result


def synthetic(root: Path, n: int, part_rows: int) -> Store:
    """Write embeddings in parts and a catalogue in another order, and a manifest for all of it at once."""
    rng = np.random.default_rng(0)
    store = Store.create(root, ENCODER)
    ids = np.unique(rng.integers(0, 2_000_000_000, n + n // 50))[:n]
    rng.shuffle(ids)
    vectors = rng.standard_normal((min(part_rows, n), DIM), dtype=np.float32)
    key, manifest = Manifest().record({"kind": "embeddings", "weight_hash": "none"})
    files, batches = {}, []
    for number, start in enumerate(range(0, n, part_rows)):
        part = ids[start : start + part_rows]
        batches.append(Batch(number, len(part)))
        name = f"embeddings/{ENCODER}/lamost_lrs/{batches[-1].part}"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_table(embedding_table(part, {"shared": vectors[: len(part)] * np.float32(1 + number * 1e-4)}, {}), root / name)
        files[name] = Entry.of(root / name, len(part), key)
    order = rng.permutation(n)
    labels = {
        "obsid": ids[order],
        "teff": rng.normal(5500, 800, n),
        "logg": rng.normal(4, 0.5, n),
        "feh": rng.normal(-0.3, 0.4, n),
    }
    card = Card("lasp", IdKey("obsid", "spectrum_id"), "synthetic", "none", n, n, 0, 0, {}, (), digest([]))
    (root / "labels").mkdir()
    write_table(pa.table({k: v if k == "obsid" else v.astype(np.float32) for k, v in labels.items()}), root / card.path)
    label_key, manifest = manifest.record(card.provenance())
    files[card.path] = Entry.of(root / card.path, n, label_key)
    manifest = Manifest(files, {"lamost_lrs": tuple(batches)}, manifest.provenance)
    manifest.save(root / "manifest.json")
    return store


def join(n: int, part_rows: int) -> list[dict[str, Any]]:
    """Join all embedding rows, vectors untouched, with as many labels, and filter."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = synthetic(Path(folder) / "db", n, part_rows)
        for what, where in (
            ("3 % of the rows", "teff BETWEEN 4500 AND 5000 AND logg < 3.5"),
            ("79 %", "teff BETWEEN 4500 AND 6500"),
        ):
            sql = f"SELECT count(*) AS n, avg(feh) FROM embeddings JOIN lasp USING (spectrum_id) WHERE {where}"
            begin = time.perf_counter()
            with connect(store) as session:
                session.query(sql)
                cold = time.perf_counter() - begin
                wall, cpu, result = timed(lambda sql=sql, session=session: session.query(sql))
            facts = {"what": f"join {n:,} with {n:,}, keep {what}", "rows": result["n"][0].as_py()}
            rows.append(facts | {"wall, s": wall, "processor, s": cpu, "first time, s": cold})
    return rows


def match(n: int, with_lsdb: bool = True) -> list[dict[str, Any]]:
    """Match a sky of n stars with itself, scattered and shuffled, within 2 arcsec, keeping the nearest."""
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    order = rng.permutation(n)
    ra2 = (ra[order] + rng.normal(0, 0.3 / 3600, n) / np.cos(np.radians(dec[order]))) % 360
    dec2 = np.clip(dec[order] + rng.normal(0, 0.3 / 3600, n), -90, 90)

    def astropy() -> int:
        found = SkyCoord(ra2, dec2, unit="deg").match_to_catalog_sky(SkyCoord(ra, dec, unit="deg"))
        return int((found[1] <= 2 * u.arcsec).sum())

    def lsdb() -> int:
        import lsdb as package
        import pandas as pd

        left = package.from_dataframe(pd.DataFrame({"ra": ra2, "dec": dec2}), ra_column="ra", dec_column="dec")
        right = package.from_dataframe(
            pd.DataFrame({"ra": ra, "dec": dec}), ra_column="ra", dec_column="dec", margin_threshold=5.0
        )
        return len(left.crossmatch(right, radius_arcsec=2, n_neighbors=1, suffixes=("_1", "_2")).compute())

    contenders = {"specdb": lambda: len(best(within(ra2, dec2, ra, dec, 2.0))), "astropy": astropy}
    if with_lsdb:
        contenders["lsdb, in memory"] = lsdb
    rows = []
    for name, work in contenders.items():
        wall, cpu, matched = timed(work, repeats=2)
        rows.append({"what": f"match {n:,} with {n:,}: {name}", "rows": matched, "wall, s": wall, "processor, s": cpu})
    for row in rows:
        row["times specdb"] = row["wall, s"] / rows[0]["wall, s"]
    return rows


def knn(n: int = 200_000, dim: int = 256, queries: int = 2000) -> list[dict[str, Any]]:
    """Search a batch of stored vectors in SQL and in Python, in turns."""
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((500, dim))[rng.integers(0, 500, n)] + rng.standard_normal((n, dim))).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    ids = np.arange(1, n + 1)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.create(Path(folder) / "db", ENCODER)
        Manifest({}, {"lamost_lrs": ()}, {}).save(store.root / "manifest.json")
        index = VectorIndex.build(x, ids, store.index_folder(ENCODER, "lamost_lrs"), provenance={})
        asked = ids[:queries]

        def python() -> int:
            return index.search(index.vectors(asked), 10, exclude_ids=asked[:, None])[1].size

        rows = []
        with connect(store, index=lambda modality: index) as session:
            sql = f"SELECT n.* FROM range(1, {queries + 1}) q(i), knn(q.i, k := 10) n"
            times: dict[str, list[float]] = {"in Python": [], "in SQL": []}
            for _ in range(7):
                for name, work in (("in Python", python), ("in SQL", lambda: session.query(sql).num_rows)):
                    begin = time.perf_counter()
                    found = work()
                    times[name].append(time.perf_counter() - begin)
        for name, taken in times.items():
            rows.append(
                {
                    "what": f"10 neighbours of {queries:,} among {n:,}: {name}",
                    "rows": found,
                    "wall, s": float(np.median(taken)),
                }
            )
        ratio = np.median(np.array(times["in SQL"]) / np.array(times["in Python"]))
        rows[1]["times Python"] = float(ratio)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["join", "match", "knn"])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--stars", type=int, default=1_000_000)
    parser.add_argument("--part-rows", type=int, default=4096)
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--without-lsdb", action="store_true")
    arguments = parser.parse_args()
    rows = []
    if "join" in arguments.parts:
        rows += join(arguments.rows, arguments.part_rows)
    if "match" in arguments.parts:
        rows += match(arguments.stars, not arguments.without_lsdb)
    if "knn" in arguments.parts:
        rows += knn(arguments.vectors)
    write_results("catalogues", __doc__, rows, machine())


if __name__ == "__main__":
    main()
