"""Rows of a small database of two modalities, without files, preparation or encoder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from specdb.search import VectorIndex
from specdb.spectra import Modality, get_modality
from specdb.spectra.schema import metadata_table
from specdb.store import REJECTED, Batch, Store, embedding_table, spectra_table

ENCODER = "toy-encoder"
N = 40
DIM = 8

#: Positions of the first stars: ordinary, on both sides of RA 0, near both poles.
PLACES = [(180.0, 10.0), (359.99999, 0.0), (0.00001, 0.0), (40.0, 89.9999), (220.0, -89.9999)]


def gaia_id(number: int, pixel: int = 30_000_000) -> int:
    """Return a source_id as Gaia makes them: HEALPix pixel, running number, component 0."""
    return (pixel << 35) | (number << 7)


def rows(modality: Modality, ids: np.ndarray, **columns: object) -> pa.Table:
    n, width = len(ids), len(modality.wavelength)
    metadata = metadata_table({"spectrum_id": ids, **columns}, modality.columns)
    measured = {"snr": np.linspace(10, 90, n), "quality": np.zeros(n, int), "n_repaired": np.zeros(n, int)}
    ones = np.ones((n, width), np.float32)
    return spectra_table(modality, metadata, {"flux": ones, "ivar": ones, **measured})


def vectors(n: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def commit(store: Store, modality: Modality, table: pa.Table, seed: int, weight_hash: str = "abc") -> None:
    number = len(store.manifest().batches.get(modality.name, ()))
    ids = table["spectrum_id"].to_numpy()
    with store.writing() as writer:
        embedded = embedding_table(ids, {"shared": vectors(len(ids), seed)}, {"metric": "cosine"})
        record = {"kind": "embeddings", "weight_hash": weight_hash}
        facts = {"record": -1, "status": "failed", "reason": "truncated", "detail": "cut", "batch": number}
        rejected = pa.Table.from_pylist([{"source_file": "/bad.fits"} | facts], REJECTED)
        batch = Batch(number, len(ids) + 1)
        writer.commit_ingest(modality, batch, table, rejected, {"kind": "spectra"}, (ENCODER, embedded, record))


def index_all(store: Store) -> None:
    for modality in store.modalities():
        parts = list(store.vectors(ENCODER, modality))
        ids, x = np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
        made = store.provenance(store.embedding_parts(ENCODER, modality)[0])["weight_hash"]
        record = {"modality": modality, "encoder": ENCODER, "weight_hash": made}
        VectorIndex.build(x, ids, store.index_folder(ENCODER, modality), provenance=record)
        with store.writing() as writer:
            writer.commit_index(ENCODER, modality, len(ids), record)


def sky(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, N), np.degrees(np.arcsin(rng.uniform(-0.99, 0.99, N)))
    ra[: len(PLACES)], dec[: len(PLACES)] = zip(*PLACES, strict=True)
    return ra, dec


def lamost(first: int = 1001, seed: int = 0) -> pa.Table:
    ids = np.arange(first, first + N)
    ra, dec = sky(seed)
    gaia = [gaia_id(i) if i < 3 else None for i in range(N)]
    names = [f"/files/spec-56000-A_sp01-{i}.fits.gz" for i in ids]
    return rows(
        get_modality("lamost_lrs"), ids, ra=ra, dec=dec, epoch=np.full(N, 2000.0), source_file=names, gaia_source_id=gaia,
        input_name=[str(gaia_id(i + 500)) for i in range(N)], subclass=["G5", "K1"] * (N // 2),
    )  # fmt: skip
