"""What the pages compute, as plain functions that need no browser."""

from __future__ import annotations

import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import numpy as np
import pyarrow as pa

from specdb.catalog import run_sql
from specdb.catalog.selection import select_values
from specdb.database import Database
from specdb.errors import DatabaseError, InputError, SpecdbError
from specdb.export import save_rows
from specdb.rows import Rows
from specdb.store import read_table

__all__ = [
    "Cells",
    "MapPoints",
    "bin_points",
    "colour_columns",
    "colour_values",
    "cone",
    "plain_condition",
    "read_map",
    "rows_as_bytes",
    "safe_message",
    "search_command",
    "stamp",
    "view_url",
]

_log = logging.getLogger("specdb.ui")

_PLAIN = re.compile(r"[\w\s.<>=!%'+\-*/,]*")

#: Points in view above which cells are drawn instead.
POINTS = 4000


def safe_message(error: Exception, root: Path) -> str:
    """Say what went wrong without saying where files of the server lie.

    Errors that specdb raises on purpose keep their text but for paths; of others only a number is told, under which the log
    of the server has them.
    """
    if isinstance(error, SpecdbError):
        text = str(error)
        for folder, word in ((str(root.resolve()), "the database"), (str(root), "the database")):
            text = text.replace(folder, word) if len(folder) > 1 else text
        text = re.sub(rf"{re.escape(tempfile.gettempdir())}(?:/[\w.\-]+)*/", "", text)
        return re.sub(r"(?<![\w/])/(?:[\w.\-]+/)+", "…/", text)
    number = uuid4().hex[:8]
    _log.error("error %s", number, exc_info=error)
    return f"This did not work, for a reason that only the server's log tells (number {number})."


def stamp(db: Database) -> int:
    """Return a number that changes when the database does; part of the key of whatever is kept of it."""
    try:
        return (db.store.root / "manifest.json").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def view_url(page: str, **facts: object) -> str:
    """Return the address of a view, relative to that of the explorer."""
    known = {name: value for name, value in facts.items() if value not in (None, "", False)}
    return f"{page}?{urlencode(known)}" if known else page


def plain_condition(where: str) -> str | None:
    """Return a condition made of comparisons, or None for an empty one.

    Raises
    ------
    InputError
        For brackets, semicolons or double quotes: calls and subqueries belong on the SQL page, which has limits.
    """
    if not _PLAIN.fullmatch(where) or len(where) > 300 or "--" in where or "/*" in where:
        raise InputError(
            "a condition here is made of comparisons, such as teff < 4500 AND snr_g > 20; for functions and subqueries use "
            "the SQL page"
        )
    return where.strip() or None


def search_command(query: str, modality: str, k: int, where: str | None = None, exclude_star: bool = False) -> str:
    """Return the commands and the Python that reproduce a view of a star."""
    options = (f' --where "{where}"' if where else "") + (" --exclude-same-star" if exclude_star else "")
    python = f"k={k}" + (f", where={where!r}" if where else "") + (', exclude="star"' if exclude_star else "")
    asked = query if query.lstrip("-").isdigit() else repr(query)
    return (
        f"specdb search {query} --modality {modality} -k {k}{options}\n"
        f"specdb card {query} --modality {modality}{options} -o card.pdf\n"
        f'# Python\nimport specdb\ndb = specdb.open("mydb")\nhits = db.search({asked}, modality={modality!r}, {python})'
    )


def rows_as_bytes(rows: Rows | pa.Table, suffix: str) -> bytes:
    """Return a table as the content of a file of that format."""
    with tempfile.TemporaryDirectory(prefix="specdb-ui-") as folder:
        path = Path(folder) / f"table{suffix}"
        save_rows(rows, path)
        return path.read_bytes()


def cone(db: Database, ra: float, dec: float, radius_arcsec: float, name: str = "") -> pa.Table:
    """Return spectra near a position, nearest first, or with a name that contains `name`.

    Raises
    ------
    QueryError
        See `specdb.catalog.run_sql`.
    """
    columns = "spectrum_id, modality, object_name, ra, dec, snr, class, subclass"
    if name:
        text = name.replace("'", "''")
        condition, order = f"contains(lower(object_name), lower('{text}'))", "object_name"
    else:
        here = f"{float(ra)!r}, {float(dec)!r}"
        condition = f"in_cone(ra, dec, {here}, {float(radius_arcsec)!r})"
        order = f"separation_arcsec(ra, dec, {here})"
    return run_sql(db.store, f"SELECT {columns} FROM spectra WHERE {condition} ORDER BY {order} LIMIT 50", untrusted=True)


# -- the map -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MapPoints:
    """A map of embeddings: `ids` (n,) int64 ascending, `x`, `y` (n,) float32, and what made it."""

    ids: np.ndarray
    x: np.ndarray
    y: np.ndarray
    provenance: dict


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
            schema = read_table(db.store.root / name).schema
            for f in schema:
                if pa.types.is_floating(f.type) and (folder != "anomalies" or part.stem == modality):
                    table = "anomalies" if folder == "anomalies" else part.stem
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
    """

    x: np.ndarray
    y: np.ndarray
    ids: np.ndarray
    count: np.ndarray
    value: np.ndarray | None
    single: bool
    total: int


def bin_points(
    points: MapPoints,
    view: tuple[float, float, float, float] | None = None,
    value: np.ndarray | None = None,
    cells: int = 128,
) -> Cells:
    """Reduce a map to what a screen can show.

    Parameters
    ----------
    points : MapPoints
    view : tuple of float, optional
        x from, x to, y from, y to; all by default.
    value : ndarray (n,), optional
        Points without a finite value are left out.
    cells : int
        Per axis.
    """
    inside = np.ones(len(points.ids), bool) if value is None else np.isfinite(value)
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
    at_x = x0 + (used % cells + 0.5) * (x1 - x0) / cells
    at_y = y0 + (used // cells + 0.5) * (y1 - y0) / cells
    return Cells(at_x, at_y, one[used], count[used], mean, False, len(rows))
