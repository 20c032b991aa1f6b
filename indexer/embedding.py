"""From prepared flux to stored embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.prefetch import prefetch
from indexer.progress import NoProgress, Progress
from specdb.encoders import Encoder
from specdb.errors import InputError, ProvenanceError
from specdb.spectra import Modality, get_modality
from specdb.store import Store, Writer, embedding_table, matrix, read_table

__all__ = ["EmbeddingBuffer", "EmbeddingSettings", "embed_missing", "require_compatible"]

#: Spectra between two reports of progress.
_STEP = 256


@dataclass(frozen=True)
class EmbeddingSettings:
    """How an encoder is run.

    Attributes
    ----------
    device : str
        ``cpu``, ``cuda``, ``cuda:1``; not part of the provenance, since every device gives the same answer.
    precision : str
        ``float32`` or ``bfloat16``.
    batch_size : int or None
        Spectra per forward pass; None lets the encoder choose.
    """

    device: str = "cpu"
    precision: str = "float32"
    batch_size: int | None = None


@dataclass
class EmbeddingBuffer:
    """Encodes the flux of one part as it comes.

    An encoder gives a spectrum the same embedding to the last bit whatever comes with it, so how a part is cut into calls
    does not matter.
    """

    encoder: Encoder
    modality: Modality
    settings: EmbeddingSettings
    _done: list[dict[str, np.ndarray]] = field(default_factory=list)

    def add(self, flux: np.ndarray) -> None:
        """Encode prepared flux (n, n_grid) float32."""
        s = self.settings
        vectors = self.encoder.encode(
            flux, self.modality.name, batch_size=s.batch_size, device=s.device, precision=s.precision, normalise=False
        )
        self._done.append(vectors)

    def finish(self, ids: np.ndarray) -> pa.Table:
        """Return the embeddings of all rows added, in order, as rows of the `embeddings` table, and start anew."""
        vectors = {name: np.concatenate([done[name] for done in self._done]) for name in self._done[0]}
        self._done = []
        return _unit_table(ids, vectors, self.encoder)

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
    if modality.name not in encoder.served:
        raise InputError(
            f"encoder {encoder.name} does not encode {modality.name}, only {', '.join(encoder.served)}; "
            f"`specdb ingest {modality.survey}` stores the spectra, embedding them needs another --encoder"
        )
    like = get_modality(modality.encoded_as) if modality.name not in encoder.modalities else modality
    trained = encoder.preparation[like.name]
    actual = (like.preparation.name, like.preparation.version)
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
        for start in range(0, len(ids), _STEP):
            buffer.add(flux[start : start + _STEP])
            progress.advance(len(flux[start : start + _STEP]))
        table = buffer.finish(ids)
        writer.commit_embeddings(buffer.encoder.name, modality.name, part, table, buffer.provenance())
        count += len(ids)
    progress.end()
    return count


def _read_parts(store: Store, parts: list[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for name in parts:
        table = read_table(store.root / name, ["spectrum_id", "flux"])
        yield name.rsplit("/", 1)[1], table["spectrum_id"].to_numpy(), matrix(table["flux"])
