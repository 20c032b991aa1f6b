"""Real spectra to train on: read, prepared, grouped into stars, joined with labels, split by star."""

from __future__ import annotations

import csv
import hashlib
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from specdb.errors import InputError, ReadError
from specdb.spectra import Spectra, expand_sources, get_modality, metadata_table
from specdb.spectra.lrs_preparation import LrsPreparation
from specdb.spectra.modality import Preparation
from specdb.spectra.readers import read_source, suffixes_of
from specdb.spectra.stars import split_stars, star_groups

__all__ = [
    "LABELS",
    "TrainingSet",
    "load_lamost",
    "load_xp",
    "read_labels",
    "read_packed",
    "read_pairs",
    "split_stars",
    "star_groups",
]

#: Labels of the LAMOST stellar-parameter pipeline: Teff in K, logg in dex (cgs), [Fe/H] in dex.
LABELS = ("teff", "logg", "feh")

_READERS = ("lamost",)
_CHUNK = 512  # spectra prepared at once


@dataclass(frozen=True)
class TrainingSet:
    """Prepared spectra of one modality with what training and evaluation need to know about them.

    Attributes
    ----------
    flux, ivar : ndarray (n, n_grid), float32
        As in `specdb.spectra.Prepared`.
    snr : ndarray (n,), float32
        Median S/N per pixel; NaN without errors.
    star : ndarray (n,), int64
        Equal numbers are visits of one star.
    labels : ndarray (n, 3), float64
        Columns `LABELS`; NaN where there is none.
    is_star : ndarray (n,), bool
        False where the survey calls it a galaxy or quasar, or leaves it unclassified.
    spectrum_id : ndarray (n,), int64
    provenance : dict
        Files, counts, rejections by reason, and one hash over the names and sizes of the files.
    """

    flux: np.ndarray
    ivar: np.ndarray
    snr: np.ndarray
    star: np.ndarray
    labels: np.ndarray
    is_star: np.ndarray
    spectrum_id: np.ndarray
    provenance: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.flux)

    @property
    def labelled(self) -> np.ndarray:
        """Which spectra (n,) have all labels."""
        return np.isfinite(self.labels).all(axis=1)

    @property
    def sigma(self) -> np.ndarray:
        """Error (n, n_grid), float32, of the prepared flux; 0 where a pixel was repaired."""
        with np.errstate(divide="ignore"):
            return np.where(self.ivar > 0, 1 / np.sqrt(self.ivar), 0).astype(np.float32)

    def take(self, rows: np.ndarray) -> TrainingSet:
        """Return the given rows (integer or boolean index)."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "provenance"})


def load_lamost(folder: Path, preparation: LrsPreparation | None = None) -> TrainingSet:
    """Read and prepare every LAMOST LRS spectrum below a folder.

    FITS files in all layouts, compact ``packed_*.npz`` files (`read_packed`), and labels from every ``labels.csv`` that has
    the columns ``obsid`` and `LABELS`. A spectrum that is met twice counts once; what cannot be used is counted by reason.

    Raises
    ------
    InputError
        When the folder holds no LAMOST spectrum that can be prepared.
    """
    preparation = preparation or LrsPreparation()
    reasons: Counter[str] = Counter()
    files: list[Path] = []
    pending: list[Spectra] = []
    prepared, tables = [], []

    def prepare() -> None:
        if not pending:
            return
        result = preparation(pending)
        metadata = [batch.metadata.select(["spectrum_id", "ra", "dec", "class"]).to_pydict() for batch in pending]
        columns = {name: np.array([v for m in metadata for v in m[name]], dtype=object) for name in metadata[0]}
        reasons.update(rejection.reason for rejection in result.rejections)
        prepared.append(result)
        tables.append({name: column[result.rows] for name, column in columns.items()})
        pending.clear()

    for path, batches in _spectra_below(folder):
        try:
            pending.extend(batches)
        except ReadError as error:
            reasons[error.reason] += 1
            continue
        files.append(path)
        if sum(map(len, pending)) >= _CHUNK:
            prepare()
    prepare()
    if not prepared or not sum(map(len, prepared)):
        found = ", ".join(f"{n} {reason}" for reason, n in reasons.items()) or "nothing"
        raise InputError(f"{folder} holds no usable LAMOST LRS spectrum (found: {found}); name a folder with spectra")

    ids = np.concatenate([t["spectrum_id"] for t in tables]).astype(np.int64)
    ids, keep = np.unique(ids, return_index=True)
    reasons["duplicate"] += sum(map(len, prepared)) - len(keep)

    def gather(name: str) -> np.ndarray:
        return np.concatenate([getattr(p, name) for p in prepared])[keep]

    column = {name: np.concatenate([t[name] for t in tables])[keep] for name in ("ra", "dec", "class")}
    known = read_labels(folder)
    labels = np.array([known.get(i, (np.nan,) * len(LABELS)) for i in ids.tolist()], dtype=np.float64)
    return TrainingSet(
        flux=gather("flux"),
        ivar=gather("ivar"),
        snr=gather("snr"),
        star=star_groups(column["ra"].astype(np.float64), column["dec"].astype(np.float64)),
        labels=labels,
        is_star=column["class"] == "STAR",
        spectrum_id=ids,
        provenance=_provenance(folder, files, len(ids), reasons, preparation),
    )


def load_xp(folder: Path, subfolders: Sequence[str]) -> TrainingSet:
    """Read and prepare the Gaia XP spectra in some folders below a folder, coefficients as well as samples.

    Of a source that is met twice the spectrum with errors counts. There are no labels; every source is a star of its own.

    Raises
    ------
    InputError
        When a subfolder is missing, or nothing there can be prepared.
    """
    modality = get_modality("gaia_xp")
    readers = ("gaia_xp_continuous", "gaia_xp_sampled")
    missing = [name for name in subfolders if not (folder / name).is_dir()]
    if missing:
        raise InputError(f"{folder} has no folder {', '.join(missing)}; XP spectra are sought in {', '.join(subfolders)}")
    reasons: Counter[str] = Counter()
    files: list[Path] = []
    parts: list[Spectra] = []
    for source in expand_sources([folder / name for name in subfolders], suffixes_of(readers)):
        if not source.endswith(suffixes_of(readers)):
            continue
        try:
            parts.extend(read_source(source, readers))
        except ReadError as error:
            reasons[error.reason] += 1
            continue
        files.append(source.path)
    prepared = modality.preparation(parts) if parts else None
    if prepared is None or not len(prepared):
        raise InputError(f"{folder} holds no usable Gaia XP spectrum in {', '.join(subfolders)}; name a folder with spectra")
    reasons.update(rejection.reason for rejection in prepared.rejections)
    ids = np.concatenate([part.metadata["spectrum_id"].to_numpy() for part in parts]).astype(np.int64)[prepared.rows]
    order = np.lexsort((np.isnan(prepared.snr), ids))  # spectra with errors first
    ids, first = np.unique(ids[order], return_index=True)
    keep = order[first]
    reasons["duplicate"] += len(prepared) - len(keep)
    return TrainingSet(
        flux=prepared.flux[keep],
        ivar=prepared.ivar[keep],
        snr=prepared.snr[keep],
        star=np.arange(len(keep)),
        labels=np.full((len(keep), len(LABELS)), np.nan),
        is_star=np.ones(len(keep), bool),
        spectrum_id=ids,
        provenance=_provenance(folder, files, len(keep), reasons, modality.preparation),
    )


def _provenance(
    folder: Path, files: Sequence[Path], n_spectra: int, reasons: Counter[str], preparation: Preparation
) -> dict[str, Any]:
    return {
        "n_spectra": n_spectra,
        "n_files": len(files),
        "folders": dict(sorted(Counter(path.relative_to(folder).parts[0] for path in files).items())),
        "left_out": dict(sorted((reason, n) for reason, n in reasons.items() if n)),
        "files_sha256": _names_and_sizes(folder, files),
        "preparation": {"name": preparation.name, "version": preparation.version, **preparation.settings()},
    }


def _spectra_below(folder: Path) -> Iterator[tuple[Path, Iterator[Spectra]]]:
    """Yield each file that may hold LAMOST spectra, with its spectra."""
    suffixes = suffixes_of(_READERS)
    for source in expand_sources([folder], suffixes):
        if source.path.name.startswith("packed_") and source.path.suffix == ".npz":
            yield source.path, read_packed(source.path)
        elif source.endswith(suffixes):
            yield source.path, read_source(source, _READERS)


def read_packed(path: Path) -> Iterator[Spectra]:
    """Yield the spectra of a compact file of LAMOST DR10 spectra.

    Pixel i has wavelength ``10 ** (log10_wave0 + dlog10_wave * i)``. ``flux_norm`` (float16) is the flux relative to the
    median of the spectrum, NaN where there is no pixel; code c of ``err_code`` means an error of ``10 ** (8 c / 250 - 5)``
    in the same unit, 255 a bad pixel. Positions and classes come from ``labels.csv`` in the same folder, by ``obsid``.

    Raises
    ------
    ReadError
        ``corrupt`` where the file is damaged or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in ("obsid", "flux_norm", "err_code", "log10_wave0", "dlog10_wave")}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ReadError("corrupt", f"{path.name}: {error}; fetch it again") from error
    coeff0, coeff1 = float(arrays["log10_wave0"]), float(arrays["dlog10_wave"])
    code, flux = arrays["err_code"].astype(np.float32), arrays["flux_norm"].astype(np.float32)
    ivar = np.where((code == 255) | ~np.isfinite(flux), 0, 10 ** (10 - 16 * code / 250)).astype(np.float32)
    ids = arrays["obsid"].astype(np.int64)
    rows = {row["obsid"]: row for row in _table(path.with_name("labels.csv"))}
    facts = [rows.get(str(i), {}) for i in ids]
    columns: dict[str, object] = {
        "spectrum_id": ids,
        "ra": [_number(f.get("ra")) for f in facts],
        "dec": [_number(f.get("dec")) for f in facts],
        "class": [f.get("class") for f in facts],
    }
    wavelength = 10 ** (coeff0 + coeff1 * np.arange(flux.shape[1]))
    yield Spectra(wavelength, flux, ivar, metadata=metadata_table(columns), log10_grid=(coeff0, coeff1))


