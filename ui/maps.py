"""Maps of embeddings: what is read from the database once, and what of it a screen can show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from specdb.catalog import run_sql
from specdb.catalog.selection import select_values
from specdb.database import Database
from specdb.errors import DatabaseError
from specdb.rows import Rows
from specdb.store import read_schema, read_table

__all__ = ["Cells", "MapPoints", "bin_points", "colour_columns", "colour_values", "read_map"]

#: Points in view above which cells are drawn instead.
POINTS = 4000

Window = tuple[float, float, float, float]


@dataclass(frozen=True)
class MapPoints:
    """A map of embeddings: `ids` (n,) int64 ascending, `x`, `y` (n,) float32, and what made it."""

    ids: np.ndarray
    x: np.ndarray
    y: np.ndarray
    provenance: dict

    def among(self, ids: np.ndarray) -> np.ndarray:
        """Return (n,) bool: which points are spectra of these ids."""
        at = np.minimum(np.searchsorted(self.ids, ids), max(len(self.ids) - 1, 0))
        out = np.zeros(len(self.ids), bool)
        if len(self.ids):
            out[at[self.ids[at] == ids]] = True
        return out

    def place(self, spectrum_id: int) -> tuple[float, float] | None:
        """Return where a spectrum lies; None where it is not on the map."""
        at = int(np.searchsorted(self.ids, spectrum_id))
        if at == len(self.ids) or self.ids[at] != spectrum_id:
            return None
        return float(self.x[at]), float(self.y[at])


def read_map(db: Database, modality: str) -> MapPoints:
    """Return the stored map of a modality's embeddings.

    Raises
    ------
    DatabaseError
        Where there is none yet.
    """
    name = f"maps/{db.store.default_encoder}/{modality}.parquet"
    if name not in db.store.manifest().files:
        raise DatabaseError(f"{modality} has no map yet; `specdb map embed --modality {modality}` makes it")
    table = read_table(db.store.root / name)
    ids = table["spectrum_id"].to_numpy()
    order = np.argsort(ids)
    x, y = (table[axis].to_numpy()[order].astype(np.float32) for axis in ("x", "y"))
    return MapPoints(ids[order], x, y, db.store.provenance(name))


def colour_columns(db: Database, modality: str) -> dict[str, str]:
    """Return what a map can be coloured by: words -> SQL expression."""
    schema = Rows(run_sql(db.store, f'SELECT * FROM "{modality}" LIMIT 0')).rows.schema
    numeric = {f.name: f.name for f in schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)}
    for hidden in ("spectrum_id", "gaia_source_id"):
        numeric.pop(hidden, None)
    found = {name: f'"{name}"' for name in numeric}
    for folder in ("labels", "predictions", "anomalies"):
        for name in db.store.tables(folder):
            part = Path(name)
            if folder == "anomalies" and part.stem != modality:
                continue
            table = "anomalies" if folder == "anomalies" else part.stem
            for f in read_schema(db.store.root / name):
                if pa.types.is_floating(f.type):
                    found[f"{table}: {f.name}"] = f'"{table}"."{f.name}"'
    return found


def colour_values(db: Database, modality: str, expression: str, ids: np.ndarray) -> np.ndarray:
    """Return a value of each of some ids (ascending), float64, NaN where it is unknown.

    `expression` is one of those that `colour_columns` offers.
    """
    table = select_values(db.store, modality, {"value": f"CAST({expression} AS DOUBLE)"})
    known = table["spectrum_id"].to_numpy()
    values = table["value"].to_numpy(zero_copy_only=False).astype(np.float64)
    at = np.minimum(np.searchsorted(ids, known), len(ids) - 1)
    here = ids[at] == known
    out = np.full(len(ids), np.nan)
    out[at[here]] = values[here]
    return out


@dataclass(frozen=True)
class Cells:
    """What of a map is drawn: single points (`single`), or cells with their number of points.

    Attributes
    ----------
    x, y : ndarray (c,)
    ids : ndarray (c,), int64
        The point, or one of the cell.
    count : ndarray (c,), int64
    value : ndarray (c,), float64 or None
        Mean of the finite values in the cell.
    single : bool
    total : int
        Points in view.
    size : tuple of float
        Width and height of a cell; 0 for points.
    """

    x: np.ndarray
    y: np.ndarray
    ids: np.ndarray
    count: np.ndarray
    value: np.ndarray | None
    single: bool
    total: int
    size: tuple[float, float] = (0.0, 0.0)

    def window(self, cell: int, widths: float = 4.0) -> Window:
        """Return the part of the map around a cell: x from, x to, y from, y to."""
        dx, dy = (widths * size / 2 for size in self.size)
        x, y = float(self.x[cell]), float(self.y[cell])
        return x - dx, x + dx, y - dy, y + dy


def bin_points(
    points: MapPoints,
    view: Window | None = None,
    value: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    cells: int = 100,
) -> Cells:
    """Reduce a map to what a screen can show.

    Parameters
    ----------
    points : MapPoints
    view : tuple of float, optional
        x from, x to, y from, y to; all by default.
    value : ndarray (n,), optional
        Points without a finite value are left out.
    mask : ndarray (n,), bool, optional
        Points to draw.
    cells : int
        Per axis.
    """
    inside = np.ones(len(points.ids), bool) if value is None else np.isfinite(value)
    if mask is not None:
        inside &= mask
    if view is not None:
        x0, x1, y0, y1 = view
        inside &= (points.x >= x0) & (points.x <= x1) & (points.y >= y0) & (points.y <= y1)
    rows = np.flatnonzero(inside)
    if len(rows) <= POINTS:
        chosen = None if value is None else value[rows]
        return Cells(points.x[rows], points.y[rows], points.ids[rows], np.ones(len(rows), int), chosen, True, len(rows))
    x, y = points.x[rows], points.y[rows]
    x0, x1, y0, y1 = view or (float(x.min()), float(x.max()), float(y.min()), float(y.max()))
    column = np.minimum(((x - x0) * (cells / max(x1 - x0, 1e-9))).astype(np.int32), cells - 1)
    row = np.minimum(((y - y0) * (cells / max(y1 - y0, 1e-9))).astype(np.int32), cells - 1)
    key = row * cells + column
    count = np.bincount(key, minlength=cells * cells)
    one = np.zeros(cells * cells, np.int64)
    one[key] = points.ids[rows]  # any of the cell
    used = np.flatnonzero(count)
    mean = None
    if value is not None:
        mean = np.bincount(key, value[rows], minlength=cells * cells)[used] / count[used]
    size = (x1 - x0) / cells, (y1 - y0) / cells
    at_x, at_y = x0 + (used % cells + 0.5) * size[0], y0 + (used // cells + 0.5) * size[1]
    return Cells(at_x, at_y, one[used], count[used], mean, False, len(rows), size)
