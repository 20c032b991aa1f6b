"""Every kind of index side by side, and against raw FAISS used by hand with the same files; and an index larger than memory.

    python benchmarks/index_kinds.py kinds [--n 200000] [--dim 512] [--threads 2]
    python benchmarks/index_kinds.py large [--n 10000000] [--dim 64] [--kind ivf-rabitq] [--memory-gib 1]

Vectors are simulated: clusters of low intrinsic dimension with noise in all dimensions. Queries of another modality are the
same stars shifted and with more noise: they lie outside the indexed distribution.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from common import by_hand, machine, paired, recall_of, resident_mib, write_results
from vectors import clustered, shifted

from specdb.errors import RecallError
from specdb.search import BuildOptions, VectorIndex, kind_names, plan_index
from specdb.search.exact import exact_search

K = 10


def measure(vectors: np.ndarray, queries: np.ndarray, cross: np.ndarray, kind: str) -> dict[str, Any]:
    """Build one kind, and compare it with FAISS by hand."""
    n, dim = vectors.shape
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        begin = time.perf_counter()
        options = BuildOptions(kind, 0.99, on_shortfall="fail")
        try:
            VectorIndex.build_from(
                [(np.arange(n), vectors)], directory, provenance={}, options=options, cross={"other": cross}
            )
        except RecallError as error:
            return {"kind": kind, "parameters": str(error).split(":")[0]}
        build_s = time.perf_counter() - begin
        index = VectorIndex.open(directory)
        hand = by_hand(index, directory, vectors, K)
        truth = exact_search(vectors, queries, K)[1]
        one = [queries[i : i + 1] for i in range(300)]
        single = paired(lambda i: index.search(one[i], K), lambda i: hand(one[i]), len(one))
        batch = paired(lambda i: index.search(queries, K), lambda i: hand(queries), 7)
        crossed = paired(lambda i: index.search(cross[:500], K, source="other"), lambda i: None, 5)
        certificate, other = index.certificate, index.card.cross["other"]
        size = sum(segment.file.bytes for segment in index.card.segments)
        half = index.card.files["half"].bytes if "half" in index.card.files else 0
        return {
            "kind": kind,
            "parameters": str(certificate.parameters),
            "build, tune, certify s": round(build_s, 1),
            "index bytes/vector": round((size + half) / n),
            "estimate bytes/vector": round((plan_index(n, dim, kind).structure_bytes + half) / n),
            "certified recall@10": f"{certificate.recall[10].value:.4f}",
            "recall@10 ours": recall_of(index.search(queries, K)[1], truth),
            "recall@10 FAISS": recall_of(hand(queries), truth),
            "single ours µs": round(single[0] * 1e6),
            "single FAISS µs": round(single[1] * 1e6),
            "extra µs": round(single[2] * 1e6),
            "batch ours µs/query": round(batch[0] / len(queries) * 1e6, 1),
            "batch FAISS µs/query": round(batch[1] / len(queries) * 1e6, 1),
            "batch ratio": round(batch[0] / batch[1], 3),
            "cross-modal parameters": str(other.parameters),
            "cross-modal recall@10": f"{other.recall[10].value:.4f}",
            "cross-modal batch µs/query": round(crossed[0] / 500 * 1e6, 1),
        }


def large(n: int, dim: int, kind: str, memory_gib: float, folder: Path) -> dict[str, Any]:
    """Build an index of vectors that are made part by part, and search it."""
    import threading

    peak, running = [0.0], threading.Event()

    def watch() -> None:
        while not running.wait(0.2):
            peak[0] = max(peak[0], resident_mib("RssAnon"))

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, first in enumerate(range(0, n, 200_000)):
            count = min(200_000, n - first)
            yield np.arange(first, first + count), clustered(count, dim, 10 + number)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    options = BuildOptions(kind, 0.95, memory_bytes=int(memory_gib * 2**30), queries=500)
    print(plan_index(n, dim, kind, options.memory_bytes, 0.95), flush=True)
    begin, cpu = time.perf_counter(), time.process_time()
    index = VectorIndex.build_from(parts(), folder, provenance={}, options=options)
    build_s, build_cpu = time.perf_counter() - begin, time.process_time() - cpu
    built_peak, peak[0] = peak[0], 0.0
    queries = clustered(300, dim, 5)
    index.search(queries, K)
    times = []
    for i in range(300):
        begin = time.perf_counter()
        index.search(queries[i : i + 1], K)
        times.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    index.search(queries, K)
    batch = (time.perf_counter() - begin) / 300
    extra = clustered(1000, dim, 6)
    begin = time.perf_counter()
    changed = index.append(extra, np.arange(n, n + 1000))
    append_s = time.perf_counter() - begin
    running.set()
    return {
        "vectors": f"{n:,} x {dim}",
        "kind": index.card.kind,
        "parameters": str(index.certificate.parameters),
        "segments": len(index.card.segments),
        "build, tune, certify s (wall)": round(build_s),
        "the same, CPU s": round(build_cpu),
        "peak memory beyond files, MiB": round(built_peak),
        "peak memory in all, MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "on disk, MiB": round(sum(entry.bytes for entry in index.card.entries) / 2**20),
        "certified": str(index.certificate),
        "single query, median µs": round(float(np.median(times)) * 1e6),
        "batch of 300, µs/query": round(batch * 1e6),
        "append of 1000, s": round(append_s, 1),
        "append": changed.why,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["kinds", "large"], default="kinds")
    parser.add_argument("--n", type=int)
    parser.add_argument("--dim", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kind", default="ivf-rabitq", help="Of the large index.")
    parser.add_argument("--kinds", nargs="+", help="By default all that need no GPU.")
    parser.add_argument("--memory-gib", type=float, default=1.0, help="What the large index may occupy.")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(arguments.threads)
    facts = machine() | {"faiss": faiss.__version__, "threads": arguments.threads, "load": os.getloadavg()[0]}
    if arguments.what == "large":
        n, dim = arguments.n or 10_000_000, arguments.dim or 64
        with tempfile.TemporaryDirectory() as folder:
            row = large(n, dim, arguments.kind, arguments.memory_gib, Path(folder))
        write_results(f"index_large_{n}x{dim}", "An index built part by part", [row], facts)
        return
    n, dim = arguments.n or 200_000, arguments.dim or 512
    vectors, queries = clustered(n, dim, 1), clustered(1000, dim, 2)
    cross = shifted(clustered(2000, dim, 3), 4)
    rows = []
    for kind in arguments.kinds or [name for name in kind_names() if name != "cagra"]:
        rows.append(measure(vectors, queries, cross, kind))
        print(rows[-1], flush=True)
    write_results("index_kinds", f"Kinds of index: {n:,} x {dim}, recall@10 >= 0.99, k = {K}", rows, facts)


if __name__ == "__main__":
    main()
