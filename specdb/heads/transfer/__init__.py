"""From one survey to another: what becomes of a head on spectra of another instrument, and how few labels mend it."""

import importlib
from typing import Any

#: Name -> module; torch and peft are imported only by what needs them.
_NAMES = {
    "Comparison": "compare",
    "Discrepancy": "mmd",
    "Landscape": "landscape",
    "Strategy": "strategies",
    "TransferPlan": "compare",
    "TransferReport": "run",
    "compare_strategies": "compare",
    "discrepancy": "mmd",
    "line_sensitivity": "sensitivity",
    "loss_landscape": "landscape",
    "strategy_class": "strategies",
    "transfer": "run",
    "transfer_head": "fit",
    "transfer_strategies": "strategies",
}

__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
