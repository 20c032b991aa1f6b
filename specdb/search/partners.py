"""The same star as another instrument saw it, as far as `pairs` knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from specdb.catalog.crossmatch import pairs_path
from specdb.store import Store, in_sorted, read_table

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["Partner", "partners_of"]


@dataclass(frozen=True)
class Partner:
    """A spectrum of the same star in another modality.

    Attributes
    ----------
    spectrum_id : int
    separation_arcsec : float or None
        None where a position is unknown.
    method : str
        ``position``, or the column of ids that named it.
    """

    spectrum_id: int
    separation_arcsec: float | None
    method: str


def partners_of(db: Database, modality: str, spectrum_id: int, other: str) -> list[Partner]:
    """Return the partners of a spectrum in another modality, nearest first; none before `specdb crossmatch`.

    Parameters
    ----------
    db : Database
    modality : str
        Of the spectrum.
    spectrum_id : int
    other : str
        Where partners are looked for.
    """
    store = db.store
    found = {
        row[other]: Partner(row[other], row["separation_arcsec"], row["method"])
        for name in _tables(store, modality, other)
        for row in _rows(store, name, modality, spectrum_id)
    }
    gone = in_sorted(np.fromiter(found, np.int64, len(found)), store.deleted(other))
    kept = [partner for partner, deleted in zip(found.values(), gone.tolist(), strict=True) if not deleted]
    # Partners by id come first: of them nothing is in doubt.
    return sorted(kept, key=lambda p: (p.method == "position", p.separation_arcsec or 0.0))


def _tables(store: Store, one: str, other: str) -> list[str]:
    return sorted({pairs_path(one, other), pairs_path(other, one)} & set(store.manifest().files))


def _rows(store: Store, name: str, modality: str, spectrum_id: int) -> list[dict[str, Any]]:
    table = read_table(store.root / name)
    return table.filter(pc.equal(table[modality], spectrum_id)).to_pylist()
