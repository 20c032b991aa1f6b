"""The answer to a query: ranked rows with their metadata and a statement of how good the answer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from specdb.rows import Rows
from specdb.search.card import IndexCard
from specdb.search.planner import Plan

__all__ = ["Hits", "JointHits"]


@dataclass(frozen=True, repr=False)
class Hits(Rows):
    """Nearest spectra of one query.

    Attributes
    ----------
    rows : pyarrow.Table
        ``rank`` (from 1), ``score`` (cosine similarity, at most 1), ``spectrum_id``, then the columns of the `spectra` table
        but flux and ivar (these too where asked for), then labels as ``<catalogue>_<column>``; best first.
    query : str
        What was asked for: an id or a file name.
    modality : str
        Modality of the answers.
    encoder : str
        Encoder of both sides.
    index : IndexCard
        The index that answered; its `certificate` says how often such answers are the exact ones.
    plan : Plan
        How the answer was found, and what it is worth.
    """

    query: str
    modality: str
    encoder: str
    index: IndexCard
    plan: Plan

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
        """Query, modality, encoder, measured recall and plan."""
        facts = {"query": self.query, "modality": self.modality, "encoder": self.encoder}
        return facts | {"recall": str(self.index.certificate), "plan": str(self.plan)}


@dataclass(frozen=True, repr=False)
class JointHits(Rows):
    """Answers to one query from several modalities.

    Attributes
    ----------
    rows : pyarrow.Table
        Not fused: the rows of the parts one after the other, each ranked for itself, with the columns that all have.
        Fused: one row per star; see `specdb.search.fusion.fuse_hits`.
    query : str
    parts : dict of str to Hits
        By modality.
    fusion : str or None
        ``rrf``, ``score``, or None.
    """

    query: str
    parts: dict[str, Hits]
    fusion: str | None

    @property
    def meta(self) -> dict[str, Any]:
        """Query, fusion, and what each part says."""
        return {"query": self.query, "fusion": self.fusion or "none"} | {m: str(h.plan) for m, h in self.parts.items()}
