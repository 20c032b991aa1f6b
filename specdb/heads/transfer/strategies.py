"""What every transfer strategy takes and gives, and the registry of them.

The five are those that Zhao, Ting, Wyse et al. (arXiv 2602.15021) compare for LAMOST -> DESI.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar, Protocol

from specdb.errors import InputError
from specdb.heads.config import HeadConfig
from specdb.heads.head import Head
from specdb.heads.kinds import Fitted, HeadData, Report

__all__ = ["Strategy", "resolve", "strategy_class", "transfer_strategies"]

#: Strategy -> module and class; imported when used. The order is that of published tables.
_STRATEGIES = {
    "residual": ("specdb.heads.transfer.residual", "Residual"),
    "lora": ("specdb.heads.transfer.finetune", "Lora"),
    "full": ("specdb.heads.transfer.finetune", "Full"),
    "zero-shot": ("specdb.heads.transfer.ends", "ZeroShot"),
    "scratch": ("specdb.heads.transfer.ends", "Scratch"),
}


class Strategy(Protocol):
    """A way to make a head of a target survey from one of a source survey."""

    name: ClassVar[str]
    #: Frozen dataclass of the strategy's settings.
    Settings: ClassVar[Any]
    #: Whether inputs and labels are scaled as in the source head rather than by the target's own stars.
    keeps_scales: ClassVar[bool]

    @staticmethod
    def config(source: HeadConfig, settings: Any) -> HeadConfig:
        """Return the configuration of the head that comes out."""
        ...

    @staticmethod
    def fit(source: Head, data: HeadData, config: HeadConfig, settings: Any, report: Report | None = None) -> Fitted:
        """Fit to scaled target stars and predict each by what has not seen it; see `HeadModel.fit`."""
        ...


def transfer_strategies() -> list[str]:
    """Return the names of all strategies."""
    return list(_STRATEGIES)


def strategy_class(name: str) -> type[Strategy]:
    """Return the class of a strategy, or raise `InputError` naming the known ones."""
    if name not in _STRATEGIES:
        raise InputError(f"no transfer strategy is called {name!r}; known: {', '.join(_STRATEGIES)}")
    module, attribute = _STRATEGIES[name]
    return getattr(importlib.import_module(module), attribute)


def resolve(name: str, settings: dict[str, Any]) -> Any:
    """Return the settings of a strategy as its dataclass, or raise `InputError` for one that it does not have."""
    known: Any = strategy_class(name).Settings
    try:
        return known(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    except TypeError:
        unknown = sorted(set(settings) - set(known.__dataclass_fields__))
        has = ", ".join(known.__dataclass_fields__) or "none"
        raise InputError(f"strategy {name} has no setting {', '.join(unknown)}; it has: {has}") from None
