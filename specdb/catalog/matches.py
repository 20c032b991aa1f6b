"""Which spectrum is which row of a catalogue, by position."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from specdb.catalog.sphere import best, move, shifted, within
from specdb.catalog.view import Opened, opened_parts
from specdb.store import Store, digest, readable

__all__ = [
    "PositionKey",
    "Positions",
    "at_epochs",
    "by_chance",
    "current_matches",
    "fingerprint",
    "match_catalogue",
    "positions",
    "separation_quantiles",
    "stored_matches",
]

#: Rows of a catalogue that are matched at a time.
_CHUNK_ROWS = 1 << 22

#: Above this many different epochs of spectra, they are rounded to half a year.
_MANY_EPOCHS = 16


@dataclass(frozen=True)
class PositionKey:
    """Rows belong to the spectra within a radius; each spectrum takes the nearest row.

    Attributes
    ----------
    ra, dec : str
        Columns in degrees, ICRS.
    radius_arcsec : float
    epoch : float or str or None
        Of the catalogue's positions: a Julian year, or a column of them.
    pm : tuple of str or None
        Columns of proper motion in mas/yr, that in right ascension including cos(dec).
    """

    ra: str
    dec: str
    radius_arcsec: float
    epoch: float | str | None = None
    pm: tuple[str, str] | None = None


@dataclass(frozen=True)
class Positions:
    """Where spectra are: arrays (n,), NaN where unknown.

    Attributes
    ----------
    ids : int64
        spectrum_id.
    ra, dec : float64
        Degrees, ICRS.
    epoch : float64
        Julian year.
    snr : float64
    """

    ids: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    epoch: np.ndarray
    snr: np.ndarray


def positions(store: Store, modalities: list[str]) -> Positions:
    """Read the positions of all spectra of some modalities."""
    columns = ["spectrum_id", "ra", "dec", "epoch", "snr"]
    datasets = [opened_parts(store, parts) for modality in modalities if (parts := store.spectra_parts(modality))]
    if not datasets:
        return Positions(np.empty(0, np.int64), *(np.empty(0) for _ in columns[1:]))
    with readable(store.root):
        table = pa.concat_tables([dataset.to_table(columns=columns) for dataset in datasets])
    for modality in modalities:
        if len(gone := store.deleted(modality)):
            table = table.filter(pa.array(~np.isin(table["spectrum_id"].to_numpy(), gone)))
    return Positions(table["spectrum_id"].to_numpy(), *(_floats(table[name]) for name in columns[1:]))


def fingerprint(store: Store) -> str:
    """Return what stands for the set of spectra: it changes when any are added."""
    files = store.manifest().files
    return digest([files[part].sha256 for modality in store.modalities() for part in store.spectra_parts(modality)])


def stored_matches(name: str) -> str:
    """Return the path of a catalogue's stored matches, relative to the database."""
    return f"matches/{name}.parquet"


def current_matches(store: Store, name: str, key: PositionKey, path: str) -> Opened:
    """Return matches that are right for the spectra of now: the stored ones, or, where spectra have come since, new ones."""
    stored, now = stored_matches(name), fingerprint(store)
    manifest = store.manifest()
    if stored in manifest.files and store.provenance(stored)["matched"] == [now, manifest.files[path].sha256]:
        return opened_parts(store, [stored])
    return _matched(store, key, path, now, manifest.files[path].sha256)


@lru_cache(maxsize=8)
def _matched(store: Store, key: PositionKey, path: str, spectra: str, catalogue: str) -> pa.Table:
    return match_catalogue(store, key, path)[0]


