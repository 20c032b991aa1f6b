"""`build-index`: from a survey's files to a searchable database, in one resumable call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.embedding import EmbeddingBuffer, EmbeddingSettings, embed_missing, require_compatible
from indexer.indexing import IndexReport, IndexSettings, update_index
from indexer.ingest import IngestReport, IngestSettings, ingest
from indexer.progress import Progress
from specdb.encoders import Encoder, default_encoder_name, encoder_folder, list_encoders, load_card, load_encoder
from specdb.spectra import Modality, expand_sources, modality_for_survey
from specdb.store import Store

__all__ = ["BuildReport", "build_index", "embed_survey", "index_survey", "ingest_survey"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildReport:
    """What `build_index` did: the count of what went in, and the index that came out (None if nothing was accepted)."""

    ingest: IngestReport
    index: IndexReport | None


def build_index(
    db: str | Path,
    survey: str,
    inputs: Sequence[str | Path] | str | Path,
    *,
    encoder: str | None = None,
    ingest_settings: IngestSettings | None = None,
    embedding: EmbeddingSettings | None = None,
    index: IndexSettings | None = None,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
) -> BuildReport:
    """Read, prepare, embed and index a survey's files; run it again to resume, or to add files.

    Parameters
    ----------
    db : path-like
        Database folder; made when it does not exist.
    survey : str
        ``lamost``, ``gaia-xp``, ``sdss`` or ``desi``.
    inputs : sequence of path-like
        Files, folders, globs, tar archives, ``@lists`` of paths.
    encoder : str, optional
        Named encoder or model folder; by default the database's own.
    ingest_settings, embedding, index : optional
        How each stage works.
    progress : Progress, optional
    announce : callable, optional
        Told before an index is built what it is going to cost.

    Returns
    -------
    BuildReport

    Raises
    ------
    InputError, DatabaseError, LockError, ProvenanceError, RecallError
        Each saying what to do; everything committed before stays.
    """
    modality = modality_for_survey(survey)
    expand_sources(inputs)  # what does not exist is said before a database is made for it
    store = _open_or_create(Path(db), encoder)
    model = load_encoder(encoder or store.encoder_location)
    buffer = EmbeddingBuffer(model, modality, embedding or EmbeddingSettings())
    _caution(model, modality)
    with store.writing() as writer:
        require_compatible(writer, buffer)
        report = ingest(writer, modality, inputs, settings=ingest_settings, buffer=buffer, progress=progress)
        built = None
        if store.spectra_parts(modality.name):
            built = update_index(writer, modality.name, model.name, model.weight_hash, index, announce=announce)
    return BuildReport(report, built)


def ingest_survey(
    db: str | Path,
    survey: str,
    inputs: Sequence[str | Path] | str | Path,
    *,
    settings: IngestSettings | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Read and prepare a survey's files without embedding them; the first stage of `build_index`."""
    modality = modality_for_survey(survey)
    expand_sources(inputs)
    store = _open_or_create(Path(db), None)
    with store.writing() as writer:
        return ingest(writer, modality, inputs, settings=settings, progress=progress)


def embed_survey(
    db: str | Path,
    survey: str,
    *,
    encoder: str | None = None,
    settings: EmbeddingSettings | None = None,
    progress: Progress | None = None,
) -> int:
    """Embed what is ingested and not embedded yet; the second stage. Returns the number of spectra embedded."""
    store = Store.open(Path(db))
    model = load_encoder(encoder or store.encoder_location)
    buffer = EmbeddingBuffer(model, modality_for_survey(survey), settings or EmbeddingSettings())
    _caution(model, buffer.modality)
    with store.writing() as writer:
        return embed_missing(writer, buffer, progress)


def index_survey(
    db: str | Path,
    survey: str,
    *,
    encoder: str | None = None,
    settings: IndexSettings | None = None,
    rebuild: bool = False,
    announce: Callable[[str], None] | None = None,
) -> IndexReport:
    """Build or extend the index over stored embeddings; the third stage."""
    store = Store.open(Path(db))
    model = load_encoder(encoder or store.encoder_location)
    name = modality_for_survey(survey).name
    with store.writing() as writer:
        return update_index(writer, name, model.name, model.weight_hash, settings, rebuild, announce)


def _caution(encoder: Encoder, modality: Modality) -> None:
    """Say it once where an encoder meets an instrument that it was not trained on."""
    if modality.name in encoder.served and modality.name not in encoder.modalities:
        logger.warning(
            "encoder %s was trained on %s, not on %s, whose spectra are prepared to look alike: differences between the "
            "instruments that the preparation leaves are in the embeddings",
            encoder.name,
            encoder.input_of(modality.name),
            modality.name,
        )


def _open_or_create(root: Path, encoder: str | None) -> Store:
    """Open a database, or create one whose default encoder is the given one."""
    if (root / "specdb.toml").exists():
        return Store.open(root)
    folder = encoder_folder(encoder or default_encoder_name)
    card = load_card(folder)
    registered = any(entry.folder == folder for entry in list_encoders())
    return Store.create(root, card.name, card.name if registered else str(folder.resolve()))
