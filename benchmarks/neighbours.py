"""Nearest neighbours side by side: specdb, FAISS by hand, hnswlib, usearch, LanceDB, scikit-learn.

    python benchmarks/neighbours.py --n 200000 [--real FOLDER]
    python benchmarks/neighbours.py --n 1000000 [--real FOLDER] [--engines specdb faiss ...]

Every engine gets the same vectors, threads and queries, builds in a process of its own, and answers in another one that
opens what was built, so that memory is its own. Each is tuned by its own knob, cheapest first, until recall@10 reaches the
asked one on either half of the queries; recall, single queries and batches are measured on the second. Rows of engines that
are not asked for stay in the table, so that a long run can be cut into several.

Vectors are embeddings of simulated LAMOST spectra, of real ones where a folder is given, and beyond these of stars between
them (see `vectors.grown`). Queries are embeddings themselves that no engine has seen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

K = 10
QUERIES = 1000
SINGLES = 300
LADDER = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Engine(ABC):
    """One way to find neighbours; a subclass imports what it needs when it is used."""

    #: Queries searched at once, and one by one, where all would take too long.
    batch, singles = QUERIES // 2, SINGLES
    #: Beside recall@10 an engine may be exact and need no tuning.
    settings: tuple[Any, ...] = (None,)

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads

    @abstractmethod
    def build(self, vectors: np.ndarray, recall: float) -> None:
        """Build and write everything that `open` needs into the folder."""

    @abstractmethod
    def open(self) -> None:
        """Make ready to search."""

    @abstractmethod
    def search(self, queries: np.ndarray, setting: Any) -> np.ndarray:
        """Return the rows of the `K` nearest (m, K)."""


class Specdb(Engine):
    """`VectorIndex` of one kind, which tunes itself when it is built."""

    kind = "ivf-sq8"

    def build(self, vectors: np.ndarray, recall: float) -> None:
        from specdb.search import VectorIndex

        VectorIndex.build(vectors, np.arange(len(vectors)), self.folder, provenance={}, kind=self.kind, recall=recall)

    def open(self) -> None:
        from specdb.search import VectorIndex

        self.index = VectorIndex.open(self.folder, trusted=True)
        self.settings = tuple(
            s for s in self.index.settings() if s.nprobe >= self.index.certificate.parameters.nprobe
        )  # from the tuned one on

    def search(self, queries: np.ndarray, setting: Any) -> np.ndarray:
        return self.index.search(queries, K, parameters=setting)[1]


class SpecdbRabitq(Specdb):
    """The kind for what does not fit into memory."""

    kind = "ivf-rabitq"


class SpecdbHnsw(Specdb):
    """A graph."""

    kind = "hnsw"


class Faiss(Engine):
    """Inverted lists of one byte per value, refined with the vectors: what specdb's default is made of."""

    settings = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)

    def build(self, vectors: np.ndarray, recall: float) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        lists = int(4 * np.sqrt(len(vectors)))
        index: Any = faiss.index_factory(vectors.shape[1], f"IVF{lists},SQ8,RFlat", faiss.METRIC_INNER_PRODUCT)
        index.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // (64 * lists))]))
        index.add(vectors)
        faiss.write_index(index, str(self.folder / "index.faiss"))

    def open(self) -> None:
        import faiss

        faiss.omp_set_num_threads(self.threads)
        self.index: Any = faiss.read_index(str(self.folder / "index.faiss"))
        self.index.k_factor = 2

    def search(self, queries: np.ndarray, setting: Any) -> np.ndarray:
        import faiss

        faiss.downcast_index(self.index.base_index).nprobe = setting
        return self.index.search(queries, K)[1]


class Hnswlib(Engine):
    """hnswlib: M 16, ef_construction 100."""

    settings = LADDER

    def build(self, vectors: np.ndarray, recall: float) -> None:
        import hnswlib

        index = hnswlib.Index("ip", vectors.shape[1])
        index.init_index(len(vectors), M=16, ef_construction=100, random_seed=0)
        for start in range(0, len(vectors), 50_000):
            part = np.ascontiguousarray(vectors[start : start + 50_000])
            index.add_items(part, np.arange(start, start + len(part)), num_threads=self.threads)
        index.save_index(str(self.folder / "index"))

    def open(self) -> None:
        import hnswlib

        dim = int(np.load(self.folder.parent / "queries.npy", mmap_mode="r").shape[1])
        self.index = hnswlib.Index("ip", dim)
        self.index.load_index(str(self.folder / "index"))

    def search(self, queries: np.ndarray, setting: Any) -> np.ndarray:
        self.index.set_ef(setting)
        return self.index.knn_query(queries, K, num_threads=self.threads if len(queries) > 1 else 1)[0].astype(np.int64)


