"""Sources of training spectra: a database's Parquet parts, or the simulator of pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.simulate.pairs import BATCH_PAIRS, PairSimulator
from indexer.train.split import held_out, sky_key
from indexer.train.streams import Arrays
from specdb.errors import InputError, ProvenanceError
from specdb.spectra import get_modality
from specdb.store import Store, matrix, read_table
from specdb.store.files import digest
from specdb.store.tables import readable

__all__ = ["PAIRS_TABLE", "DataSettings", "DatabaseSource", "SimulatedSource", "find_pairs"]

#: Made by `specdb crossmatch`: columns `lamost_lrs` and `gaia_xp` (spectrum_id) and, best first, `separation_arcsec`.
PAIRS_TABLE = "pairs/lamost_lrs-gaia_xp.parquet"

_FACTS = ["spectrum_id", "gaia_source_id", "ra", "dec", "snr", "class"]


@dataclass(frozen=True)
class DataSettings:
    """Which spectra a training sees.

    Attributes
    ----------
    source : {"database", "simulated"}
        Spectra of a database, or pairs that are simulated while training, never the same twice.
    validation : float
        Share of the stars (of the sky, in a database) that is held out.
    validation_size : int
        So many held-out spectra or pairs are used at most.
    min_snr : float
        Spectra of a lower median S/N per pixel are left out (of pairs: by the LAMOST spectrum).
    stars_only : bool
        Leave out what the survey's pipeline does not call a star, where it says anything.
    buffer : int
        Spectra that are read and shuffled together; memory holds two such chunks.
    """

    source: str = "database"
    validation: float = 0.05
    validation_size: int = 2048
    min_snr: float = 0.0
    stars_only: bool = False
    buffer: int = 16384

    def __post_init__(self) -> None:
        if self.source not in ("database", "simulated"):
            raise InputError(f"data source {self.source!r} is unknown; choose database or simulated")
        if not 0 < self.validation < 1 or self.validation_size < 2 or self.buffer < 1:
            raise InputError(
                f"validation {self.validation}, validation_size {self.validation_size}, buffer {self.buffer}: "
                "a share between 0 and 1, at least 2 spectra, and at least 1"
            )


@dataclass(frozen=True)
class _Facts:
    """What decides about each spectrum of a modality, in the order of the database; all (n,)."""

    spectrum_id: np.ndarray
    gaia_source_id: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    snr: np.ndarray
    not_star: np.ndarray


class DatabaseSource:
    """Spectra of one modality, or pairs of two, streamed from a database.

    Row groups are visited in an order that is drawn anew in every epoch; `DataSettings.buffer` spectra are shuffled
    together. Of pairs the LAMOST side is streamed; the XP side is first copied, in the order of the database, into one file
    that is mapped into memory, since partners lie anywhere.

    Parameters
    ----------
    store : Store
    modalities : tuple of str
        One, or ``("lamost_lrs", "gaia_xp")`` for pairs.
    settings : DataSettings
    seed : int
        Of the order.
    scratch : Path or None
        File for the XP side of pairs; None only counts.
    write_scratch : bool
        False where another process writes it.

    Raises
    ------
    InputError
        When there are no spectra, no pairs, or nothing is held out.
    ProvenanceError
        When parts were prepared differently, or lie on another grid than this version uses.
    """

    def __init__(
        self,
        store: Store,
        modalities: tuple[str, ...],
        settings: DataSettings,
        seed: int,
        scratch: Path | None,
        *,
        write_scratch: bool = True,
    ) -> None:
        self.store, self.modalities, self.settings, self.seed = store, modalities, settings, seed
        self._preparation = {m: _preparation(store, m) for m in modalities}
        first = modalities[0]
        facts = _facts(store, first)
        usable = ~(facts.snr < settings.min_snr) & ~(facts.not_star & settings.stars_only)
        key = sky_key(facts.gaia_source_id, facts.ra, facts.dec, facts.spectrum_id)
        self._partners: np.ndarray | None = None
        self._slot = np.empty(0, np.int64)
        if len(modalities) == 2:
            partner, origin = find_pairs(store)
            other = _facts(store, modalities[1])
            row = _rows_of(partner, facts.spectrum_id, other.spectrum_id)  # (n,), -1 where unpaired
            usable &= row >= 0
            # Both sides of a pair, and its XP spectrum in a training of XP alone, must be held out together.
            of_xp = sky_key(other.gaia_source_id, other.ra, other.dec, other.spectrum_id)
            key = np.where(row >= 0, of_xp[row], key)
            self._origin = origin
            if scratch is not None:
                self._slot, self._partners = self._copy_partners(np.where(usable, row, -1), scratch, write_scratch)
        held = held_out(key, settings.validation)
        self._groups = _row_groups(store, first)
        starts = np.cumsum([0, *(n for *_, n in self._groups)])
        self._starts = starts[:-1]
        self._train, self._held = usable & ~held, usable & held
        counts = np.add.reduceat(self._train, self._starts) if len(self._starts) else np.empty(0, int)
        self._order = np.flatnonzero(counts)
        what = "pairs" if len(modalities) == 2 else f"{first} spectra"
        if not len(self._order) or self._held.sum() < 2:
            raise InputError(
                f"{store.root} has {int(self._train.sum())} {what} to train on and {int(self._held.sum())} held out; both "
                "are needed: ingest more, lower min_snr, or hold out a larger share (validation)"
            )
        per_group = max(n for *_, n in self._groups)
        self._per_chunk = max(1, settings.buffer // per_group)
        self.n_chunks = -(-len(self._order) // self._per_chunk)

    def chunk(self, number: int) -> Arrays:
        """Return a chunk of an endless stream of shuffled epochs."""
        epoch, i = divmod(number, self.n_chunks)
        order = np.random.default_rng([self.seed, epoch]).permutation(self._order)
        arrays = self._read(order[i * self._per_chunk : (i + 1) * self._per_chunk], self._train)
        shuffled = np.random.default_rng([self.seed, epoch, i]).permutation(len(arrays[self.modalities[0]]))
        return {name: flux[shuffled] for name, flux in arrays.items()}

    def validation(self) -> Arrays:
        """Return held-out spectra, from as few row groups as give enough."""
        counts = np.add.reduceat(self._held, self._starts)
        groups = np.random.default_rng(0).permutation(np.flatnonzero(counts))
        enough = 1 + int(np.searchsorted(np.cumsum(counts[groups]), self.settings.validation_size))
        arrays = self._read(groups[:enough], self._held)
        return {name: flux[: self.settings.validation_size] for name, flux in arrays.items()}

    def counts(self) -> Mapping[str, int | None]:
        """Count training and held-out spectra or pairs."""
        return {"training": int(self._train.sum()), "validation": int(self._held.sum())}

    def preparation(self) -> dict[str, tuple[str, int]]:
        """Return what the spectra were prepared with."""
        return self._preparation

    def describe(self) -> dict[str, Any]:
        """Return name of the database, counts, parts and their checksums in short."""
        manifest = self.store.manifest()
        parts = {m: [manifest.files[p].sha256 for p in self.store.spectra_parts(m)] for m in self.modalities}
        described = {"database": self.store.name, **self.counts(), "parts": {m: len(p) for m, p in parts.items()}}
        described["parts_digest"] = digest(parts)
        return described | ({"pairs": self._origin} if len(self.modalities) == 2 else {})

    def _read(self, groups: np.ndarray, keep: np.ndarray) -> Arrays:
        first = self.modalities[0]
        flux, rows = [], []
        for g in groups:
            path, number, n = self._groups[g]
            inside = np.flatnonzero(keep[self._starts[g] : self._starts[g] + n])
            with readable(path):
                column = pq.ParquetFile(path).read_row_group(number, columns=["flux"])["flux"]
            flux.append(matrix(column)[inside])
            rows.append(inside + self._starts[g])
        arrays = {first: np.concatenate(flux)}
        if self._partners is not None:
            arrays[self.modalities[1]] = np.asarray(self._partners[self._slot[np.concatenate(rows)]])
        return arrays

    def _copy_partners(self, row: np.ndarray, scratch: Path, write: bool) -> tuple[np.ndarray, np.ndarray]:
        """Copy the XP spectra that pairs need; return each LAMOST row's place (n,) in the copy, and the copy."""
        needed = np.unique(row[row >= 0])
        slot = np.searchsorted(needed, row)
        if not len(needed):
            return slot, np.empty((0, 0), np.float32)
        if write:
            width = len(get_modality(self.modalities[1]).wavelength)
            scratch.parent.mkdir(parents=True, exist_ok=True)
            copy = np.lib.format.open_memmap(scratch, "w+", np.float32, (len(needed), width))
            start = done = 0
            for path, number, n in _row_groups(self.store, self.modalities[1]):
                inside = needed[done : np.searchsorted(needed, start + n)] - start
                if len(inside):
                    with readable(path):
                        column = pq.ParquetFile(path).read_row_group(number, columns=["flux"])["flux"]
                    copy[done : done + len(inside)] = matrix(column)[inside]
                start, done = start + n, done + len(inside)
            copy.flush()
        return slot, np.load(scratch, mmap_mode="r")


