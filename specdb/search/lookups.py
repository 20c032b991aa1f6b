"""What searches look up beside the vectors, kept until the database changes: filters, and which spectra are of one star."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.catalog.crossmatch import PAIRS_FOLDER, pairs_path
from specdb.catalog.selection import select_ids
from specdb.errors import DatabaseError, QueryError
from specdb.search.pages import Pages, Places
from specdb.search.rowfilter import RowFilter
from specdb.store import Store, in_sorted, open_parts, read_table, readable

if TYPE_CHECKING:
    from specdb.search.index import VectorIndex

__all__ = ["Kept", "Lookups", "Ragged", "StarTable"]

_HELD = 8  # filters and star tables kept

_ARCSEC = np.pi / 180 / 3600


@dataclass(frozen=True)
class Ragged:
    """Lists of different lengths, one per query: those of query i are ``values[limits[i]:limits[i + 1]]``."""

    limits: np.ndarray
    values: np.ndarray

    @property
    def owner(self) -> np.ndarray:
        """The query that each value belongs to, int64."""
        return np.repeat(np.arange(len(self.limits) - 1), np.diff(self.limits))

    @classmethod
    def of(cls, owner: np.ndarray, values: np.ndarray, n: int) -> Ragged:
        """Gather values by their owner, 0 to n - 1."""
        order = np.argsort(owner, kind="stable")
        return cls(np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n))]), values[order])


def _spread(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (owner, position) of every position from ``begins[i]`` up to ``ends[i]``."""
    sizes = np.maximum(ends - begins, 0)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + begins[owner]


@dataclass(frozen=True)
class StarTable:
    """Positions and Gaia ids of a modality's spectra.

    Attributes
    ----------
    ids : ndarray (n,), int64
        spectrum_id.
    ra, dec : ndarray (n,), float64
        Degrees, ICRS; NaN where unknown.
    gaia : ndarray (n,), int64
        Gaia source_id; 0 where unknown.
    """

    ids: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    gaia: np.ndarray

    @classmethod
    def read(cls, store: Store, modality: str) -> StarTable:
        """Read it from the `spectra` parts."""
        with readable(store.root):
            table = open_parts(store.root, store.spectra_parts(modality)).to_table(
                columns=["spectrum_id", "ra", "dec", "gaia_source_id"]
            )
        ra, dec = (pc.fill_null(table[name], np.nan).to_numpy() for name in ("ra", "dec"))
        return cls(table["spectrum_id"].to_numpy(), ra, dec, pc.fill_null(table["gaia_source_id"], 0).to_numpy())

    @cached_property
    def _by_dec(self) -> tuple[np.ndarray, np.ndarray]:
        known = np.flatnonzero(np.isfinite(self.ra) & np.isfinite(self.dec))
        rows = known[np.argsort(self.dec[known])]
        return rows, self.dec[rows]

    @cached_property
    def _by_gaia(self) -> tuple[np.ndarray, np.ndarray]:
        known = np.flatnonzero(self.gaia)
        rows = known[np.argsort(self.gaia[known])]
        return rows, self.gaia[rows]

    @cached_property
    def _by_id(self) -> np.ndarray:
        return np.argsort(self.ids)

    def take(self, ids: np.ndarray) -> StarTable:
        """Return the rows of some ids, in their order; unknown ids have no position and no Gaia id."""
        place = np.minimum(np.searchsorted(self.ids, ids, sorter=self._by_id), len(self.ids) - 1)
        rows = self._by_id[place]
        known = self.ids[rows] == ids
        nowhere = np.where(known, 0.0, np.nan)
        return StarTable(ids, self.ra[rows] + nowhere, self.dec[rows] + nowhere, np.where(known, self.gaia[rows], 0))

    def same_star(self, stars: StarTable, radius_arcsec: float) -> Ragged:
        """Find this table's spectra of the same stars: within the radius, or with the same Gaia id.

        Parameters
        ----------
        stars : StarTable
            m rows, of this modality or another.
        radius_arcsec : float

        Returns
        -------
        Ragged
            spectrum_id's, each at most twice, for each of the m.
        """
        rows, dec = self._by_dec
        degrees = radius_arcsec / 3600
        owner, place = _spread(np.searchsorted(dec, stars.dec - degrees), np.searchsorted(dec, stars.dec + degrees, "right"))
        near = rows[place]
        apart = _separation(self.ra[near], self.dec[near], stars.ra[owner], stars.dec[owner])
        close = apart <= radius_arcsec * _ARCSEC
        gaia_rows, gaia = self._by_gaia
        named = np.where(stars.gaia != 0, stars.gaia, -1)
        again, at = _spread(np.searchsorted(gaia, named), np.searchsorted(gaia, named, "right"))
        owners = np.concatenate([owner[close], again])
        return Ragged.of(owners, self.ids[np.concatenate([near[close], gaia_rows[at]])], len(stars.ids))


