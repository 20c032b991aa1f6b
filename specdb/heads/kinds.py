"""What every kind of head model takes and gives, and the registry of them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from specdb.errors import InputError

__all__ = ["Alone", "Fitted", "HeadData", "HeadModel", "Report", "head_kinds", "kind_class"]

#: Receives the step and the mean validation error.
Report = Callable[[int, float], None]

#: Kind -> module and class; imported when used, so that torch is loaded only for what needs it.
_KINDS = {
    "mlp": ("specdb.heads.ensemble", "MlpEnsemble"),
    "posterior": ("specdb.heads.posterior", "PosteriorEnsemble"),
    "ridge": ("specdb.heads.baselines", "Ridge"),
    "knn": ("specdb.heads.baselines", "Neighbours"),
}

#: Kinds that are not fitted on their own: made from another head by `specdb transfer`, or imported.
_DERIVED = {
    "residual": ("specdb.heads.transfer.residual", "ResidualModel"),
    "published": ("specdb.heads.published", "PublishedMlp"),
}


@dataclass(frozen=True)
class HeadData:
    """Scaled inputs and labels to fit a head on.

    Attributes
    ----------
    x : ndarray (n, d), float32
    y : ndarray (n, L), float32
        Labels of zero mean and unit scatter; NaN where a star has none.
    y_err : ndarray (n, L), float32
        Errors of the labels in the same units; 0 or NaN where none are stated.
    fold : ndarray (n,), int
        0 to the number of folds - 1; all spectra of a star have the same.
    x_err : ndarray (n, d), float32, or None
        Errors of the inputs, where the inputs are pixels.
    """

    x: np.ndarray
    y: np.ndarray
    y_err: np.ndarray
    fold: np.ndarray
    x_err: np.ndarray | None = None


@dataclass(frozen=True)
class Alone:
    """Out-of-fold predictions by single members of an ensemble.

    Attributes
    ----------
    mean, sigma : ndarray (r, n, L), float32
        By each of the r members that have not seen a star.
    members : int
        Of the whole ensemble.
    """

    mean: np.ndarray
    sigma: np.ndarray
    members: int


@dataclass(frozen=True)
class Fitted:
    """A fitted model with its out-of-fold predictions, which no star's own label has touched.

    Attributes
    ----------
    model : HeadModel
    mean, sigma : ndarray (n, L), float32
        Of the training stars, in scaled labels.
    alone : Alone, optional
        The same predictions by one member at a time, of an ensemble: they tell what more members will do.
    draw : callable, optional
        Of a joint posterior: rows (r,) of the training stars -> draws (r, s, L), by members that had not seen them.
    """

    model: HeadModel
    mean: np.ndarray
    sigma: np.ndarray
    alone: Alone | None = None
    draw: Callable[[np.ndarray], np.ndarray] | None = None


class HeadModel(Protocol):
    """A model from scaled inputs to scaled labels."""

    kind: ClassVar[str]
    #: Frozen dataclass of the kind's settings.
    Settings: ClassVar[Any]

    @classmethod
    def fit(cls, data: HeadData, settings: Any, seed: int, report: Report | None = None) -> Fitted:
        """Fit to scaled data."""
        ...

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return means and sigmas (n, L), float32, of inputs (n, d), float32."""
        ...

    def tensors(self) -> dict[str, np.ndarray]:
        """Return everything that was fitted, as named arrays."""
        ...

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: Any) -> Any:
        """Rebuild from `tensors`."""
        ...


def head_kinds() -> list[str]:
    """Return the names of all kinds of heads that can be trained."""
    return list(_KINDS)


def kind_class(name: str) -> type[HeadModel]:
    """Return the class of a kind, or raise `InputError` naming the known ones."""
    known = _KINDS | _DERIVED
    if name not in known:
        raise InputError(f"no kind of head is called {name!r}; known: {', '.join(_KINDS)}")
    module, attribute = known[name]
    return getattr(importlib.import_module(module), attribute)
