"""What the pages compute, as plain functions that need no browser."""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from pathlib import Path
from urllib.parse import urlencode
from uuid import uuid4

import pyarrow as pa

from specdb.catalog import run_sql
from specdb.database import Database
from specdb.errors import InputError, SpecdbError
from specdb.export import save_rows
from specdb.rows import Rows
from specdb.search.star import FLUX_LABELS

__all__ = [
    "cone",
    "flux_label",
    "plain_condition",
    "rows_as_bytes",
    "safe_message",
    "search_command",
    "short_hash",
    "stamp",
    "view_url",
]

_log = logging.getLogger("specdb.ui")

_PLAIN = re.compile(r"[\w\s.<>=!%'+\-*/,]*")


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


def flux_label(modality: str) -> str:
    """Say what a modality's prepared flux is relative to."""
    return FLUX_LABELS.get(modality, "prepared flux")


def short_hash(text: str) -> str:
    """Return eight characters that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


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