def _separation(ra1: np.ndarray, dec1: np.ndarray, ra2: np.ndarray, dec2: np.ndarray) -> np.ndarray:
    """Return angular distances in radians of positions in degrees by the haversine formula, exact for small angles."""
    a1, d1, a2, d2 = map(np.radians, (ra1, dec1, ra2, dec2))
    h = np.sin((d2 - d1) / 2) ** 2 + np.cos(d1) * np.cos(d2) * np.sin((a2 - a1) / 2) ** 2
    return 2 * np.arcsin(np.sqrt(np.minimum(h, 1)))


@dataclass(frozen=True)
class Kept:
    """What a condition selects.

    Attributes
    ----------
    filter : RowFilter
        The rows of the index that satisfy it, without those of deleted spectra.
    unindexed : int
        Spectra that satisfy the condition and are not in the index yet.
    """

    filter: RowFilter
    unindexed: int


class Lookups:
    """Filters and star tables of one database."""

    def __init__(self, store: Store, index: Callable[[str], VectorIndex]) -> None:
        self._store = store
        self._index = index
        self._held: dict[tuple[str, ...], tuple[Any, Any]] = {}
        self._pages = Pages(store)

    def stars(self, modality: str) -> StarTable:
        """Return the positions and Gaia ids of a modality's spectra."""
        return self._get(("stars", modality), self._store.manifest(), lambda: StarTable.read(self._store, modality))

    def metadata(self, modality: str, ids: np.ndarray) -> pa.Table:
        """Return the metadata rows of some ids (m,), int64, in their order; an id may be named more than once.

        Raises
        ------
        DatabaseError
            For an id that the stored spectra do not have.
        """
        places = self._places(modality)
        if len(unknown := places.unknown(ids)):
            raise DatabaseError(f"the index knows spectrum {unknown[0]}, the stored spectra do not; run `specdb verify`")
        return self._pages.take(places, ids, pixels=False)

    def spectra(self, modality: str, ids: np.ndarray) -> pa.Table:
        """Return the full rows of some ids (m,), int64, in their order.

        Raises
        ------
        QueryError
            For an id that there is not, or that is deleted.
        """
        places = self._places(modality)
        gone = np.concatenate([places.unknown(ids), ids[in_sorted(ids, self._store.deleted(modality))]])
        if len(gone):
            raise QueryError(f"{modality} has no spectrum with the id {gone[0]}")
        return self._pages.take(places, ids, pixels=True)

    def partners(self, modality: str, other: str, spectrum_id: int) -> np.ndarray:
        """Return the ids (p,), int64, that `pairs/` gives a spectrum in another modality; none where it was not matched."""

        def read() -> tuple[np.ndarray, np.ndarray]:
            here, there = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
            for name in {pairs_path(modality, other), pairs_path(other, modality)} & set(self._store.tables(PAIRS_FOLDER)):
                table = read_table(self._store.root / name, [modality, other])
                here.append(table[modality].to_numpy())
                there.append(table[other].to_numpy())
            order = np.argsort(np.concatenate(here), kind="stable")
            return np.concatenate(here)[order], np.concatenate(there)[order]

        ids, partners = self._get(("pairs", modality, other), self._store.manifest(), read)
        return np.unique(partners[slice(*np.searchsorted(ids, [spectrum_id, spectrum_id + 1]))])

    def _places(self, modality: str) -> Places:
        manifest = self._store.manifest()
        return self._get(("places", modality), manifest, lambda: Places.read(self._store, manifest, modality))

    def kept(self, modality: str, where: str, index: VectorIndex) -> Kept:
        """Return the rows of an index that satisfy a condition; see `specdb.catalog.selection.select_ids`."""

        def select() -> Kept:
            rows = index.rows_of(select_ids(self._store, modality, where, index=self._index))
            return Kept(index.only(np.sort(rows[rows >= 0])), int((rows < 0).sum()))

        return self._get(("kept", modality, where), (self._store.manifest(), index), select)

    def _get(self, key: tuple[str, ...], stamp: Any, make: Callable[[], Any]) -> Any:
        """Return what is held under a key if it was made from the same, else make it."""
        held = self._held.pop(key, None)
        if held is None or not _same(held[0], stamp):
            held = (stamp, make())
        self._held[key] = held  # last in, last out
        while len(self._held) > _HELD:
            self._held.pop(next(iter(self._held)))
        return held[1]


def _same(one: Any, other: Any) -> bool:
    # A manifest and an index are objects of their own for every state of the database.
    pairs = zip(one, other, strict=True) if isinstance(one, tuple) else [(one, other)]
    return all(a is b for a, b in pairs)
