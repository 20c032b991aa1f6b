"""A map of a modality's embeddings: UMAP of a sample, the others placed beside their neighbours.

UMAP: McInnes, Healy & Melville 2018 (arXiv:1802.03426), with neighbours from exact search among the embeddings. One
thread and a seed make it repeatable. Spectra outside the sample get the mean position of their nearest in the sample,
weighted by exp of the similarity: cheap, deterministic, and independent of the order.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from indexer.progress import Progress
from specdb.database import Database
from specdb.errors import DatabaseError, DependencyError, InputError, QueryError
from specdb.search.exact import exact_search
from specdb.store import Store

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["MapSettings", "embed_map", "fit_map", "place_beside"]

_BLOCK = 8192
#: Sharpness of the weights: a neighbour whose cosine is 0.05 less counts 1/e.
_SCALE = 0.05


@dataclass(frozen=True)
class MapSettings:
    """How a map is made.

    Attributes
    ----------
    sample : int
        Spectra that UMAP is fitted to.
    neighbours : int
    min_dist : float
        How close points may lie, of UMAP.
    seed : int

    Raises
    ------
    InputError
        For numbers that make no map.
    """

    sample: int = 50_000
    neighbours: int = 15
    min_dist: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sample < 10 or self.neighbours < 2:
            raise InputError(
                f"a map needs a sample of at least 10 and 2 neighbours, not {self.sample} and {self.neighbours}"
            )


def _umap() -> ModuleType:
    try:
        import umap
    except ImportError:
        raise DependencyError('maps of embeddings need umap-learn: pip install "specdb[ui]"') from None
    return umap


def fit_map(vectors: np.ndarray, settings: MapSettings) -> np.ndarray:
    """Lay out unit vectors in the plane.

    Parameters
    ----------
    vectors : ndarray (n, d), float32
    settings : MapSettings

    Returns
    -------
    ndarray (n, 2), float32

    Raises
    ------
    InputError
        For fewer than ten vectors.
    """
    if len(vectors) < 10:
        raise InputError(f"{len(vectors)} spectra are too few for a map; it needs ten")
    k = min(settings.neighbours, len(vectors) - 1)
    vectors = np.ascontiguousarray(vectors, np.float32)
    scores, rows = exact_search(vectors, vectors, k)
    distance = np.clip(1 - scores, 0, None).astype(np.float32)
    model = _umap().UMAP(
        n_neighbors=k,
        min_dist=settings.min_dist,
        metric="cosine",
        random_state=settings.seed,
        n_jobs=1,
        precomputed_knn=(rows.astype(np.int32), distance),
        # Spectral layouts of a graph in pieces are not repeatable; principal components are.
        init=_components(vectors),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "precomputed_knn")  # that it cannot place others, which we do ourselves
        return model.fit_transform(vectors).astype(np.float32)


def _components(vectors: np.ndarray) -> np.ndarray:
    """Return the two leading principal components, (n, 2), at the width that UMAP begins with."""
    centred = vectors - vectors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T.astype(np.float64) @ centred)
    axes = axes[:, -2:] * np.sign(axes[np.abs(axes[:, -2:]).argmax(axis=0), [-2, -1]])
    start = centred @ axes
    return (10 * start / max(float(np.abs(start).max()), 1e-9)).astype(np.float32)


def place_beside(vectors: np.ndarray, fitted: np.ndarray, positions: np.ndarray, k: int) -> np.ndarray:
    """Return positions (m, 2) of further vectors (m, d) beside those that have one (n, d), (n, 2)."""
    scores, rows = exact_search(fitted, np.ascontiguousarray(vectors, np.float32), min(k, len(fitted)))
    weight = np.exp((scores - scores[:, :1]) / _SCALE)
    weight /= weight.sum(axis=1, keepdims=True)
    return np.einsum("mk,mkd->md", weight, positions[rows]).astype(np.float32)


def embed_map(db: Database, modality: str, settings: MapSettings | None = None, progress: Progress | None = None) -> int:
    """Make ``maps/<encoder>/<modality>.parquet`` with ``spectrum_id``, ``x`` and ``y``, and return its number of rows.

    Memory holds the sample and one block; the rest is streamed.

    Raises
    ------
    QueryError
        For a modality that the database does not have.
    DatabaseError
        Where nothing has been embedded.
    InputError
        For fewer than ten spectra.
    DependencyError
        Without umap-learn.
    """
    settings = settings or MapSettings()
    store, encoder = db.store, db.store.default_encoder
    if modality not in db.modalities:
        raise QueryError(f"the database has no modality {modality!r}; it has {', '.join(db.modalities) or 'none'}")
    parts = store.embedding_parts(encoder, modality)
    if not parts:
        raise DatabaseError(f"{modality} has no embeddings by {encoder} yet; run `specdb embed`")
    _umap()
    live = store.ids(modality)
    chosen = np.sort(np.random.default_rng(settings.seed).permutation(np.sort(live))[: settings.sample])
    if progress:
        progress.start("fitting the map", None)
    held = [
        (ids[keep], vectors[keep])
        for ids, vectors in store.vectors(encoder, modality)
        if (keep := np.isin(ids, chosen)).any()
    ]
    ids = np.concatenate([i for i, _ in held])
    sample = np.concatenate([v for _, v in held])
    order = np.argsort(ids)  # the layout does not depend on the order of files
    ids, sample = ids[order], np.ascontiguousarray(sample[order])
    positions = fit_map(sample, settings)
    if progress:
        progress.end()
        progress.start("placing", len(live))
    provenance = {
        "encoder": encoder,
        "weight_hash": store.provenance(parts[0]).get("weight_hash"),
        "modality": modality,
        "method": "umap",
        **asdict(settings),
        "sample": len(ids),
    }
    schema = pa.schema(
        [
            pa.field("spectrum_id", pa.int64()),
            pa.field("x", pa.float32(), metadata={"description": "place on the map of embeddings"}),
            pa.field("y", pa.float32(), metadata={"description": "place on the map of embeddings"}),
        ]
    )
    batches = _placed(store, modality, live, ids, sample, positions, settings, progress)
    reader = pa.RecordBatchReader.from_batches(
        schema, (pa.record_batch([pa.array(i), pa.array(p[:, 0]), pa.array(p[:, 1])], schema=schema) for i, p in batches)
    )
    with store.writing() as writer:
        count = writer.put(f"maps/{encoder}/{modality}.parquet", reader, provenance)
    if progress:
        progress.end()
    return count


def _placed(
    store: Store,
    modality: str,
    live: np.ndarray,
    fitted_ids: np.ndarray,
    fitted: np.ndarray,
    positions: np.ndarray,
    settings: MapSettings,
    progress: Progress | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ids and positions of all spectra, block by block."""
    live = np.sort(live)
    for all_ids, all_vectors in store.vectors(store.default_encoder, modality):
        for first in range(0, len(all_ids), _BLOCK):
            ids, vectors = all_ids[first : first + _BLOCK], all_vectors[first : first + _BLOCK]
            here = np.isin(ids, live)
            ids, vectors = ids[here], vectors[here]
            if not len(ids):
                continue
            at = np.minimum(np.searchsorted(fitted_ids, ids), len(fitted_ids) - 1)
            known = fitted_ids[at] == ids
            place = positions[at].copy()
            if not known.all():
                place[~known] = place_beside(vectors[~known], fitted, positions, settings.neighbours)
            if progress:
                progress.advance(len(ids))
            yield ids, place
