"""Checking a database against its manifest: files, checksums, counts, provenance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from specdb.errors import DatabaseError
from specdb.store.files import sha256_file
from specdb.store.store import Store
from specdb.store.tables import read_table

__all__ = ["Problem", "can_be_made_again", "verify_store"]


@dataclass(frozen=True)
class Problem:
    """Something that is not as the manifest says.

    Attributes
    ----------
    file : str
        Path relative to the database.
    what : str
        What was found and what was expected.
    remedy : str
        What to do about it.
    """

    file: str
    what: str
    remedy: str


def verify_store(store: Store, checksums: bool = True) -> list[Problem]:
    """Compare every file with the manifest.

    Parameters
    ----------
    store : Store
    checksums : bool
        Read every byte; otherwise only existence, sizes and row counts are compared.

    Returns
    -------
    list of Problem
        Empty for a sound database.
    """
    damaged = _files(store, checksums)
    return [*damaged, *_strays(store), *_rows(store, {problem.file for problem in damaged})]


def _files(store: Store, checksums: bool) -> list[Problem]:
    problems = []
    manifest = store.manifest()
    for name, entry in sorted(manifest.files.items()):
        path = store.root / name
        rebuild = _remedy(name)
        if entry.provenance not in manifest.provenance:
            problems.append(Problem(name, "its provenance record is missing from the manifest", rebuild))
        if not path.exists():
            problems.append(Problem(name, "the file is missing", rebuild))
        elif name.endswith("rejected.parquet"):
            # It may hold rows of a step that was killed before it was committed; these are ignored everywhere.
            problems += _check_rejected(store, name, entry.rows)
        elif path.stat().st_size != entry.bytes:
            problems.append(Problem(name, f"{path.stat().st_size} bytes, the manifest says {entry.bytes}", rebuild))
        elif checksums and sha256_file(path) != entry.sha256:
            problems.append(Problem(name, "the content differs from the manifest's checksum", rebuild))
        elif name.endswith(".parquet") and (rows := pq.read_metadata(path).num_rows) != entry.rows:
            problems.append(Problem(name, f"{rows} rows, the manifest says {entry.rows}", rebuild))
    return problems


def _check_rejected(store: Store, name: str, expected: int) -> list[Problem]:
    try:
        rows = store.rejected(name.split("/")[1]).num_rows
    except DatabaseError as error:
        return [Problem(name, str(error), "restore it from a copy")]
    return [] if rows == expected else [Problem(name, f"{rows} committed rows, the manifest says {expected}", "restore it")]


def _strays(store: Store) -> list[Problem]:
    known = store.manifest().files
    tables = [p.relative_to(store.root).as_posix() for p in store.root.rglob("*.parquet")]
    remedy = "harmless: left by an interrupted run or by `specdb compact`, cleared by the next run that writes"
    return [Problem(name, "not in the manifest", remedy) for name in sorted(tables) if name not in known]


def _rows(store: Store, damaged: set[str]) -> list[Problem]:
    """Every embeddings part must hold the ids of its spectra part in the same order, and no id may occur twice."""
    problems = []
    for modality in store.modalities():
        by_part = {}
        for part in store.spectra_parts(modality):
            if part not in damaged:
                by_part[part.rsplit("/", 1)[1]] = read_table(store.root / part, ["spectrum_id"])["spectrum_id"].to_numpy()
        ids = np.concatenate([np.empty(0, np.int64), *by_part.values()])
        if len(ids) != len(np.unique(ids)):
            problems.append(
                Problem(f"spectra/{modality}", f"{len(ids) - len(np.unique(ids))} ids occur twice", "report this")
            )
        for encoder in store.encoders(modality):
            for name in store.embedding_parts(encoder, modality):
                expected = by_part.get(name.rsplit("/", 1)[1])
                if expected is None or name in damaged:
                    continue
                found = read_table(store.root / name, ["spectrum_id"])["spectrum_id"].to_numpy()
                if not np.array_equal(found, expected):
                    problems.append(Problem(name, "its ids are not those of its spectra part", _remedy(name)))
    return problems


def can_be_made_again(problem: Problem) -> bool:
    """Whether the file is made from other files of the database."""
    return problem.file.split("/")[0] in ("embeddings", "index")


def _remedy(name: str) -> str:
    folder = name.split("/")[0]
    if folder == "index":
        return "`specdb index` builds it again"
    if folder == "embeddings":
        return "`specdb verify --repair` forgets it, then `specdb embed` makes it again from the spectra"
    return "restore it from a copy, or build the database again from the survey's files"
