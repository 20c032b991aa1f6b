"""Filling a database: survey files -> prepared spectra -> embeddings -> index."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexer.build import BuildReport, build_index, embed_survey, index_survey, ingest_survey
    from indexer.compaction import compact
    from indexer.embedding import EmbeddingSettings
    from indexer.indexing import IndexReport, IndexSettings
    from indexer.ingest import IngestReport, IngestSettings

__all__ = [
    "BuildReport",
    "EmbeddingSettings",
    "IndexReport",
    "IndexSettings",
    "IngestReport",
    "IngestSettings",
    "build_index",
    "compact",
    "embed_survey",
    "index_survey",
    "ingest_survey",
]

# Reader processes import this package too; they must not load FAISS and DuckDB for it.
_HOME = {
    "BuildReport": "build",
    "EmbeddingSettings": "embedding",
    "IndexReport": "indexing",
    "IndexSettings": "indexing",
    "IngestReport": "ingest",
    "IngestSettings": "ingest",
    "build_index": "build",
    "compact": "compaction",
    "embed_survey": "build",
    "index_survey": "build",
    "ingest_survey": "build",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