def find_pairs(store: Store) -> tuple[pa.Table, str]:
    """Return the pairs of a database and where they come from.

    The table that `specdb crossmatch lamost_lrs gaia_xp` wrote, or, without one, spectra of equal `gaia_source_id`.

    Returns
    -------
    pairs : pyarrow.Table
        Columns `lamost_lrs` and `gaia_xp`, int64 spectrum_id; the best partner of a LAMOST spectrum first.
    origin : str

    Raises
    ------
    InputError
        When no spectrum has a partner.
    """
    if PAIRS_TABLE in store.tables("pairs"):
        table = read_table(store.root / PAIRS_TABLE)
        if "separation_arcsec" in table.column_names:
            table = table.sort_by("separation_arcsec")
        pairs, origin = table.select(["lamost_lrs", "gaia_xp"]), PAIRS_TABLE
    else:
        lrs, xp = _facts(store, "lamost_lrs"), _facts(store, "gaia_xp")
        known, seen = lrs.gaia_source_id > 0, xp.gaia_source_id > 0
        ids, first = np.unique(xp.gaia_source_id[seen], return_index=True)
        place = np.searchsorted(ids, lrs.gaia_source_id[known]).clip(max=max(len(ids) - 1, 0))
        same = ids[place] == lrs.gaia_source_id[known] if len(ids) else np.zeros(int(known.sum()), bool)
        pairs = pa.table(
            {
                "lamost_lrs": lrs.spectrum_id[known][same],
                "gaia_xp": xp.spectrum_id[seen][first][place[same]] if len(ids) else np.empty(0, np.int64),
            }
        )
        origin = "equal gaia_source_id"
    if not pairs.num_rows:
        raise InputError(
            f"no LAMOST spectrum in {store.root} has a partner in Gaia XP, and alignment needs pairs; "
            "`specdb crossmatch lamost_lrs gaia_xp` finds them, --pairs takes a folder of `specdb simulate pairs`"
        )
    return pairs, origin


