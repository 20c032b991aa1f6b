"""Filtered search: recall and time at five selectivities, for filters that know nothing of the query and for those that do.

Compared in one run are the planned search, the two ways that one would write by hand: *search then filter* (fetch
``k / selectivity`` neighbours, keep those that match, double until there are k) and *filter then scan* (compare all matching
rows); and the path that the planner did not take, which is what its cost model is judged by.

Filters: *random* rows; *clusters*: whole clusters of the vectors, thinned to the share asked for; *direction*: the rows
furthest along a random direction; *far*: the rows least similar to the queries, which all come from one place.

    OMP_NUM_THREADS=1 python benchmarks/filters.py [--sizes 200000] [--dim 256] [--queries 100] [--threads 1]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import machine, timed, write_results
from vectors import CLUSTERS, labelled

from specdb.search.exact import exact_search
from specdb.search.filters import search_lists
from specdb.search.index import VectorIndex

K = 10
SHARES = (0.5, 0.05, 0.005, 0.0005, 0.00005)
SINGLES = 10


def smallest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the rows of the smallest values, increasing."""
    return np.sort(np.argpartition(values, count - 1)[:count])


def filters(vectors: np.ndarray, cluster: np.ndarray, queries: np.ndarray, share: float) -> dict[str, tuple]:
    """Return rows and queries of each kind of filter."""
    rng = np.random.default_rng(3)
    n, count = len(vectors), max(K, round(share * len(vectors)))
    chosen = np.isin(cluster, rng.permutation(CLUSTERS)[: max(1, round(1.2 * CLUSTERS * share))])
    near = queries[:1] + 0.03 * rng.standard_normal(queries.shape, dtype=np.float32)
    near = np.ascontiguousarray(near / np.linalg.norm(near, axis=1, keepdims=True))
    direction = rng.standard_normal(vectors.shape[1], dtype=np.float32)
    of_clusters = np.flatnonzero(chosen)
    return {
        "random": (np.sort(rng.choice(n, count, replace=False)), queries),
        "clusters": (np.sort(rng.choice(of_clusters, min(count, len(of_clusters)), replace=False)), queries),
        "direction": (smallest(vectors @ direction, count), queries),
        "far": (smallest(vectors @ queries[0], count), near),
    }


def then_filter(index: VectorIndex, keep: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Search, then filter, as by hand: more and more neighbours until k of them match; rows (m, K)."""
    n = len(index)
    fetch = min(n, int(K * n / max(keep.sum(), 1)))
    while True:
        rows = index.search(queries, fetch)[1]  # ids are rows here
        matching = keep[rows]
        if fetch == n or (matching.sum(axis=1) >= K).all():
            order = np.argsort(~matching, axis=1, kind="stable")[:, :K]
            return np.take_along_axis(rows, order, axis=1)
        fetch = min(n, 2 * fetch)


def measure(n: int, dim: int, m: int) -> list[dict[str, Any]]:
    """Build one index and try all filters on it."""
    vectors, cluster = labelled(n, dim, 1)
    queries, _ = labelled(m, dim, 2)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        index = VectorIndex.build(vectors, np.arange(n), Path(folder), provenance={}, kind="ivf-sq8", queries=200)
        del vectors
        index = VectorIndex.open(Path(folder), trusted=True)
        stored = index._snapshot.vectors
        plain = timed(lambda: index.search(queries, K))[1] / m
        for share in SHARES:
            for name, (chosen, asked) in filters(stored, cluster, queries, share).items():
                keep = np.zeros(n, bool)
                keep[chosen] = True
                truth, scan = timed(lambda c=chosen, a=asked: exact_search(stored, a, K, rows=c)[0])
                found, planned = timed(lambda c=chosen, a=asked: index.search(a, K, keep=c)[0])
                recall = float((found >= truth[:, -1:] - 1e-6).mean())
                one = timed(lambda c=chosen, a=asked: [index.search(a[i : i + 1], K, keep=c) for i in range(SINGLES)])[1]
                held = index.only(chosen)  # as a database holds the conditions it was asked lately
                index.search(asked[:1], K, keep=held)
                again = timed(lambda h=held, a=asked: [index.search(a[i : i + 1], K, keep=h) for i in range(SINGLES)])[1]
                row: dict[str, Any] = {
                    "vectors": n,
                    "selectivity": f"{100 * share:g} %",
                    "filter": name,
                    "matching": len(chosen),
                    "plan (batch)": index.path(chosen, len(asked), K),
                    "recall@10": round(recall, 4),
                    "least answers": int((index.search(asked, K, keep=chosen)[1] >= 0).sum(axis=1).min()),
                    "planned, µs/query": round(planned / len(asked) * 1e6),
                    "filter then scan, µs/query": round(scan / len(asked) * 1e6),
                    "planned, single, µs": round(one / SINGLES * 1e6),
                    "plan (single)": index.path(chosen, 1, K),
                    "the same filter again, single, µs": round(again / SINGLES * 1e6),
                    "plan (again)": index.path(held, 1, K),
                    "no filter, µs/query": round(plain * 1e6),
                }
                if share >= 0.0005 and not (name == "far" and share < 0.5):  # else it fetches the whole index for each query
                    few = asked[: 20 if share >= 0.005 else 5]
                    seconds = timed(lambda f=few, b=keep: then_filter(index, b, f))[1]
                    row["search then filter, µs/query"] = round(seconds / len(few) * 1e6)
                partition = index._snapshot.partition
                if partition is not None and len(chosen) >= 4 * K:
                    (scores, _), seconds = timed(lambda p=partition, c=chosen, a=asked: search_lists(p.group(c), a, K))
                    row["lists alone, µs/query"] = round(seconds / len(asked) * 1e6)
                    row["lists alone, recall@10"] = round(float((scores >= truth[:, -1:] - 1e-6).mean()), 4)
                rows.append(row)
                print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[200_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(arguments.threads)
    rows = [row for n in arguments.sizes for row in measure(n, arguments.dim, arguments.queries)]
    clock = "processor time" if arguments.threads == 1 else "wall time"
    facts = machine() | {
        "faiss": faiss.__version__,
        "threads": arguments.threads,
        "dimensions": arguments.dim,
        "clock": clock,
    }
    write_results("filters", "Filtered search: planned, against the ways by hand", rows, facts)


if __name__ == "__main__":
    main()
