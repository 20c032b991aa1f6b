"""Simulated pairs to train on, drawn and prepared once and kept in a folder until the training is done."""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from indexer.simulate.pairs import BATCH_PAIRS, PairSimulator
from specdb.errors import InputError
from specdb.shipped import shipped_file
from specdb.spectra import Prepared, get_modality
from specdb.store.files import atomic_path

__all__ = ["PAIR_LABELS", "TrainingPairs", "load_pairs"]

#: Teff in K, logg in dex (cgs), [Fe/H] and [alpha/Fe] in dex, E(B-V) in mag.
PAIR_LABELS = ("teff", "logg", "feh", "alpha_fe", "ebv")

_PART_BATCHES = 16  # of the simulator, in one file
_STATISTICS = ("emulator.npz", "lrs_instrument.npz", "xp_instrument.npz")


@dataclass(frozen=True)
class TrainingPairs:
    """Prepared simulated pairs; row i of everything is the same star.

    Half precision keeps three digits, a tenth of the noise of the best LAMOST spectra.

    Attributes
    ----------
    lrs_flux, lrs_sigma : ndarray (n, 1462), float16
        Prepared flux and its error, 0 where a pixel was repaired.
    xp_flux : ndarray (n, 343), float32
    xp_sigma : ndarray (n, 343), float16
    labels : ndarray (n, 5), float64
        The truth, columns `PAIR_LABELS`.
    snr : ndarray (n,), float32
        Median S/N per pixel of the LAMOST spectra.
    star : ndarray (n,), int64
        Number of the star within the seed.
    """

    lrs_flux: np.ndarray
    lrs_sigma: np.ndarray
    xp_flux: np.ndarray
    xp_sigma: np.ndarray
    labels: np.ndarray
    snr: np.ndarray
    star: np.ndarray

    def __len__(self) -> int:
        return len(self.star)

    def take(self, rows: np.ndarray | slice) -> TrainingPairs:
        """Return the given rows."""
        return TrainingPairs(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def load_pairs(n: int, seed: int, folder: Path, workers: int = 1) -> TrainingPairs:
    """Return the first `n` simulated pairs of a seed, less those that a preparation declines.

    They are kept in parts in a folder; parts that are there are not drawn again. A part is named after the seed and the
    statistics of the simulator, so that those of another simulator are left alone.

    Parameters
    ----------
    n : int
    seed : int
        Of `indexer.simulate.PairSimulator`.
    folder : Path
        Made if need be; 8 kB a pair.
    workers : int
        Processes; more than one need a script that guards its main part.

    Raises
    ------
    InputError
        When `n` is not positive.
    """
    if n < 1:
        raise InputError(f"n is {n}; draw at least one pair")
    folder.mkdir(parents=True, exist_ok=True)
    n_parts = -(-n // (_PART_BATCHES * BATCH_PAIRS))
    key = hashlib.sha256(b"".join(shipped_file(name).read_bytes() for name in _STATISTICS)).hexdigest()[:12]
    paths = [folder / f"pairs-{key}-{seed}-{part}.npz" for part in range(n_parts)]
    missing = [(part, path) for part, path in enumerate(paths) if not path.exists()]
    make = partial(_make_part, seed)
    if workers > 1 and len(missing) > 1:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            list(pool.map(make, *zip(*missing, strict=True)))
    else:
        for part, path in missing:
            make(part, path)
    columns: dict[str, list[np.ndarray]] = {f.name: [] for f in fields(TrainingPairs)}
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            rows = arrays["star"] < n
            for name, parts in columns.items():
                parts.append(arrays[name][rows])
    return TrainingPairs(**{name: np.concatenate(parts) for name, parts in columns.items()})


def _make_part(seed: int, part: int, path: Path) -> None:
    """Draw, prepare and save one part."""
    modalities = [get_modality(name) for name in ("lamost_lrs", "gaia_xp")]
    found: dict[str, list[np.ndarray]] = {f.name: [] for f in fields(TrainingPairs)}
    for pairs in PairSimulator(seed).stream(_PART_BATCHES * BATCH_PAIRS, part * _PART_BATCHES):
        lrs, xp = (m.preparation([s]) for m, s in zip(modalities, (pairs.lrs, pairs.xp), strict=True))
        both = np.intersect1d(lrs.rows, xp.rows)
        i, j = np.searchsorted(lrs.rows, both), np.searchsorted(xp.rows, both)
        truth = pairs.truth.take(both)
        row = {
            "lrs_flux": lrs.flux[i].astype(np.float16),
            "lrs_sigma": _sigma(lrs)[i],
            "xp_flux": xp.flux[j],
            "xp_sigma": _sigma(xp)[j],
            "labels": np.column_stack([truth.labels, truth.alpha, truth.ebv]),
            "snr": lrs.snr[i],
            "star": truth.star,
        }
        for name, values in row.items():
            found[name].append(values)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **{name: np.concatenate(values) for name, values in found.items()})  # type: ignore[arg-type]


def _sigma(prepared: Prepared) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(prepared.ivar > 0, 1 / np.sqrt(prepared.ivar), 0).clip(0, 100).astype(np.float16)
