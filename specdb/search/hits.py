"""The answer to a query: ranked rows with their metadata and a statement of how good the answer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specdb.rows import Rows
from specdb.search.card import IndexCard

__all__ = ["Hits"]


@dataclass(frozen=True, repr=False)
class Hits(Rows):
    """Nearest spectra of one query.

    Attributes
    ----------
    rows : pyarrow.Table
        ``rank`` (from 1), ``score`` (cosine similarity, at most 1), ``spectrum_id``, then the columns of the `spectra` table
        but flux and ivar, best first.
    query : str
        What was asked for: an id or a file name.
    modality : str
        Modality of the answers.
    encoder : str
        Encoder of both sides.
    index : IndexCard
        The index that answered; its `certificate` says how often such answers are the exact ones.
    """

    query: str
    modality: str
    encoder: str
    index: IndexCard

    @property
    def ids(self) -> np.ndarray:
        """spectrum_id of the hits, int64, best first."""
        return self.rows["spectrum_id"].to_numpy()

    @property
    def scores(self) -> np.ndarray:
        """Cosine similarities, float32, descending."""
        return self.rows["score"].to_numpy()

    @property
    def meta(self) -> dict[str, Any]:
        """Query, modality, encoder and measured recall."""
        recall = str(self.index.certificate)
        return {"query": self.query, "modality": self.modality, "encoder": self.encoder, "recall": recall}
