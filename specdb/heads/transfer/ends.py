"""The two ends that other strategies are measured against: nothing new is learnt, and everything is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from specdb.heads.config import HeadConfig
from specdb.heads.head import Head
from specdb.heads.kinds import Fitted, HeadData, Report, kind_class

__all__ = ["Scratch", "ScratchSettings", "ZeroShot", "ZeroShotSettings"]


@dataclass(frozen=True)
class ZeroShotSettings:
    """There is nothing to set."""


class ZeroShot:
    """The source head as it is; target labels serve only to calibrate its sigmas."""

    name: ClassVar[str] = "zero-shot"
    Settings: ClassVar[Any] = ZeroShotSettings
    keeps_scales: ClassVar[bool] = True

    @staticmethod
    def config(source: HeadConfig, settings: ZeroShotSettings) -> HeadConfig:
        """See `Strategy.config`."""
        return source

    @staticmethod
    def fit(source: Head, data: HeadData, config: HeadConfig, settings: Any, report: Report | None = None) -> Fitted:
        """See `Strategy.fit`: every target star is one that the model has not seen."""
        mean, sigma = source.model.predict(data.x)
        return Fitted(source.model, mean, sigma)


@dataclass(frozen=True)
class ScratchSettings:
    """What differs from the source head's settings, of its kind."""

    changes: dict[str, Any] | None = None


class Scratch:
    """A head like the source's that has seen target stars only."""

    name: ClassVar[str] = "scratch"
    Settings: ClassVar[Any] = ScratchSettings
    keeps_scales: ClassVar[bool] = False

    @staticmethod
    def config(source: HeadConfig, settings: ScratchSettings) -> HeadConfig:
        """See `Strategy.config`."""
        return replace(source, settings=source.settings | (settings.changes or {}))

    @staticmethod
    def fit(source: Head, data: HeadData, config: HeadConfig, settings: Any, report: Report | None = None) -> Fitted:
        """See `Strategy.fit`."""
        return kind_class(config.kind).fit(data, config.resolved(), config.seed, report)
