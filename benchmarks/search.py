"""Our `VectorIndex` against raw FAISS used by hand: the same index, the same vectors, the same recall, in one run.

What is measured is the price of everything around FAISS: checks, re-scoring in full precision, ids, exclusions. Raw FAISS
means the very index file of ours opened in memory, with the same nprobe, and `IndexRefineFlat` where candidates are refined.

    python benchmarks/search.py [--sizes 20000 200000] [--dim 256] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from specdb.search.exact import exact_search
from specdb.search.index import VectorIndex

_faiss: Any = faiss  # its type stubs know only part of it

RESULTS = Path(__file__).parent / "results"
K = 10
BUDGET_S = 15.0
COLUMNS = {
    "n": "vectors",
    "kind": "kind",
    "parameters": "parameters",
    "build_s": "build + tune + certify, s",
    "bytes_per_vector": "index bytes per vector beside the vectors",
    "recall_ours": "recall@10 ours",
    "recall_faiss": "recall@10 FAISS",
    "single_us_ours": "single query ours, µs",
    "single_us_faiss": "single query FAISS, µs",
    "single_extra_us": "extra per single query, µs",
    "batch_us_ours": "batch ours, µs/query",
    "batch_us_faiss": "batch FAISS, µs/query",
    "batch_ratio": "batch ratio ours/FAISS",
    "scan_us": "numpy argsort scan, µs/query",
}


def clustered(n: int, dim: int, seed: int) -> np.ndarray:
    """Return a mixture on the sphere: 500 clusters in 24 latent dimensions, mapped up, with noise in all dimensions."""
    shape = np.random.default_rng(0)
    centres, basis = shape.standard_normal((500, 24)), shape.standard_normal((24, dim))
    rng = np.random.default_rng(seed)
    latent = centres[rng.integers(0, len(centres), n)] + 0.5 * rng.standard_normal((n, 24))
    x = (latent @ basis + rng.standard_normal((n, dim))).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def paired(ours: Callable[[int], object], theirs: Callable[[int], object], rounds: int) -> tuple[float, float, float]:
    """Time two functions in turn, so that other load on the machine hits both; medians and the median difference, s.

    Stops early after `BUDGET_S`, but not before five rounds.
    """
    times = np.empty((rounds, 2))
    begin = time.perf_counter()
    for i in range(rounds):
        if i >= 5 and time.perf_counter() - begin > BUDGET_S:
            times = times[:i]
            break
        for column, function in ((0, ours), (1, theirs)) if i % 2 else ((1, theirs), (0, ours)):
            start = time.perf_counter()
            function(i)
            times[i, column] = time.perf_counter() - start
    return float(np.median(times[:, 0])), float(np.median(times[:, 1])), float(np.median(times[:, 0] - times[:, 1]))


def by_hand(index: VectorIndex, directory: Path, vectors: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a search as someone would write it with FAISS alone; rows (m, K)."""
    card = index.card
    parameters = card.certificate.parameters
    if card.kind == "flat":
        flat = faiss.IndexFlatIP(card.dimension)
        flat.add(vectors)
        return lambda queries: flat.search(queries, K)[1]
    raw = faiss.read_index(str(directory / card.segments[0].file.name))
    probe = _faiss.SearchParametersIVF(nprobe=parameters.nprobe)
    if card.kind == "ivf-flat":
        return lambda queries: raw.search(queries, K, params=probe)[1]
    full = faiss.IndexFlatIP(raw.d)
    full.add(vectors)
    refined = faiss.IndexRefine(raw, full)
    extra = _faiss.IndexRefineSearchParameters(k_factor=max(parameters.k_factor, 2), base_index_params=probe)
    return lambda queries: refined.search(queries, K, params=extra)[1]


def measure(vectors: np.ndarray, queries: np.ndarray, kind: str) -> dict[str, object]:
    """Build one index, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        start = time.perf_counter()
        index = VectorIndex.build(vectors, np.arange(len(vectors)), directory, provenance={}, kind=kind, on_shortfall="fail")
        build_s = time.perf_counter() - start
        index = VectorIndex.open(directory)
        hand = by_hand(index, directory, vectors)

        truth = exact_search(vectors, queries, K)[1]

        def recall(rows: np.ndarray) -> float:
            return float((truth[:, :, None] == rows[:, None, :]).any(axis=2).mean())

        recalls = recall(index.search(queries, K)[1]), recall(hand(queries))
        one = [queries[i : i + 1] for i in range(300)]
        single = paired(lambda i: index.search(one[i], K), lambda i: hand(one[i]), len(one))
        batch = paired(lambda i: index.search(queries, K), lambda i: hand(queries), 11)
        scan = time.perf_counter()
        for query in one[:10]:
            np.argsort(-(vectors @ query[0]))[:K]
        scan_us = (time.perf_counter() - scan) / 10 * 1e6
        parameters = index.certificate.parameters
        return {
            "n": len(vectors),
            "kind": kind,
            "parameters": "" if kind == "flat" else f"nprobe {parameters.nprobe}, k_factor {parameters.k_factor}",
            "build_s": round(build_s, 1),
            "bytes_per_vector": round(sum(segment.file.bytes for segment in index.card.segments) / len(vectors)),
            "recall_ours": round(recalls[0], 4),
            "recall_faiss": round(recalls[1], 4),
            "single_us_ours": round(single[0] * 1e6),
            "single_us_faiss": round(single[1] * 1e6),
            "single_extra_us": round(single[2] * 1e6),
            "batch_us_ours": round(batch[0] / len(queries) * 1e6, 1),
            "batch_us_faiss": round(batch[1] / len(queries) * 1e6, 1),
            "batch_ratio": round(batch[0] / batch[1], 3),
            "scan_us": round(scan_us),
        }


def machine(threads: int) -> str:
    """Say where and on what the run was made."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    names = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {threads} threads; Python "
        f"{platform.python_version()}, FAISS {faiss.__version__}, NumPy {np.__version__}; commit {commit}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(arguments.threads)
    rows = []
    for n in arguments.sizes:
        vectors, queries = clustered(n, arguments.dim, 1), clustered(1000, arguments.dim, 2)
        for kind in ("flat", "ivf-flat", "ivf-sq8"):
            rows.append(measure(vectors, queries, kind))
            print(rows[-1], flush=True)
    where = machine(arguments.threads)
    table = [list(COLUMNS.values()), ["---"] * len(COLUMNS), *([str(row[key]) for key in COLUMNS] for row in rows)]
    text = f"# Search: `VectorIndex` against raw FAISS\n\n{where}. {arguments.dim} dimensions, k = {K}, batch of 1000.\n\n"
    text += "\n".join(f"| {' | '.join(line)} |" for line in table) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "search.md").write_text(text, encoding="utf-8")
    (RESULTS / "search.json").write_text(json.dumps({"machine": where, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