def read_labels(folder: Path) -> dict[int, tuple[float, ...]]:
    """Return the labels (`LABELS`) by obsid from every ``labels.csv`` below a folder."""
    found: dict[int, tuple[float, ...]] = {}
    for path in sorted(folder.rglob("labels.csv")):
        for row in _table(path):
            if row.get("obsid") and all(name in row for name in LABELS):
                found[int(row["obsid"])] = tuple(_number(row[name]) for name in LABELS)
    return found


def read_pairs(folder: Path) -> np.ndarray:
    """Return obsid and source_id (n, 2), int64, of pairs from CSV files with ``lamost_obsid`` and ``xp_source_id``."""
    found: list[tuple[int, int]] = []
    for path in sorted(folder.rglob("*pairs*.csv")):
        rows = _table(path)
        if rows and {"lamost_obsid", "xp_source_id"} <= set(rows[0]):
            found += [(int(row["lamost_obsid"]), int(row["xp_source_id"])) for row in rows]
    return np.array(found, np.int64).reshape(-1, 2)


def _table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def _number(text: str | None) -> float:
    return float(text) if text else float("nan")


def _names_and_sizes(folder: Path, files: Sequence[Path]) -> str:
    listed = sorted(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n" for path in files)
    return hashlib.sha256("".join(listed).encode()).hexdigest()