class Usearch(Engine):
    """usearch: connectivity 16, expansion 100 while adding, full precision."""

    settings = LADDER

    def _index(self, dim: int) -> Any:
        from usearch.index import Index

        return Index(ndim=dim, metric="ip", dtype="f32", connectivity=16, expansion_add=100)

    def build(self, vectors: np.ndarray, recall: float) -> None:
        index = self._index(vectors.shape[1])
        for start in range(0, len(vectors), 50_000):
            part = np.ascontiguousarray(vectors[start : start + 50_000])
            index.add(np.arange(start, start + len(part)), part, threads=self.threads)
        index.save(str(self.folder / "index"))

    def open(self) -> None:
        self.index = self._index(np.load(self.folder.parent / "queries.npy", mmap_mode="r").shape[1])
        self.index.load(str(self.folder / "index"))

    def search(self, queries: np.ndarray, setting: Any) -> np.ndarray:
        self.index.expansion_search = setting
        found = self.index.search(queries[0] if len(queries) == 1 else queries, K, threads=self.threads)
        return np.asarray(found.keys, np.int64).reshape(len(queries), -1)


class Lancedb(Engine):
    """LanceDB: IVF_PQ with a fourth of the bytes, candidates refined with the vectors."""

    settings = tuple((probes, 10) for probes in (5, 10, 20, 40, 80, 160, 320))
    batch = 100

    def build(self, vectors: np.ndarray, recall: float) -> None:
        import lancedb
        import pyarrow as pa

        dim = vectors.shape[1]
        vector = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).reshape(-1)), dim)
        table = pa.table({"id": np.arange(len(vectors)), "vector": vector})
        stored = lancedb.connect(self.folder).create_table("vectors", table)
        lists = int(np.sqrt(len(vectors)))
        stored.create_index(metric="dot", num_partitions=lists, num_sub_vectors=dim // 4, index_type="IVF_PQ")

    def open(self) -> None:
        import lancedb

        self.table = lancedb.connect(self.folder).open_table("vectors")

    def search(self, queries: np.ndarray, setting: Any) -> np.ndarray:
        probes, refine = setting
        rows = np.empty((len(queries), K), np.int64)
        for i, query in enumerate(queries):
            asked = self.table.search(query, vector_column_name="vector").distance_type("dot").nprobes(probes)
            rows[i] = asked.refine_factor(refine).limit(K).select(["id"]).to_arrow()["id"].to_numpy()
        return rows


class Sklearn(Engine):
    """scikit-learn: `cosine_similarity` and argsort, as in a notebook; exact."""

    batch, singles = 20, 20

    def build(self, vectors: np.ndarray, recall: float) -> None:
        np.save(self.folder / "vectors.npy", vectors)

    def open(self) -> None:
        from sklearn.metrics.pairwise import cosine_similarity

        self.vectors, self._similarity = np.load(self.folder / "vectors.npy"), cosine_similarity

    def search(self, queries: np.ndarray, setting: Any) -> np.ndarray:
        return np.argsort(-self._similarity(queries, self.vectors), axis=1)[:, :K]


ENGINES: dict[str, type[Engine]] = {
    "specdb": Specdb,
    "specdb-rabitq": SpecdbRabitq,
    "specdb-hnsw": SpecdbHnsw,
    "faiss": Faiss,
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "lancedb": Lancedb,
    "sklearn": Sklearn,
}

#: A graph of specdb is built in one thread, so that it is the same each time: too slow to be in every run.
DEFAULT = [name for name in ENGINES if name != "specdb-hnsw"]


@dataclass(frozen=True)
class Stage:
    """One process: an engine builds, or opens and answers."""

    engine: str
    what: str
    folder: Path
    threads: int
    recall: float

    def run(self) -> dict[str, Any]:
        """Do it in this process."""
        from common import recall_of, resident_mib

        engine = ENGINES[self.engine](self.folder / self.engine, self.threads)
        if self.what == "build":
            vectors = np.load(self.folder / "vectors.npy", mmap_mode="r")
            engine.folder.mkdir()
            begin = time.perf_counter()
            engine.build(vectors, self.recall)
            seconds = time.perf_counter() - begin
            size = sum(path.stat().st_size for path in engine.folder.rglob("*") if path.is_file())
            return {
                "build s": round(seconds, 1),
                "on disk, bytes/vector": round(size / len(vectors)),
                "peak memory while building, MiB": round(resident_mib("VmHWM")),
            }
        queries, truth = (np.load(self.folder / f"{name}.npy") for name in ("queries", "truth"))
        begin = resident_mib()
        engine.open()
        half = QUERIES // 2
        tuning, asked = (slice(start, start + engine.batch) for start in (0, half))
        for setting in engine.settings:
            # As specdb's certificates: chosen with some queries, and good enough for others.
            if recall_of(engine.search(queries[tuning], setting), truth[tuning]) < self.recall:
                continue
            if (reached := recall_of(engine.search(queries[asked], setting), truth[asked])) >= self.recall:
                break
        else:
            reached = recall_of(engine.search(queries[asked], setting), truth[asked])
        single = []
        for i in range(engine.singles):
            one = queries[half + i : half + i + 1]
            start = time.perf_counter()
            engine.search(one, setting)
            single.append(time.perf_counter() - start)
        batch = []
        for _ in range(5):
            start = time.perf_counter()
            engine.search(queries[asked], setting)
            batch.append(time.perf_counter() - start)
        held, anonymous = resident_mib() - begin, resident_mib("RssAnon")
        result = {
            "setting": str(setting) if setting is not None else "exact",
            "recall@10": reached,
            "single query, median µs": round(1e6 * float(np.median(single))),
            "single query, 95th percentile µs": round(1e6 * float(np.percentile(single, 95))),
            "batch, queries/s": round(engine.batch / min(batch)),
            "resident memory, MiB": round(held),
            "of this process not from mapped files, MiB": round(anonymous),
        }
        return result | (self._overhead(engine, queries[half:], setting) if isinstance(engine, Specdb) else {})

    def _overhead(self, engine: Specdb, queries: np.ndarray, setting: Any) -> dict[str, Any]:
        """Compare specdb with FAISS on the very same file, turn by turn."""
        from common import by_hand, paired

        vectors = np.array(np.load(self.folder / "vectors.npy", mmap_mode="r"))
        hand = by_hand(engine.index, engine.folder, vectors, K, setting)
        one = [queries[i : i + 1] for i in range(SINGLES)]
        single = paired(lambda i: engine.search(one[i], setting), lambda i: hand(one[i]), SINGLES)
        batch = paired(lambda i: engine.search(queries[:100], setting), lambda i: hand(queries[:100]), 51)
        return {
            "over FAISS on the same file: single, µs": round(single[2] * 1e6),
            "batch of 100, ratio": round(batch[0] / batch[1], 3),
        }


def outside(stage: Stage, limit_s: float) -> dict[str, Any]:
    """Run a stage in a process of its own; `problem` says why there is no result."""
    threads = {name: str(stage.threads) for name in ("OMP_NUM_THREADS", "LANCE_CPU_THREADS", "RAYON_NUM_THREADS")}
    words = ["--stage", stage.what, "--engines", stage.engine, "--folder", str(stage.folder)]
    words += ["--threads", str(stage.threads), "--recall", str(stage.recall)]
    try:
        done = subprocess.run(
            [sys.executable, __file__, *words],
            env=os.environ | threads,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"problem": f"{stage.what}: stopped after {limit_s:.0f} s"}
    if done.returncode:
        said = done.stderr.strip().splitlines()
        return {"problem": f"{stage.what}: {said[-1] if said else f'exit status {done.returncode}'}"}
    return json.loads(done.stdout.splitlines()[-1])


def prepare(folder: Path, n: int, base: Any) -> None:
    """Write the vectors (n, d), the queries, which are embeddings left out of them, and the exact answers."""
    from vectors import Embedded, grown

    from specdb.search.exact import exact_search

    rng = np.random.default_rng(1)
    order = rng.permutation(len(base.vectors))
    queries = base.vectors[order[:QUERIES]]
    rest = np.sort(order[QUERIES:])
    vectors = grown(Embedded(base.vectors[rest], base.star[rest]), n)
    rng.shuffle(vectors)
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", exact_search(vectors, queries, K)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000, help="Vectors.")
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=DEFAULT)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--recall", type=float, default=0.99, help="recall@10 to be reached.")
    parser.add_argument("--spectra", type=int, default=40_000, help="Simulated spectra to embed.")
    parser.add_argument("--real", type=Path, help="Folder of real LAMOST spectra to embed, too.")
    parser.add_argument("--cache", type=Path, help="Where embeddings are kept (.npz); by default they are made anew.")
    parser.add_argument("--limit-s", type=float, default=900, help="Longest time for building, and for answering.")
    parser.add_argument("--stage", choices=["build", "search"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        stage = Stage(arguments.engines[0], arguments.stage, arguments.folder, arguments.threads, arguments.recall)
        print(json.dumps(stage.run()))
        return
    from common import RESULTS, machine, write_results
    from vectors import embedded

    name = f"neighbours_{arguments.n}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        base = embedded(arguments.spectra, arguments.cache or folder / "embedded.npz", real=arguments.real)
        facts = machine() | {
            "threads": arguments.threads,
            "load": os.getloadavg()[0],
            "vectors": f"{arguments.n:,} x {base.vectors.shape[1]}: {len(base.vectors) - base.real:,} embeddings of "
            f"simulated and {base.real:,} of real LAMOST spectra less {QUERIES} queries, the others between them",
        }
        prepare(folder, arguments.n, base)
        kept = {}
        if (RESULTS / f"{name}.json").exists():
            kept = {row["engine"]: row for row in json.loads((RESULTS / f"{name}.json").read_text())["rows"]}
        for engine in arguments.engines:
            row: dict[str, Any] = {"engine": engine}
            for what in ("build", "search"):
                row |= outside(Stage(engine, what, folder, arguments.threads, arguments.recall), arguments.limit_s)
                if "problem" in row:
                    break
            shutil.rmtree(folder / engine, ignore_errors=True)
            kept[engine] = row
            print(row, flush=True)
            rows = [kept[one] for one in ENGINES if one in kept]
            write_results(name, f"Neighbours: {arguments.n:,} vectors, recall@10 >= {arguments.recall:g}", rows, facts)


if __name__ == "__main__":
    main()
