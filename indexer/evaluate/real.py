"""Real spectra to judge an encoder on, and which of their stars it has not been trained on."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from indexer.train.data import LABELS, TrainingSet, load_lamost, split_stars, star_groups
from specdb.catalog.selection import select_values
from specdb.encoders import Card
from specdb.errors import ReadError
from specdb.spectra import expand_sources, get_modality
from specdb.spectra.readers import read_source, suffixes_of
from specdb.store import Store, matrix, read_schema, read_table

__all__ = ["HeldOut", "RealData", "XpSet", "held_out_stars", "load_database", "load_folder"]


@dataclass(frozen=True)
class HeldOut:
    """Which rows are judged.

    Attributes
    ----------
    test : ndarray (n,), bool
        Spectra that are judged; neighbours with labels come from the others, or, where all are judged, from other stars.
    trained_on : bool or None
        Whether the encoder saw these stars in its training; None where that is not known.
    statement : str
        The same in words, to be shown with the figures.
    """

    test: np.ndarray
    trained_on: bool | None
    statement: str


@dataclass(frozen=True)
class XpSet:
    """Prepared Gaia XP spectra: flux and ivar (n, 343), snr (n,), spectrum_id (n,), all of different sources."""

    flux: np.ndarray
    ivar: np.ndarray
    snr: np.ndarray
    spectrum_id: np.ndarray

    def __len__(self) -> int:
        return len(self.flux)


@dataclass(frozen=True)
class RealData:
    """Real spectra.

    Attributes
    ----------
    lrs : TrainingSet or None
    held_out : HeldOut or None
        Of `lrs`.
    xp : XpSet or None
        Where partners are searched.
    pairs : ndarray (p, 2), int64
        Rows of `lrs` and of `xp` that are the same star.
    origin : str
        For the report.
    """

    lrs: TrainingSet | None = None
    held_out: HeldOut | None = None
    xp: XpSet | None = None
    pairs: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.int64))
    origin: str = "none"


def load_folder(folder: Path, card: Card, *, every_star: bool = False) -> RealData:
    """Read the real spectra below a folder: LAMOST with labels, and Gaia XP where a table of pairs names its sources.

    A table of pairs is a CSV file with the columns ``lamost_obsid`` and ``xp_source_id``. The XP sources are those of the
    files that hold one of them.

    Parameters
    ----------
    folder : Path
    card : Card
        Of the encoder, which says what it was trained on.
    every_star : bool
        Judge all stars, not only the held-out fold.

    Raises
    ------
    InputError
        When the folder holds no LAMOST spectra.
    """
    lrs = load_lamost(folder)
    listed = _listed_pairs(folder)
    xp = _xp_below(folder, set(listed[:, 1].tolist())) if len(listed) else None
    return RealData(lrs, held_out_stars(card, lrs, every_star), xp, _rows_of(listed, lrs, xp), str(folder))


def load_database(root: Path, card: Card, *, every_star: bool = False) -> RealData:
    """Take the spectra of a database; labels are those of the first catalogue with the columns teff, logg and feh.

    Pairs are those of its tables of pairs, and LAMOST spectra whose ``gaia_source_id`` is in the database, too.
    """
    store = Store.open(root)
    lrs, listed = None, np.empty((0, 2), np.int64)
    if "lamost_lrs" in store.modalities():
        names = ["spectrum_id", "ra", "dec", "class", "gaia_source_id", "snr", "flux", "ivar"]
        parts = [read_table(store.root / part, names) for part in store.spectra_parts("lamost_lrs")]
        column = {n: np.concatenate([p[n].to_numpy(zero_copy_only=False) for p in parts]) for n in names[:6]}
        ids = column["spectrum_id"].astype(np.int64)
        known = _labels_of(store)
        lrs = TrainingSet(
            flux=np.concatenate([matrix(p["flux"]) for p in parts]),
            ivar=np.concatenate([matrix(p["ivar"]) for p in parts]),
            snr=column["snr"].astype(np.float32),
            star=star_groups(column["ra"].astype(np.float64), column["dec"].astype(np.float64)),
            labels=np.array([known.get(i, (np.nan,) * len(LABELS)) for i in ids.tolist()], np.float64),
            is_star=column["class"] == "STAR",
            spectrum_id=ids,
        )
        gaia = [(int(i), int(g)) for i, g in zip(ids, column["gaia_source_id"], strict=True) if g is not None and g == g]
        listed = np.concatenate([np.array(gaia, np.int64).reshape(-1, 2), _stored_pairs(store)])
    xp = None
    if "gaia_xp" in store.modalities():
        parts = [
            read_table(store.root / part, ["spectrum_id", "snr", "flux", "ivar"]) for part in store.spectra_parts("gaia_xp")
        ]
        xp = XpSet(
            np.concatenate([matrix(p["flux"]) for p in parts]),
            np.concatenate([matrix(p["ivar"]) for p in parts]),
            np.concatenate([p["snr"].to_numpy() for p in parts]),
            np.concatenate([p["spectrum_id"].to_numpy() for p in parts]),
        )
    held_out = held_out_stars(card, lrs, every_star) if lrs is not None else None
    return RealData(lrs, held_out, xp, _rows_of(listed, lrs, xp), str(root))


def held_out_stars(card: Card, data: TrainingSet, every_star: bool = False) -> HeldOut:
    """Find the stars that an encoder has not seen, from its card.

    The card's ``training`` gives the seed and number of folds of `indexer.train.data.split_stars`, a hash of the training
    files, and in ``held_out`` or ``weights`` whether the fold was left out of the weights that were saved.
    """
    facts = card.training
    folds, seed = int(facts.get("settings", {}).get("n_folds", 4)), int(facts.get("seed", 0))
    fold = np.ones(len(data), bool) if every_star else split_stars(data.star, folds, seed) == 0
    stars = f"{int(fold.sum())} spectra of {len(np.unique(data.star[fold]))} stars"
    which = "all stars" if every_star else f"one of {folds} folds of stars"
    trained = facts.get("data", {})
    files = trained.get("files_sha256") or trained.get("lamost_lrs", {}).get("files_sha256")
    if not facts or files is None:
        return HeldOut(fold, None, f"{stars} ({which}); the encoder's card does not say what it was trained on")
    if files != data.provenance.get("files_sha256"):
        return HeldOut(
            fold, None, f"{stars} ({which}); the encoder was trained on other files, whose stars may be among these"
        )
    kept_out = facts.get("held_out", {}).get("left_out_of_weights")
    if kept_out is None:
        kept_out = "all stars" not in str(facts.get("weights", ""))
    if kept_out and not every_star:
        return HeldOut(fold, False, f"{stars} ({which}) that the encoder was not trained on, according to its card")
    return HeldOut(fold, True, f"{stars} ({which}). **The encoder was trained on these stars**, so the figures flatter it")


def _listed_pairs(folder: Path) -> np.ndarray:
    found: list[tuple[int, int]] = []
    for path in sorted(folder.rglob("*.csv")):
        with path.open(newline="", encoding="utf-8", errors="replace") as lines:
            reader = csv.DictReader(lines)
            if {"lamost_obsid", "xp_source_id"} <= set(reader.fieldnames or []):
                found += [(int(row["lamost_obsid"]), int(row["xp_source_id"])) for row in reader]
    return np.array(found, np.int64).reshape(-1, 2)


def _xp_below(folder: Path, wanted: set[int]) -> XpSet | None:
    modality = get_modality("gaia_xp")
    readers = ("gaia_xp_continuous", "gaia_xp_sampled")
    suffixes = suffixes_of(readers)
    kept: list[Any] = []
    for source in expand_sources([folder], suffixes):
        if not source.endswith(suffixes):
            continue
        try:
            batches = list(read_source(source, readers))
        except ReadError:
            continue
        if any(not wanted.isdisjoint(batch.metadata["spectrum_id"].to_pylist()) for batch in batches):
            kept += batches
    if not kept:
        return None
    prepared = modality.preparation(kept)
    ids = np.concatenate([batch.metadata["spectrum_id"].to_numpy() for batch in kept])[prepared.rows]
    ids, first = np.unique(ids, return_index=True)
    return XpSet(prepared.flux[first], prepared.ivar[first], prepared.snr[first], ids)


def _rows_of(listed: np.ndarray, lrs: TrainingSet | None, xp: XpSet | None) -> np.ndarray:
    """Return rows of both sets (p, 2) for pairs of ids (m, 2), those that are in both."""
    if lrs is None or xp is None or not len(listed):
        return np.empty((0, 2), np.int64)
    left, right = ({int(i): row for row, i in enumerate(s.spectrum_id)} for s in (lrs, xp))
    known = dict.fromkeys((a, b) for a, b in listed.tolist() if a in left and b in right)
    rows = [(left[a], right[b]) for a, b in known]
    return np.array(rows, np.int64).reshape(-1, 2)


def _stored_pairs(store: Store) -> np.ndarray:
    """Return the ids (m, 2) of the database's tables of pairs, which have one column of spectrum_ids per modality."""
    found = [np.empty((0, 2), np.int64)]
    for name in store.tables("pairs"):
        table = read_table(store.root / name)
        if {"lamost_lrs", "gaia_xp"} <= set(table.column_names):
            both = table.select(["lamost_lrs", "gaia_xp"]).drop_null()
            found.append(np.column_stack([both["lamost_lrs"].to_numpy(), both["gaia_xp"].to_numpy()]).astype(np.int64))
    return np.concatenate(found)


def _labels_of(store: Store) -> dict[int, tuple[float, ...]]:
    """Return the labels by spectrum_id, of the first catalogue that has them for any LAMOST spectrum."""
    for name in store.tables("labels"):
        if not set(LABELS) <= set(read_schema(store.root / name).names):
            continue
        # Only SQL knows which spectra the rows of a catalogue have been matched to.
        wanted = {label: f'CAST("{PurePath(name).stem}"."{label}" AS DOUBLE)' for label in LABELS}
        rows = select_values(store, "lamost_lrs", wanted).to_pydict()
        found = {
            int(i): tuple(np.nan if v is None else float(v) for v in values)
            for i, *values in zip(*(rows[column] for column in ("spectrum_id", *LABELS)), strict=True)
            if any(v is not None for v in values)
        }
        if found:
            return found
    return {}
