"""specdb: a vector-search database of stellar spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from specdb._version import __version__

if TYPE_CHECKING:
    from specdb.database import Database
    from specdb.database import open_database as open
    from specdb.search import Hits

__all__ = ["Database", "Hits", "__version__", "open"]

_LAZY = {
    "Database": ("specdb.database", "Database"),
    "open": ("specdb.database", "open_database"),
    "Hits": ("specdb.search", "Hits"),
}


def __getattr__(name: str) -> Any:
    """Import torch, faiss and the rest only when a name that needs them is used: `specdb --help` stays quick."""
    if name not in _LAZY:
        raise AttributeError(f"module 'specdb' has no attribute {name!r}")
    import importlib

    module, attribute = _LAZY[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