def match_catalogue(store: Store, key: PositionKey, path: str) -> tuple[pa.Table, dict[str, Any]]:
    """Match all spectra with the rows of a stored catalogue.

    Returns
    -------
    pyarrow.Table
        ``spectrum_id, catalogue_row, separation_arcsec``, one row per matched spectrum.
    dict
        Facts: the key, spectra matched, how many of them had several rows within the radius, quantiles of the separations.
    """
    spectra = positions(store, store.modalities())
    nearest, partner, candidates = _nearest_rows(spectra, opened_parts(store, [path]), key)
    matched = np.flatnonzero(partner >= 0)
    table = pa.table(
        {
            "spectrum_id": spectra.ids[matched],
            "catalogue_row": partner[matched],
            "separation_arcsec": nearest[matched],
        }
    )
    facts = {"key": asdict(key), "spectra": len(matched), "ambiguous": int((candidates > 1).sum())}
    return table, facts | {"separation_arcsec": separation_quantiles(nearest[matched])}


def by_chance(store: Store, key: PositionKey, path: str) -> float:
    """Return how many spectra would find a row by chance: the mean number of those that do with all spectra shifted."""
    spectra, rows = positions(store, store.modalities()), opened_parts(store, [path])
    elsewhere = (replace(spectra, ra=ra, dec=dec) for ra, dec in shifted(spectra.ra, spectra.dec, key.radius_arcsec))
    return float(np.mean([(_nearest_rows(one, rows, key)[1] >= 0).sum() for one in elsewhere]))


def separation_quantiles(separation_arcsec: np.ndarray) -> dict[str, float]:
    """Return the quantiles of separations (n,) that a report shows; none of none."""
    if not len(separation_arcsec):
        return {}
    levels = {"min": 0.0, "16%": 0.16, "median": 0.5, "84%": 0.84, "99%": 0.99, "max": 1.0}
    return {name: round(float(np.quantile(separation_arcsec, level)), 4) for name, level in levels.items()}


def _nearest_rows(spectra: Positions, rows: Any, key: PositionKey) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of each spectrum (n,): separation in arcsec (inf: none), catalogue row (-1: none), rows within the radius."""
    nearest = np.full(len(spectra.ids), np.inf)
    partner, candidates = np.full(len(spectra.ids), -1, np.int64), np.zeros(len(spectra.ids), np.int64)
    for chunk in _chunks(rows, key):
        for here, ra, dec in at_epochs(spectra, chunk, key):
            pairs = within(spectra.ra[here], spectra.dec[here], ra, dec, key.radius_arcsec)
            candidates[here] += np.bincount(pairs.left, minlength=len(here))
            pairs = best(pairs)
            of = here[pairs.left]
            closer = pairs.separation_arcsec < nearest[of]
            nearest[of[closer]] = pairs.separation_arcsec[closer]
            partner[of[closer]] = chunk["catalogue_row"].to_numpy()[pairs.right[closer]]
    return nearest, partner, candidates


def _chunks(dataset: Any, key: PositionKey) -> Iterator[pa.Table]:
    names = [key.ra, key.dec, *(key.pm or ()), *([key.epoch] if isinstance(key.epoch, str) else []), "catalogue_row"]
    held: list[pa.RecordBatch] = []
    for batch in dataset.to_batches(columns=list(dict.fromkeys(names))):
        held.append(batch)
        if sum(b.num_rows for b in held) >= _CHUNK_ROWS:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def at_epochs(spectra: Positions, chunk: pa.Table, key: PositionKey) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows of spectra of one epoch, and the catalogue's positions at that epoch."""
    ra, dec = _floats(chunk[key.ra]), _floats(chunk[key.dec])
    everything = np.arange(len(spectra.ids))
    if key.pm is None or key.epoch is None:
        yield everything, ra, dec
        return
    motion = [_floats(chunk[name]) for name in key.pm]
    own = _floats(chunk[key.epoch]) if isinstance(key.epoch, str) else np.full(len(ra), key.epoch)
    epochs = spectra.epoch
    if len(np.unique(epochs[np.isfinite(epochs)])) > _MANY_EPOCHS:
        epochs = np.round(epochs * 2) / 2
    for epoch in np.unique(epochs[np.isfinite(epochs)]):
        yield np.flatnonzero(epochs == epoch), *move(ra, dec, motion[0], motion[1], epoch - own)
    if (unknown := everything[~np.isfinite(epochs)]).size:
        yield unknown, ra, dec


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64()).fill_null(np.nan).to_numpy()
