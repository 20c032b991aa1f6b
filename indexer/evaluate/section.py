"""What a section of an evaluation is made from, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.evaluate.pairs import EVALUATION_SEED, REFERENCE_SEED, PairSet, simulated_pairs
from indexer.evaluate.real import RealData
from specdb.encoders import Encoder
from specdb.search.error_model import ErrorModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Context", "EvaluationSettings", "Run", "Section", "Skip", "markdown_table"]


@dataclass(frozen=True)
class EvaluationSettings:
    """How large an evaluation is.

    Attributes
    ----------
    pairs : int
        Simulated pairs that neither the encoder nor the baselines have seen.
    reference : int
        Other simulated pairs: what baselines are fitted to and neighbours are taken from.
    neighbours : int
        For labels, and for translation by neighbours.
    anomaly_stars : int
        Simulated pairs in which anomaly scores look for planted objects.
    seed : int
    """

    pairs: int = 10_000
    reference: int = 5_000
    neighbours: int = 10
    anomaly_stars: int = 2_500
    seed: int = 0


@dataclass(frozen=True)
class Section:
    """Figures of merit of one kind.

    Attributes
    ----------
    name, title : str
    table : list of dict of str to str
        Rows with the same keys, ready to print.
    text : list of str
        Paragraphs: what was measured and on what.
    metrics : dict
        The numbers, for JSON.
    figures : dict of str to Figure
    """

    name: str
    title: str
    table: list[dict[str, str]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Figure] = field(default_factory=dict)

    def to_markdown(self) -> str:
        """Return title, table and text."""
        return "\n\n".join([f"## {self.title}", *([markdown_table(self.table)] if self.table else []), *self.text])


class Skip(Exception):
    """Raised by a section for which data or encoder have nothing; the message says what is missing."""


@dataclass(frozen=True)
class Context:
    """What sections may ask for; costly things are made when first asked for and kept.

    Attributes
    ----------
    encoder : Encoder
        The one that is judged.
    beside : dict of str to Encoder
        Others to show beside it, for instance one that was only pre-trained.
    real : RealData
    errors : dict of modality to ErrorModel
        Of translation; empty where the encoder has not been calibrated.
    settings : EvaluationSettings
    device : str
    location : str
        Name or folder that the judged encoder was loaded from; empty: its name.
    db : Path or None
        Database whose unusual objects are looked for.
    unusual : Path or None
        CSV that says which they are; by default the survey's classes and the files' names say so.
    """

    encoder: Encoder
    beside: dict[str, Encoder]
    real: RealData
    errors: dict[str, ErrorModel]
    settings: EvaluationSettings
    device: str = "cpu"
    location: str = ""
    db: Path | None = None
    unusual: Path | None = None

    @property
    def encoders(self) -> dict[str, Encoder]:
        """The judged encoder first, then those beside it, by the name they are shown under."""
        return {self.encoder.name: self.encoder} | self.beside

    @cached_property
    def pairs(self) -> PairSet:
        """Simulated held-out pairs."""
        return simulated_pairs(self.settings.pairs, EVALUATION_SEED + self.settings.seed)

    @cached_property
    def reference(self) -> PairSet:
        """Simulated pairs for baselines and neighbours."""
        return simulated_pairs(self.settings.reference, REFERENCE_SEED + self.settings.seed)

    def shared(self, encoder: Encoder, flux: np.ndarray, modality: str) -> np.ndarray:
        """Return the shared embeddings (n, d) of prepared spectra as the encoder gives them."""
        return encoder.encode(flux, modality, device=self.device, normalise=False)["shared"]

    @cached_property
    def pair_embeddings(self) -> dict[str, np.ndarray]:
        """Shared embeddings of `pairs` by modality, not normalised."""
        return {m: self.shared(self.encoder, flux, m) for m, flux in self.pairs.flux.items()}

    @cached_property
    def reference_embeddings(self) -> dict[str, np.ndarray]:
        """Shared embeddings of `reference` by modality, not normalised."""
        return {m: self.shared(self.encoder, flux, m) for m, flux in self.reference.flux.items()}

    @property
    def aligned(self) -> bool:
        """Whether the encoder has both modalities in one space."""
        return {"lamost_lrs", "gaia_xp"} <= set(self.encoder.modalities)


#: A section: it looks at the context and returns figures, or raises `Skip`.
Run = Callable[[Context], Section]


def markdown_table(rows: list[dict[str, str]]) -> str:
    """Return rows with equal keys as a Markdown table."""
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row[name] for name in head) + " |" for row in rows])
