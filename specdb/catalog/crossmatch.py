"""The same star in two modalities: found by id or by position, stored in `pairs/` with how good the match is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.catalog.matches import Positions, fingerprint, positions, separation_quantiles
from specdb.catalog.session import connect
from specdb.catalog.sphere import Pairs, best, move, shifted, symmetric, within
from specdb.catalog.view import opened_parts, quoted
from specdb.errors import InputError, QueryError
from specdb.store import Store

__all__ = ["PAIRS_FOLDER", "MatchQuality", "crossmatch", "pairs_path"]

PAIRS_FOLDER = "pairs"

#: A Gaia source_id gives its position to about this (half the diagonal of a HEALPix pixel of level 12 is 36 arcsec).
_HEALPIX_ERROR_ARCSEC = 30

Mode = Literal["best", "all", "symmetric"]


@dataclass(frozen=True)
class MatchQuality:
    """How good a crossmatch is.

    Attributes
    ----------
    first, second : str
        Modalities.
    pairs, by_id, by_position : int
    spectra : tuple of int
        Spectra of each modality.
    matched : tuple of int
        Distinct spectra of each modality among the pairs.
    radius_arcsec : float
    mode : str
    ambiguous : int
        Spectra of the first with several partners within the radius.
    separation_arcsec : dict
        Quantiles of the positional pairs' separations.
    expected_false : float
        Pairs that chance gives: the mean number found with one side shifted in four directions.
    notes : tuple of str
        What the reader should know, such as positions that are only HEALPix centres.
    """

    first: str
    second: str
    pairs: int
    by_id: int
    by_position: int
    spectra: tuple[int, int]
    matched: tuple[int, int]
    radius_arcsec: float
    mode: str
    ambiguous: int
    separation_arcsec: dict[str, float]
    expected_false: float
    notes: tuple[str, ...]

    @property
    def false_fraction(self) -> float:
        """Expected share of false ones among the positional pairs; 0 where there are none."""
        return min(1.0, self.expected_false / self.by_position) if self.by_position else 0.0


def pairs_path(first: str, second: str) -> str:
    """Return the file of the pairs of two modalities, relative to the database."""
    return f"{PAIRS_FOLDER}/{first}-{second}.parquet"


def crossmatch(
    store: Store,
    first: str,
    second: str,
    *,
    radius_arcsec: float = 2.0,
    mode: Mode = "best",
    method: Literal["auto", "id", "position"] = "auto",
    id: str | None = None,
    pm: str | None = None,
) -> MatchQuality:
    """Find the pairs of two modalities and store them, replacing those there were.

    Parameters
    ----------
    store : Store
    first, second : str
        Modalities.
    radius_arcsec : float
    mode : {"best", "all", "symmetric"}
        Every spectrum of the first takes its nearest partner, all within the radius, or only one whose nearest it is itself.
        Repeat visits share their star's partner, except with `symmetric`.
    method : {"auto", "id", "position"}
        `auto` trusts ids, and matches by position what has none in common.
    id : str, optional
        ``CATALOGUE.COLUMN`` with Gaia source_ids of the first modality's spectra; by default their `gaia_source_id`.
    pm : str, optional
        Catalogue with `pmra` and `pmdec` (mas/yr) of the second modality's spectra, to move them to the first's epoch.

    Returns
    -------
    MatchQuality

    Raises
    ------
    InputError, QueryError
        For a modality, catalogue, column or radius that does not exist or makes no sense.
    """
    if first == second:
        raise InputError(f"{first} is matched with itself; repeat visits are found by `specdb search`, or by a join in SQL")
    for modality in (first, second):
        if not store.spectra_parts(modality):
            raise QueryError(
                f"the database has no spectra of {modality!r}; it has {', '.join(store.modalities()) or 'none'}"
            )
    here, there = (positions(store, [modality]) for modality in (first, second))
    ids = _ids(store, first, second, id) if method != "position" else np.empty((0, 2), np.int64)
    near, ambiguous, expected = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)), 0, 0.0
    notes: list[str] = []
    if method != "id":
        moved = _moved(store, here, there, pm)
        # Of partners at the same distance (HEALPix centres coincide) the first counts: the one of higher S/N.
        free1, free2 = np.flatnonzero(~np.isin(here.ids, ids[:, 0])), np.argsort(-there.snr, kind="stable")
        near, ambiguous = _near(here, moved, free1, free2, radius_arcsec, mode)
        expected = _by_chance(here, moved, free1, free2, radius_arcsec, mode)
        notes = _rough(store, first, radius_arcsec) + _rough(store, second, radius_arcsec)
    by_id = _separations(here, there, ids)
    pairs = pa.table(
        {
            first: np.concatenate([ids[:, 0], here.ids[near.left]]),
            second: np.concatenate([ids[:, 1], there.ids[near.right]]),
            "separation_arcsec": np.concatenate([by_id, near.separation_arcsec]),
            "method": pa.array([id or "gaia_source_id"] * len(ids) + ["position"] * len(near), pa.string()),
        }
    )
    pairs = (
        pairs.replace_schema_metadata(None)
        .cast(_schema(first, second))
        .sort_by([(first, "ascending"), (second, "ascending")])
    )
    quality = MatchQuality(
        first, second, pairs.num_rows, len(ids), len(near), (len(here.ids), len(there.ids)),
        (len(np.unique(pairs[first])), len(np.unique(pairs[second]))), radius_arcsec, mode, ambiguous,
        separation_quantiles(near.separation_arcsec), expected, tuple(notes),
    )  # fmt: skip
    with store.writing() as writer:
        record = {"kind": "pairs", "method": method, "id": id, "pm": pm, "matched": fingerprint(store)}
        writer.put(pairs_path(first, second), pairs, record | {"quality": asdict(quality)})
    return quality


def _schema(first: str, second: str) -> pa.Schema:
    arcsec = {"unit": "arcsec", "description": "distance of the two positions; null where one is unknown"}
    return pa.schema(
        [
            pa.field(first, pa.int64(), metadata={"description": f"spectrum_id in {first}"}),
            pa.field(second, pa.int64(), metadata={"description": f"spectrum_id in {second}"}),
            pa.field("separation_arcsec", pa.float64(), metadata=arcsec),
            pa.field("method", pa.string(), metadata={"description": "position, or the column of ids"}),
        ]
    )


def _ids(store: Store, first: str, second: str, column: str | None) -> np.ndarray:
    """Return pairs (n, 2) of spectrum_ids that share a Gaia source_id."""
    if column is None:
        source = f"SELECT spectrum_id, gaia_source_id AS star FROM {quoted(first)}"
    else:
        catalogue, _, name = column.partition(".")
        if not name:
            raise InputError(f"--id is {column!r}; give CATALOGUE.COLUMN, such as lasp.gaia_source_id")
        source = f"SELECT spectrum_id, CAST({quoted(name)} AS BIGINT) AS star FROM {quoted(catalogue)}"
        source += f" SEMI JOIN {quoted(first)} USING (spectrum_id)"
    with connect(store) as session:
        table = session.query(
            f"SELECT a.spectrum_id AS one, b.spectrum_id AS other FROM ({source}) a "
            f"JOIN {quoted(second)} b ON a.star = b.gaia_source_id ORDER BY ALL"
        )
    return np.column_stack([table["one"].to_numpy(), table["other"].to_numpy()])


def _moved(store: Store, here: Positions, there: Positions, catalogue: str | None) -> Positions:
    """Return the second side's positions at the first one's epoch, by proper motions from a catalogue."""
    if catalogue is None:
        return there
    with connect(store) as session:
        columns = "spectrum_id, CAST(pmra AS DOUBLE) AS pmra, CAST(pmdec AS DOUBLE) AS pmdec"
        known = session.query(f"SELECT {columns} FROM {quoted(catalogue)}")
    ids = known["spectrum_id"].to_numpy()
    order = np.argsort(ids)
    place = order[np.clip(np.searchsorted(ids, there.ids, sorter=order), 0, max(len(ids) - 1, 0))] if len(ids) else None
    if place is None or not (found := ids[place] == there.ids).any():
        raise QueryError(
            f"the catalogue {catalogue} has no spectrum of the second modality; add it with ids that match that one"
        )
    epochs = here.epoch[np.isfinite(here.epoch)]
    if len(np.unique(epochs)) != 1:
        raise QueryError("the first modality's positions are of several epochs; put the modality with one epoch first")
    motion = [np.where(found, known[name].fill_null(np.nan).to_numpy()[place], np.nan) for name in ("pmra", "pmdec")]
    ra, dec = move(there.ra, there.dec, motion[0], motion[1], epochs[0] - there.epoch)
    return replace(there, ra=ra, dec=dec)


def _near(
    here: Positions, there: Positions, rows1: np.ndarray, rows2: np.ndarray, radius_arcsec: float, mode: Mode
) -> tuple[Pairs, int]:
    pairs = within(here.ra[rows1], here.dec[rows1], there.ra[rows2], there.dec[rows2], radius_arcsec)
    ambiguous = int((np.bincount(pairs.left, minlength=1) > 1).sum())
    pairs = {"best": best, "symmetric": symmetric, "all": lambda every: every}[mode](pairs)
    return Pairs(rows1[pairs.left], rows2[pairs.right], pairs.separation_arcsec), ambiguous


def _by_chance(
    here: Positions, there: Positions, rows1: np.ndarray, rows2: np.ndarray, radius_arcsec: float, mode: Mode
) -> float:
    """Return the mean number of pairs with the second side shifted, along great circles, farther than any true pair."""
    moved = (replace(there, ra=ra, dec=dec) for ra, dec in shifted(there.ra, there.dec, radius_arcsec))
    return float(np.mean([len(_near(here, one, rows1, rows2, radius_arcsec, mode)[0]) for one in moved]))


def _rough(store: Store, modality: str, radius_arcsec: float) -> list[str]:
    """Say so where positions are but the HEALPix centres that Gaia ids name."""
    dataset = opened_parts(store, store.spectra_parts(modality))
    if "position_from_source_id" not in dataset.schema.names:
        return []
    share = pc.mean(dataset.to_table(columns=["position_from_source_id"])["position_from_source_id"].cast(pa.int8())).as_py()
    if not share:
        return []
    advice = (
        "" if radius_arcsec >= _HEALPIX_ERROR_ARCSEC else ": take a radius of 30 to 60 arcsec, and mind its chance matches"
    )
    return [
        f"{share:.0%} of the {modality} positions are HEALPix centres from the Gaia source_id, good to about "
        f"{_HEALPIX_ERROR_ARCSEC} arcsec{advice}"
    ]


def _separations(here: Positions, there: Positions, ids: np.ndarray) -> np.ndarray:
    """Return how far apart (arcsec) the positions of pairs (n, 2) are; NaN where one is unknown."""
    if not len(ids):
        return np.empty(0)
    rows = []
    for side, wanted in ((here, ids[:, 0]), (there, ids[:, 1])):
        order = np.argsort(side.ids)
        rows.append(order[np.searchsorted(side.ids, wanted, sorter=order)])
    lon1, lat1, lon2, lat2 = map(np.radians, (here.ra[rows[0]], here.dec[rows[0]], there.ra[rows[1]], there.dec[rows[1]]))
    half = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(np.minimum(half, 1)))) * 3600
