"""What a score is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np

from specdb.encoders import Encoder
from specdb.errors import SpecdbError

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["FittedScore", "Score", "Unavailable", "loaded_encoder"]

#: Turns a block of n rows into scores (n,), float64, higher for the more unusual; NaN where there is none.
FittedScore = Callable[["Block"], np.ndarray]


class Unavailable(Exception):
    """Raised by `Score.fit` where the database lacks what the score needs; the message says what."""


class Score(Protocol):
    """One way to tell how unusual a spectrum is."""

    @property
    def name(self) -> str:
        """Its column in the list."""
        ...

    @property
    def title(self) -> str:
        """What a high value says of a spectrum, in words."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Some of ``embedding``, ``spectra``, ``decoder``, ``pairs``, ``predictions``."""
        ...

    @property
    def votes(self) -> bool:
        """Whether it takes part in the combined score where no scores are named; docs/anomalies.md says why."""
        ...

    @property
    def replaces(self) -> tuple[str, ...]:
        """Names of scores that do not vote where this one does."""
        ...

    def fit(self, survey: Survey) -> FittedScore:
        """Learn what is ordinary in a survey; raises `Unavailable`."""
        ...


def loaded_encoder(survey: Survey) -> Encoder:
    """Return the encoder that made the embeddings; `Unavailable` where it is not installed here with the same weights."""
    try:
        return survey.db.encoder
    except SpecdbError as error:
        raise Unavailable(f"the encoder cannot be used: {error}") from error
