"""Filling a database: survey files -> prepared spectra -> embeddings -> index."""

from indexer.build import BuildReport, build_index, embed_survey, index_survey, ingest_survey
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
    "embed_survey",
    "index_survey",
    "ingest_survey",
]
