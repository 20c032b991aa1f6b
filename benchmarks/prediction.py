"""Prediction of labels for stored embeddings, Parquet in and Parquet out, against what disk and matrix products allow.

    python benchmarks/prediction.py FOLDER [--rows 1000000] [--threads 2]

FOLDER is a scratch folder with room for twice the embeddings (0.7 GB a million). The embeddings have the sizes of the
default encoder, the head those of `specdb heads train`. Both limits are measured in the same run: reading the embeddings'
files and writing the predictions' bytes with nothing in between; and the head's matrix products alone, in memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from common import machine, write_results

from specdb.heads import Head, HeadConfig, fit_head, predict_survey
from specdb.heads.card import HeadCard, LabelFacts
from specdb.heads.train import head_folder
from specdb.store import Store, embedding_table

SHARED, PRIVATE, PART = 128, 32, 50_000
MODALITY, ENCODER = "lamost_lrs", "random"
PROVENANCE = {"kind": "embeddings", "encoder": ENCODER, "weight_hash": "0" * 64}


def random_database(folder: Path, rows: int) -> Store:
    """Fill a database with random embeddings, part by part."""
    store = Store.create(folder, ENCODER)
    rng = np.random.default_rng(0)
    with store.writing() as writer:
        for number, start in enumerate(range(0, rows, PART)):
            n = min(PART, rows - start)
            full = rng.normal(size=(n, SHARED)).astype(np.float32)
            norm = np.linalg.norm(full, axis=1)
            vectors = {"shared": full / norm[:, None], "private": rng.normal(size=(n, PRIVATE)).astype(np.float32)}
            table = embedding_table(np.arange(start, start + n), vectors, {}).append_column("shared_norm", pa.array(norm))
            writer.commit_embeddings(ENCODER, MODALITY, f"part-{number:05d}.parquet", table, PROVENANCE)
    return store


def random_head(store: Store) -> Head:
    """Train a head of the default size for three labels; what it learns does not matter here."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(500, SHARED + PRIVATE)).astype(np.float32), rng.normal(size=(500, 3))
    labels = tuple(map(LabelFacts, ("logg", "feh", "alpha_m")))
    card = HeadCard("atm", MODALITY, ENCODER, PROVENANCE["weight_hash"], labels, HeadConfig("both", "mlp", {"steps": 20}))
    head = fit_head(x, y, np.arange(500), card)
    head.save(head_folder(store, "atm"))
    return head


def matrix_products(head: Head, rows: int) -> float:
    """Return the seconds that the head's matrix products alone take for so many rows."""
    weights = head.model._network.weights  # type: ignore[attr-defined]
    block = 1024  # what is fastest here
    inputs = [torch.randn(block, w.shape[1]) for w in weights]
    outputs = [torch.empty(block, w.shape[2]) for w in weights]

    def once() -> None:
        for member in range(len(weights[0])):
            for x, w, out in zip(inputs, weights, outputs, strict=True):
                torch.mm(x, w[member], out=out)

    with torch.no_grad():
        return best(once, 5) * rows / block


def disk(store: Store, scratch: Path) -> float:
    """Return the seconds to read the embeddings' files and to write and sync as many bytes as the predictions have."""
    sizes = [(store.root / name).stat().st_size for name in store.tables("predictions")]
    content = os.urandom(max(sizes))

    def once() -> None:
        for part in store.embedding_parts(ENCODER, MODALITY):
            (store.root / part).read_bytes()
        for number, size in enumerate(sizes):
            with (scratch / f"{number}.bin").open("wb") as file:
                file.write(content[:size])
                file.flush()
                os.fsync(file.fileno())

    scratch.mkdir()
    seconds = best(once, 3)
    shutil.rmtree(scratch)
    return seconds


def best(what: Callable[[], object], times: int) -> float:
    """Return the shortest of some runs in seconds."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        what()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="scratch folder; the database in it is made where there is none")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    root = given.folder / f"embeddings-{given.rows}"
    store = Store.open(root) if (root / "specdb.toml").exists() else random_database(root, given.rows)
    head = random_head(store)
    products = matrix_products(head, given.rows)

    def predict() -> None:
        predict_survey(store, head)

    seconds = []
    for _ in range(given.repeat):
        with store.writing() as writer:
            writer.remove(store.tables("predictions"))
        seconds.append(best(predict, 1))
    written = disk(store, given.folder / "scratch")
    # The limits are taken again, for the machine may be busier or quieter than it was.
    products = min(products, matrix_products(head, given.rows))
    taken, limit = min(seconds), max(products, written)
    row = {
        "embeddings": given.rows,
        "prediction (s)": taken,
        "spectra per second": given.rows / taken,
        "matrix products alone (s)": products,
        "disk alone (s)": written,
        "share of the slower limit": f"{limit / taken:.0%}",
    }
    write_results("prediction", __doc__, [row], machine() | {"threads": given.threads})


if __name__ == "__main__":
    main()
