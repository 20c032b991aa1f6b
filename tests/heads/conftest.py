"""A small database whose embeddings and pixels know the labels of its stars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from specdb.spectra import Modality
from specdb.spectra.schema import metadata_table
from specdb.store import REJECTED, Batch, Store, embedding_table, spectra_table

N_GRID, N_SHARED, N_PRIVATE = 12, 8, 4
MODALITY = Modality(
    name="toy",
    survey="toy",
    wavelength=np.linspace(4000, 5000, N_GRID),
    preparation=None,  # type: ignore[arg-type]  # nothing is prepared here
    columns=pa.schema([]),
    readers=(),
    title="toy",
)
ENCODER = {"kind": "embeddings", "encoder": "toy-encoder", "weight_hash": "a" * 64}


def make_stars(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Labels and what an encoder would make of them; every fifth star is observed twice."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(n, 3))
    hidden[4::5] = hidden[3::5][: len(hidden[4::5])]
    star = np.arange(n)
    star[4::5] = star[3::5][: len(star[4::5])]
    mixing = np.random.default_rng(1).normal(size=(3, N_SHARED + N_PRIVATE + N_GRID))
    seen = np.tanh(hidden @ mixing) + 0.05 * rng.normal(size=(n, mixing.shape[1]))
    labels = np.column_stack([5500 + 600 * hidden[:, 0], 4 + 0.5 * hidden[:, 1], -0.3 + 0.3 * hidden[:, 2]])
    return {
        "ids": np.arange(1000, 1000 + n),
        "star": star,
        "labels": labels,
        "shared": seen[:, :N_SHARED].astype(np.float32),
        "private": seen[:, N_SHARED : N_SHARED + N_PRIVATE].astype(np.float32),
        "flux": seen[:, -N_GRID:].astype(np.float32),
    }


def make_database(root: Path, stars: dict[str, np.ndarray], parts: int = 3, private: bool = True) -> Store:
    store = Store.create(root, "toy-encoder")
    with store.writing() as writer:
        for number, rows in enumerate(np.array_split(np.arange(len(stars["ids"])), parts)):
            n = len(rows)
            ids, star = stars["ids"][rows], stars["star"][rows]
            facts = {"spectrum_id": ids, "source_file": [f"{i}.fits" for i in ids], "ra": star * 0.1, "dec": star * 0.0}
            measured = {"snr": 10.0 + ids % 90, "quality": np.zeros(n, int), "n_repaired": np.zeros(n, int)}
            flux = stars["flux"][rows]
            spectra = spectra_table(
                MODALITY, metadata_table(facts), {"flux": flux, "ivar": np.full_like(flux, 400), **measured}
            )
            norm = np.linalg.norm(stars["shared"][rows], axis=1)
            vectors = {"shared": stars["shared"][rows] / norm[:, None]}
            if private:
                vectors["private"] = stars["private"][rows]
            table = embedding_table(ids, vectors, {}).append_column("shared_norm", pa.array(norm, pa.float32()))
            provenance = {"kind": "spectra", "preparation": "toy", "preparation_version": 1}
            writer.commit_ingest(
                MODALITY, Batch(number, n), spectra, REJECTED.empty_table(), provenance, ("toy-encoder", table, ENCODER)
            )
    return store


def label_table(stars: dict[str, np.ndarray], rows: slice = slice(None)) -> pa.Table:
    columns = {"spectrum_id": stars["ids"][rows]} | {
        name: stars["labels"][rows, i] for i, name in enumerate(("teff", "logg", "feh"))
    }
    return pa.table(columns).cast(
        pa.schema(
            [
                ("spectrum_id", pa.int64()),
                pa.field("teff", pa.float64(), metadata={"unit": "K"}),
                ("logg", pa.float64()),
                ("feh", pa.float64()),
            ]
        )
    )


@pytest.fixture(scope="session")
def stars() -> dict[str, np.ndarray]:
    return make_stars(400)


@pytest.fixture
def store(tmp_path: Path, stars: dict[str, np.ndarray]) -> Store:
    return make_database(tmp_path / "db", stars)