def _rows_of(pairs: pa.Table, lrs_ids: np.ndarray, xp_ids: np.ndarray) -> np.ndarray:
    """Return for each LAMOST spectrum the row of its first partner among `xp_ids`, -1 where there is none."""
    row = np.full(len(lrs_ids), -1)
    lrs, first = np.unique(pairs["lamost_lrs"].to_numpy(), return_index=True)
    xp = pairs["gaia_xp"].to_numpy()[first]
    own, partner = _find(lrs, lrs_ids), _find(xp, xp_ids)
    both = (own >= 0) & (partner >= 0)
    row[own[both]] = partner[both]
    return row


def _find(wanted: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the place of each wanted id in `ids`, -1 where it is not."""
    order = np.argsort(ids, kind="stable")
    place = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(ids) - 1)]
    return np.where(ids[place] == wanted, place, -1)


def _row_groups(store: Store, modality: str) -> list[tuple[Path, int, int]]:
    """Return path, number and rows of every row group."""
    groups: list[tuple[Path, int, int]] = []
    for part in store.spectra_parts(modality):
        with readable(store.root / part):
            metadata = pq.ParquetFile(store.root / part).metadata
        groups += [(store.root / part, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
    return groups


def _facts(store: Store, modality: str) -> _Facts:
    columns: dict[str, list[np.ndarray]] = {f: [] for f in _FACTS}
    for part in store.spectra_parts(modality):
        table = read_table(store.root / part, _FACTS)
        for name in ("spectrum_id", "gaia_source_id"):
            columns[name].append(table[name].fill_null(0).to_numpy())
        for name in ("ra", "dec", "snr"):
            columns[name].append(table[name].to_numpy().astype(np.float64))
        columns["class"].append(np.array([value not in (None, "", "STAR") for value in table["class"].to_pylist()]))
    return _Facts(*(np.concatenate(columns[name]) for name in _FACTS))


def _preparation(store: Store, modality: str) -> tuple[str, int]:
    """Return name and version of the preparation of all stored spectra of a modality, whose grid must be ours."""
    parts = store.spectra_parts(modality)
    if not parts:
        have = ", ".join(store.modalities()) or "none"
        raise InputError(
            f"{store.root} has no {modality} spectra (it has: {have}), and this training needs them; "
            f"`specdb ingest {get_modality(modality).survey} PATH` adds some"
        )
    for part in parts:
        with readable(store.root / part):
            metadata = pq.ParquetFile(store.root / part).schema_arrow.metadata or {}
        grid = np.array(json.loads(metadata.get(b"wavelength_vac_angstrom", b"[]")))
        ours = get_modality(modality).wavelength
        if len(grid) != len(ours) or not np.allclose(grid, ours, rtol=1e-9):
            raise ProvenanceError(
                f"{part} lies on another grid ({len(grid)} samples) than {modality} has in this version ({len(ours)}); "
                "ingest the survey anew"
            )
    made = {(p["preparation"], int(p["preparation_version"])) for p in map(store.provenance, parts)}
    if len(made) > 1:
        listed = ", ".join(f"{name} {version}" for name, version in sorted(made))
        raise ProvenanceError(f"the {modality} spectra in {store.root} were prepared differently ({listed}); ingest anew")
    return made.pop()


class SimulatedSource:
    """Pairs, or one side of them, drawn by `PairSimulator` while the training runs.

    The first batches of the simulator are the held-out stars; training goes on from there, without an end, and never sees a
    star twice.

    Parameters
    ----------
    modalities : tuple of str
    settings : DataSettings
        `buffer` is rounded to whole batches of the simulator, and at most 1024.
    seed : int
    """

    def __init__(self, modalities: tuple[str, ...], settings: DataSettings, seed: int) -> None:
        self.modalities, self.settings, self.seed = modalities, settings, seed
        self._simulator = PairSimulator(seed)
        self._first = -(-settings.validation_size // BATCH_PAIRS)
        self._per_chunk = max(1, min(settings.buffer, 1024) // BATCH_PAIRS)

    def chunk(self, number: int) -> Arrays:
        """Simulate and prepare the pairs of a chunk; they come in no particular order, so are not shuffled."""
        first = self._first + number * self._per_chunk
        return self._draw(first, self._per_chunk)

    def validation(self) -> Arrays:
        """Return the held-out pairs."""
        drawn = self._draw(0, self._first)
        return {name: flux[: self.settings.validation_size] for name, flux in drawn.items()}

    def counts(self) -> Mapping[str, int | None]:
        """Return that training never ends."""
        return {"training": None, "validation": self.settings.validation_size}

    def preparation(self) -> dict[str, tuple[str, int]]:
        """Return the current preparations."""
        made = {m: get_modality(m).preparation for m in self.modalities}
        return {m: (p.name, p.version) for m, p in made.items()}

    def describe(self) -> dict[str, Any]:
        """Say that it is simulated."""
        return {"simulated": "specdb simulate pairs, drawn while training", "seed": self.seed, **self.counts()}

    def _draw(self, first: int, n_batches: int) -> Arrays:
        parts = list(self._prepared(first, n_batches))
        return {m: np.concatenate([part[m] for part in parts]) for m in self.modalities}

    def _prepared(self, first: int, n_batches: int) -> Iterator[Arrays]:
        for pairs in self._simulator.stream(n_batches * BATCH_PAIRS, first):
            lrs = get_modality("lamost_lrs").preparation([pairs.lrs])
            xp = get_modality("gaia_xp").preparation([pairs.xp])
            _, of_lrs, of_xp = np.intersect1d(lrs.rows, xp.rows, assume_unique=True, return_indices=True)
            yield {"lamost_lrs": lrs.flux[of_lrs], "gaia_xp": xp.flux[of_xp]}
