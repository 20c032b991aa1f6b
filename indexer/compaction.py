"""`compact`: deleted spectra leave spectra, embeddings and indices for good."""

from __future__ import annotations

import shutil
from pathlib import Path

from indexer.indexing import IndexSettings, update_index
from specdb.errors import DatabaseError
from specdb.search import IndexCard
from specdb.store import Compacted, Store, Writer, compact_parts

__all__ = ["compact"]


def compact(db: str | Path) -> dict[str, Compacted]:
    """Take deleted spectra out of the files of a database, and out of its indices.

    Searches and readers go on meanwhile. Killed at any moment nothing is lost, and the same call goes on.

    Parameters
    ----------
    db : path-like

    Returns
    -------
    dict of str to Compacted
        What was done to each modality.

    Raises
    ------
    DatabaseError, LockError, RecallError
        Each saying what to do; everything committed before stays.
    """
    store = Store.open(Path(db))
    done = {}
    with store.writing() as writer:
        for modality in store.modalities():
            encoders = store.encoders(modality)
            done[modality] = compact_parts(writer, modality)
            for encoder in {*encoders, *_indexed(store, modality)}:
                _compact_index(writer, modality, encoder)
    return done


def _indexed(store: Store, modality: str) -> list[str]:
    names = [name.split("/") for name, _ in store.manifest().under("index")]
    return [name[1] for name in names if name[2] == modality]


def _compact_index(writer: Writer, modality: str, encoder: str) -> None:
    store, name = writer.store, f"index/{encoder}/{modality}/index.json"
    folder = store.index_folder(encoder, modality)
    if name not in store.manifest().files:
        return
    parts = store.embedding_parts(encoder, modality)
    if not parts:
        writer.forget([name])
        shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        made = IndexCard.read(folder).options
        settings = IndexSettings(made.kind, made.recall, made.on_shortfall, made.seed, made.memory_bytes)
    except DatabaseError:
        settings = IndexSettings()  # a damaged index is built again anyway
    update_index(writer, modality, encoder, store.provenance(parts[0])["weight_hash"], settings)
