"""Reading the tables of statistics that instruments are simulated with."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from specdb.errors import InputError
from specdb.shipped import shipped_file

__all__ = ["read_statistics"]


def read_statistics(kind: type, path: Path | None, shipped: str, what: str, maker: str) -> dict[str, Any]:
    """Return the fields of a dataclass of arrays and a `card` from `path`, or from the file that ships with specdb.

    Raises
    ------
    InputError
        When the file is not one that the module `maker` wrote.
    """
    path = path or shipped_file(shipped)
    try:
        with np.load(path, allow_pickle=False) as z:
            arrays = {f.name: z[f.name].astype(float) for f in fields(kind) if f.name != "card"}
            return {**arrays, "card": json.loads(str(z["card"]))}
    except (KeyError, OSError, ValueError) as error:
        raise InputError(f"{path} holds no {what} statistics ({error}); make them with `python -m {maker}`") from error
