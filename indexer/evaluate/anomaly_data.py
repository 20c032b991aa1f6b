"""Spectra whose unusual ones are known: simulated with a truth table, real by the survey's class, a file name or a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from indexer.evaluate.section import Context
from indexer.simulate.pair_survey import simulate_pairs
from specdb.anomaly import Survey
from specdb.database import Database, open_database
from specdb.errors import InputError

__all__ = ["Known", "real_known", "simulated_known"]

_SHARE = 0.06  # of simulated objects that are unusual
_SEED = 820_000  # of the simulator, plus the user's; six digits, unlike those of trainings and of other sections
_ID = {"lamost_lrs": "lamost_obsid", "gaia_xp": "gaia_source_id"}
#: Planted classes that a modality cannot show: of a wrong pair each spectrum alone is ordinary, bad sky is LAMOST's.
_ORDINARY = {"lamost_lrs": ("wrong_pair",), "gaia_xp": ("wrong_pair", "bad_sky")}
#: Words in the names of files and folders that say what is in them.
_WORDS = ("planetary_nebula", "symbiotic", "white_dwarf", "carbon", "galaxy", "qso", "cataclysmic")
#: LAMOST's subclasses of stars that are rare.
_SUBCLASSES = re.compile(r"^(Carbon|CV|WD|DoubleStar|EM)", re.IGNORECASE)


@dataclass(frozen=True)
class Known:
    """A modality of a database with what is unusual in it.

    Attributes
    ----------
    name, title : str
    survey : Survey
    kind : ndarray (n,), str
        Class of what is unusual, empty for the ordinary.
    """

    name: str
    title: str
    survey: Survey
    kind: np.ndarray


@contextmanager
def simulated_known(context: Context, encoder: str) -> Iterator[Iterator[Known]]:
    """Simulate pairs with unusual objects, build a database, and yield its modalities; then LAMOST with known partners.

    Parameters
    ----------
    context : Context
    encoder : str
        Name or folder.
    """
    with TemporaryDirectory(prefix="specdb-anomalies-") as folder:
        yield _simulated(context, encoder, Path(folder))


def _simulated(context: Context, encoder: str, folder: Path) -> Iterator[Known]:
    from indexer.build import build_index

    made = simulate_pairs(
        folder / "simulated", context.settings.anomaly_stars, _SEED + context.settings.seed, anomalies=_SHARE
    )
    truth = pq.read_table(made.truth, columns=[*_ID.values(), "anomaly"])
    folders = {"lamost_lrs": ("lamost", made.lamost), "gaia_xp": ("gaia-xp", made.xp_sampled)}
    present = [name for name in folders if name in context.encoder.modalities]
    for name in present:
        build_index(folder / "db", folders[name][0], folders[name][1], encoder=encoder)
    db = open_database(folder / "db")
    db.device = context.device
    for name in present:
        yield Known(f"simulated_{name}", f"simulated {name}", *_planted(db, name, truth, _ORDINARY[name]))
    if len(present) == 2:
        columns = {name: truth[_ID[name]] for name in present}
        with db.store.writing() as writer:
            writer.put("pairs/simulated.parquet", pa.table(columns), {"origin": "specdb simulate pairs"})
        yield Known("simulated_pairs", "simulated lamost_lrs with partners", *_planted(db, "lamost_lrs", truth, ()))


def _planted(db: Database, modality: str, truth: pa.Table, ordinary: tuple[str, ...]) -> tuple[Survey, np.ndarray]:
    survey = Survey(db, modality)
    kinds = dict(zip(truth[_ID[modality]].to_pylist(), truth["anomaly"].to_pylist(), strict=True))
    kind = np.array([kinds.get(i, "") for i in survey.ids.tolist()])
    return survey, np.where(np.isin(kind, ordinary), "", kind)


def real_known(root: Path, listed: Path | None = None, device: str = "cpu") -> Iterator[Known]:
    """Yield the modalities of a database in which something is known to be unusual.

    Parameters
    ----------
    root : Path
    listed : Path, optional
        CSV with the columns ``spectrum_id`` and ``kind``, instead of classes, subclasses and file names.
    device : str

    Raises
    ------
    InputError
        When the CSV lacks a column.
    """
    db = open_database(root)
    db.device = device
    kinds = _listed(listed) if listed else None
    for modality in db.modalities:
        survey = Survey(db, modality)
        if kinds is not None:
            kind = np.array([kinds.get(i, "") for i in survey.ids.tolist()])
        else:
            columns = survey.columns("class", "subclass", "source_file")
            facts = (columns[name].to_pylist() for name in ("class", "subclass", "source_file"))
            kind = np.array([_kind(*row) for row in zip(*facts, strict=True)])
        if (kind != "").any():
            yield Known(f"real_{modality}", f"real {modality}", survey, kind)


def _kind(survey_class: str | None, subclass: str | None, source_file: str | None) -> str:
    """Return the class of an unusual spectrum by what its survey and its file's name say, or ''."""
    if survey_class and survey_class != "STAR":
        return survey_class.lower()
    if subclass and (rare := _SUBCLASSES.match(subclass)):
        return rare[1].lower()
    path = Path((source_file or "").split("::")[0].lower())
    return next((word for part in (path.stem, path.parent.name) for word in _WORDS if word in part), "")


def _listed(path: Path) -> dict[int, str]:
    table = pc.read_csv(path)
    if not {"spectrum_id", "kind"} <= set(table.column_names):
        raise InputError(f"{path} has the columns {', '.join(table.column_names)}; it needs spectrum_id and kind")
    return dict(zip(table["spectrum_id"].to_pylist(), table["kind"].to_pylist(), strict=True))
