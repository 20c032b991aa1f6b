"""What is known about a head, what it predicts, and the stars that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specdb.heads.config import HeadConfig

__all__ = ["HeadCard", "LabelFacts", "Prediction", "Training"]


@dataclass(frozen=True)
class LabelFacts:
    """What is known about one label.

    Attributes
    ----------
    name, unit, description : str
    n : int
        Training spectra that have it.
    """

    name: str
    unit: str = ""
    description: str = ""
    n: int = 0


@dataclass(frozen=True)
class HeadCard:
    """Where a head came from and what it may be used for.

    Attributes
    ----------
    name : str
    modality : str
        Of the spectra that it reads.
    encoder, weight_hash : str
        That made the embeddings; empty where it reads pixels.
    preparation : dict
        Name and version of the preparation, where it reads pixels.
    labels : tuple of LabelFacts
    config : HeadConfig
    data, metrics : dict
        Where the labels came from; figures on stars left out.
    """

    name: str
    modality: str
    encoder: str
    weight_hash: str
    labels: tuple[LabelFacts, ...]
    config: HeadConfig
    preparation: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """Labels of n spectra.

    Attributes
    ----------
    mean, sigma : ndarray (n, L), float64
        In the labels' units; NaN where the input is not finite.
    flags : ndarray (n,), int32
        Bits of `Flag`.
    distance : ndarray (n,), float32
        From the training cloud; above 1 is outside.
    quantiles : ndarray (n, L, q), float64
        At the levels asked for.
    """

    mean: np.ndarray
    sigma: np.ndarray
    flags: np.ndarray
    distance: np.ndarray
    quantiles: np.ndarray


@dataclass(frozen=True)
class Training:
    """The stars that a head was trained on, with predictions that their own labels have not touched.

    Attributes
    ----------
    ids : ndarray (n,), int64
        spectrum_id.
    y, mean, sigma : ndarray (n, L), float32
        Labels (NaN where there is none) and out-of-fold predictions.
    pit : ndarray (n, L), float32
        Share of each out-of-fold distribution that lies below the label; NaN where there is none.
    """

    ids: np.ndarray
    y: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray
    pit: np.ndarray
