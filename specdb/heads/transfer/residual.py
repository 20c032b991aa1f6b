"""The source head stays as it is; a small network learns what it gets wrong on the target."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from specdb.errors import InputError
from specdb.heads.config import HeadConfig
from specdb.heads.ensemble import EnsembleSettings, MlpEnsemble
from specdb.heads.head import Head
from specdb.heads.kinds import Alone, Fitted, HeadData, HeadModel, Report, kind_class

__all__ = ["Residual", "ResidualModel", "ResidualModelSettings", "ResidualSettings"]


@dataclass(frozen=True)
class ResidualSettings:
    """Of the network that corrects; see `specdb.heads.ensemble.EnsembleSettings`."""

    hidden: tuple[int, ...] = (64,)
    dropout: float = 0.2
    members_per_fold: int = 2
    steps: int = 600
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.1


@dataclass(frozen=True)
class ResidualModelSettings:
    """What a stored residual head needs to be rebuilt: kind and settings of its source, settings of its correction."""

    source_kind: str = "mlp"
    source: dict[str, Any] = field(default_factory=dict)
    correction: dict[str, Any] = field(default_factory=dict)

    def correction_settings(self) -> EnsembleSettings:
        """Return the correction's settings."""
        return HeadConfig(settings=self.correction).resolved()


class ResidualModel:
    """Prediction of a frozen source model plus a correction, of which only the share that helps stars left out is added.

    Parameters
    ----------
    source : HeadModel
    correction : MlpEnsemble
        Reads the inputs and what the source predicts.
    offset, scale, share : ndarray (L,), float32
        Median and scatter of the source's errors on the target, and the share of the correction that is added.
    """

    kind: ClassVar[str] = "residual"
    Settings: ClassVar[Any] = ResidualModelSettings

    def __init__(
        self, source: HeadModel, correction: MlpEnsemble, offset: np.ndarray, scale: np.ndarray, share: np.ndarray
    ) -> None:
        self.source, self.correction = source, correction
        self.offset, self.scale, self.share = offset, scale, share

    @classmethod
    def fit(cls, data: HeadData, settings: ResidualModelSettings, seed: int, report: Report | None = None) -> Fitted:
        """Refuse: a residual head needs a source head."""
        raise InputError("a residual head corrects another head; make it with `specdb transfer HEAD --strategy residual`")

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `HeadModel.predict`."""
        base, _ = self.source.predict(x)
        return self._corrected(base, *self.correction.predict(np.concatenate([x, base], axis=1)))

    def _corrected(self, base: np.ndarray, mean: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return base + self.offset + self.share * self.scale * mean, self.scale * sigma

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays of both models and the numbers that join them."""
        arrays = {f"source.{name}": value for name, value in self.source.tensors().items()}
        arrays |= {f"correction.{name}": value for name, value in self.correction.tensors().items()}
        return arrays | {"offset": self.offset, "scale": self.scale, "share": self.share}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray], settings: ResidualModelSettings) -> ResidualModel:
        """Rebuild from `tensors`."""
        below = {
            part: {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
            for part in ("source", "correction")
        }
        source = HeadConfig(kind=settings.source_kind, settings=settings.source)
        return cls(
            kind_class(source.kind).from_tensors(below["source"], source.resolved()),
            MlpEnsemble.from_tensors(below["correction"], settings.correction_settings()),
            *(tensors[name] for name in ("offset", "scale", "share")),
        )


class Residual:
    """A frozen source head of any kind and a small network that predicts its errors from the same inputs."""

    name: ClassVar[str] = "residual"
    Settings: ClassVar[Any] = ResidualSettings
    keeps_scales: ClassVar[bool] = True

    @staticmethod
    def config(source: HeadConfig, settings: ResidualSettings) -> HeadConfig:
        """See `Strategy.config`."""
        model = {"source_kind": source.kind, "source": source.settings, "correction": vars(settings)}
        return replace(source, kind="residual", settings=model)

    @staticmethod
    def fit(
        source: Head, data: HeadData, config: HeadConfig, settings: ResidualSettings, report: Report | None = None
    ) -> Fitted:
        """See `Strategy.fit`."""
        base, _ = source.model.predict(data.x)
        error = data.y - base
        offset = np.nanmedian(error, axis=0)
        scale = np.maximum(np.nanstd(error, axis=0), 1e-6)
        extended = HeadData(
            x=np.concatenate([data.x, base], axis=1),
            y=(error - offset) / scale,
            y_err=data.y_err / scale,
            fold=data.fold,
            x_err=None if data.x_err is None else np.concatenate([data.x_err, np.zeros_like(base)], axis=1),
        )
        fitted = MlpEnsemble.fit(extended, config.resolved().correction_settings(), config.seed, report)
        share = _share(fitted.mean, extended.y)
        model = ResidualModel(source.model, fitted.model, offset, scale, share)  # type: ignore[arg-type]
        mean, sigma = model._corrected(base, fitted.mean, fitted.sigma)
        assert fitted.alone is not None
        alone = Alone(*model._corrected(base, fitted.alone.mean, fitted.alone.sigma), fitted.alone.members)
        return Fitted(model, mean, sigma, alone)


def _share(correction: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Return the share (L,), 0 to 1, of out-of-fold corrections (n, L) that leaves the smallest squared error."""
    known = np.isfinite(error)
    product = (correction * np.where(known, error, 0)).sum(axis=0)
    power = (correction**2 * known).sum(axis=0)
    return np.clip(product / np.maximum(power, 1e-12), 0, 1).astype(np.float32)
