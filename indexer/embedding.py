"""From prepared flux to stored embeddings, in batches whose borders do not depend on how the work was cut into runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.prefetch import prefetch
from indexer.progress import NoProgress, Progress
from specdb.encoders import Encoder
from specdb.errors import ProvenanceError
from specdb.spectra import Modality
from specdb.store import Store, Writer, embedding_table, matrix, read_table

__all__ = ["EmbeddingBuffer", "EmbeddingSettings", "embed_missing", "require_compatible"]


@dataclass(frozen=True)
class EmbeddingSettings:
    """How an encoder is run.

    Attributes
    ----------
    device : str
        ``cpu``, ``cuda``, ``cuda:1``; not part of the provenance, since every device gives the same answer.
    precision : str
        ``float32`` or ``bfloat16``.
    batch_size : int
        Spectra per forward pass. Batches start at multiples of it within a part, so that a spectrum meets the same
        neighbours, hence the same rounding, whether a run was interrupted or not.
    """

    device: str = "cpu"
    precision: str = "float32"
    batch_size: int = 256


@dataclass
class EmbeddingBuffer:
    """Collects the flux of one part and encodes it as soon as a batch is full."""

    encoder: Encoder
    modality: Modality
    settings: EmbeddingSettings
    _waiting: list[np.ndarray] = field(default_factory=list)
    _done: list[dict[str, np.ndarray]] = field(default_factory=list)

    def add(self, flux: np.ndarray) -> None:
        """Append prepared flux (n, n_grid) float32, encoding what fills whole batches."""
        self._waiting.append(flux)
        waiting = sum(map(len, self._waiting))
        whole = waiting - waiting % self.settings.batch_size
        if whole:
            stacked = np.concatenate(self._waiting)
            self._encode(stacked[:whole])
            self._waiting = [stacked[whole:]]

    def finish(self, ids: np.ndarray) -> pa.Table:
        """Encode the rest and return the embeddings of all rows added, in order, as rows of the `embeddings` table."""
        rest = np.concatenate(self._waiting) if self._waiting else np.empty((0, len(self.modality.wavelength)), np.float32)
        if len(rest) or not self._done:
            self._encode(rest)
        vectors = {name: np.concatenate([done[name] for done in self._done]) for name in self._done[0]}
        self._waiting, self._done = [], []
        return _unit_table(ids, vectors, self.encoder)

    def _encode(self, flux: np.ndarray) -> None:
        s = self.settings
        self._done.append(
            self.encoder.encode(
                flux, self.modality.name, batch_size=s.batch_size, device=s.device, precision=s.precision, normalise=False
            )
        )

    def provenance(self) -> dict[str, Any]:
        """Return what made these embeddings."""
        return {"kind": "embeddings", "modality": self.modality.name, "normalised": True, **self.identity()}

    def identity(self) -> dict[str, Any]:
        """Return what must be equal for embeddings to be comparable."""
        return {
            "encoder": self.encoder.name,
            "weight_hash": self.encoder.weight_hash,
            "precision": self.settings.precision,
            "preparation": self.modality.preparation.name,
            "preparation_version": self.modality.preparation.version,
        }


def _unit_table(ids: np.ndarray, vectors: dict[str, np.ndarray], encoder: Encoder) -> pa.Table:
    # The metric is the cosine, so `shared` is stored at unit length; parameter heads want the raw vector back.
    norm = np.linalg.norm(vectors["shared"], axis=1)
    unit = vectors | {"shared": vectors["shared"] / np.maximum(norm, np.finfo(np.float32).tiny)[:, None]}
    metadata = {"metric": "cosine", "shared": "unit length", "encoder": encoder.name, "weight_hash": encoder.weight_hash}
    return embedding_table(ids, unit, metadata).append_column("shared_norm", pa.array(norm, pa.float32()))


def require_compatible(writer: Writer, buffer: EmbeddingBuffer) -> None:
    """Refuse an encoder that does not fit the preparation, or the embeddings already stored under its name."""
    modality, encoder = buffer.modality, buffer.encoder
    trained = encoder.preparation[modality.name]
    actual = (modality.preparation.name, modality.preparation.version)
    if tuple(trained) != actual:
        raise ProvenanceError(
            f"encoder {encoder.name} was trained on preparation {trained[0]} version {trained[1]}, "
            f"{modality.name} is prepared with {actual[0]} version {actual[1]}; use an encoder made for it"
        )
    stored = writer.store.embedding_parts(encoder.name, modality.name)
    writer.require_same(stored, buffer.identity(), f"{modality.name} embeddings by {encoder.name}")


def embed_missing(writer: Writer, buffer: EmbeddingBuffer, progress: Progress | None = None) -> int:
    """Embed every committed `spectra` part that has no embeddings by this encoder yet; return the number of spectra."""
    progress = progress or NoProgress()
    require_compatible(writer, buffer)
    store, modality = writer.store, buffer.modality
    have = {name.rsplit("/", 1)[1] for name in store.embedding_parts(buffer.encoder.name, modality.name)}
    missing = [name for name in store.spectra_parts(modality.name) if name.rsplit("/", 1)[1] not in have]
    manifest = store.manifest()
    progress.start("embed", sum(manifest.files[name].rows for name in missing))
    count = 0
    for part, ids, flux in prefetch(_read_parts(store, missing), depth=2):
        for rows in range(0, len(ids), buffer.settings.batch_size):
            buffer.add(flux[rows : rows + buffer.settings.batch_size])
            progress.advance(len(flux[rows : rows + buffer.settings.batch_size]))
        table = buffer.finish(ids)
        writer.commit_embeddings(buffer.encoder.name, modality.name, part, table, buffer.provenance())
        count += len(ids)
    progress.end()
    return count


def _read_parts(store: Store, parts: list[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for name in parts:
        table = read_table(store.root / name, ["spectrum_id", "flux"])
        yield name.rsplit("/", 1)[1], table["spectrum_id"].to_numpy(), matrix(table["flux"])
