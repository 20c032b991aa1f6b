"""From embeddings and spectra to `anomalies/<modality>.parquet`: fit, score part by part, calibrate, combine, explain.

Raw scores of each part are committed as soon as they are there and looked up when the same run is started again; the
finished table replaces them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from specdb.anomaly.deviations import DEVIATIONS_FOLDER, deviation_table, deviations_path
from specdb.anomaly.expected import Sample
from specdb.anomaly.features import Peak
from specdb.anomaly.ranking import COMBINATIONS, Ranked, rank
from specdb.anomaly.reasons import reasons, spikes
from specdb.anomaly.scores import SCORES, FittedScore, Unavailable, chosen_scores, voting_scores
from specdb.anomaly.scores.catalogue import values_of
from specdb.anomaly.survey import AnomalySettings, Survey
from specdb.catalog.selection import select_values
from specdb.errors import DatabaseError, InputError, QueryError
from specdb.spectra import Quality
from specdb.store import digest, read_schema, read_table
from specdb.store.tombstones import in_sorted

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["AnomalyRun", "anomaly_table", "run_anomalies"]

#: Reasons are worked out for at least so many rows, and for all with a smaller p-value.
_EXPLAINED, _EXPLAINED_P = 1000, 0.01
_VERSION = 2  # changes with the numbers that the same spectra are given
_SHIFTED = 2.0  # surprise of the redshift score from which the redshift is told
_NOISE = 0.1  # share of negative pixels that ordinary light does not have


class Progress(Protocol):
    """Told how far a run is."""

    def start(self, stage: str, total: int | None) -> None:
        """Begin a stage."""

    def advance(self, n: int) -> None:
        """Report items done."""

    def end(self) -> None:
        """End the stage."""


class _Silent:
    def start(self, stage: str, total: int | None) -> None:
        pass

    def advance(self, n: int) -> None:
        pass

    def end(self) -> None:
        pass


@dataclass(frozen=True)
class AnomalyRun:
    """What a run did.

    Attributes
    ----------
    modality : str
    rows : int
    used : tuple of str
        Scores that took part.
    skipped : dict of str to str
        Scores that could not, and why.
    settings : AnomalySettings
    reused : bool
        Whether the table was there already, made in the same way from the same rows.
    """

    modality: str
    rows: int
    used: tuple[str, ...]
    skipped: dict[str, str]
    settings: AnomalySettings
    reused: bool = False


def run_anomalies(
    db: Database, modality: str, settings: AnomalySettings | None = None, progress: Progress | None = None
) -> AnomalyRun:
    """Score all spectra of a modality and store the table ``anomalies/<modality>.parquet``.

    Started again after an interruption it goes on; with nothing new it does nothing.

    Raises
    ------
    QueryError
        For a modality that the database does not have.
    InputError
        For unknown scores or combinations, or fewer than 40 spectra.
    DatabaseError
        Where spectra have no embeddings or no index yet.
    """
    settings, progress = settings or AnomalySettings(), progress or _Silent()
    if modality not in db.modalities:
        raise QueryError(f"the database has no modality {modality!r}; it has {', '.join(db.modalities) or 'none'}")
    scores = chosen_scores(settings.methods)
    if settings.combination not in COMBINATIONS:
        raise InputError(f"no combination is called {settings.combination!r}; choose {', '.join(COMBINATIONS)}")
    survey = Survey(db, modality, settings)
    key = _key(survey)
    name = f"anomalies/{modality}.parquet"
    if name in db.store.manifest().files:
        record = db.store.provenance(name)
        if record.get("key") == key and deviations_path(modality) in db.store.manifest().files:
            return AnomalyRun(modality, len(survey), tuple(record["scores"]), record["skipped"], settings, reused=True)
    if len(survey) < 2 * settings.k:
        raise InputError(f"{len(survey)} {modality} spectra are too few to say what is ordinary; add spectra")
    progress.start("learning what is ordinary", None)
    fitted: dict[str, FittedScore] = {}
    skipped: dict[str, str] = {}
    for score in scores:
        try:
            fitted[score.name] = score.fit(survey)
        except Unavailable as reason:
            skipped[score.name] = str(reason)
    progress.end()
    raw = _raw_scores(survey, fitted, key, progress)
    voting = list(raw) if settings.methods else voting_scores(raw)
    ranked = rank(raw, _covariates(survey), settings.combination, voting=voting)
    progress.start("reasons", None)
    words, deviations = _reasons(survey, ranked)
    table = _table(survey, ranked, raw, words)
    progress.end()
    record = {
        "key": key,
        "encoder": db.store.default_encoder,
        "weight_hash": db.store.provenance(survey.parts[0][1]).get("weight_hash"),
        "settings": asdict(settings) | {"methods": list(settings.methods)},
        "scores": list(fitted),
        "skipped": skipped,
        "calibrated_on": int(ranked.ordinary.sum()),
    }
    with db.store.writing() as writer:
        # The scores come last: without them a killed run begins again, and makes both.
        writer.put(deviations_path(modality), deviations, {"kind": DEVIATIONS_FOLDER, "key": key})
        writer.put(name, table, record)
        writer.remove(db.store.tables(_scratch(modality)))
    return AnomalyRun(modality, len(survey), tuple(fitted), skipped, settings)


def anomaly_table(db: Database, modality: str) -> pa.Table:
    """Return the stored table of a modality without what was deleted since; `DatabaseError` where there is none."""
    name = f"anomalies/{modality}.parquet"
    if name not in db.store.manifest().files:
        raise DatabaseError(f"{modality} has no anomaly scores yet; `specdb anomalies` makes them")
    table, deleted = read_table(db.store.root / name), db.store.deleted(modality)
    return table.filter(pa.array(~in_sorted(table["spectrum_id"].to_numpy(), deleted))) if len(deleted) else table


def _scratch(modality: str) -> str:
    return f"scratch/anomalies-{modality}"


def _key(survey: Survey) -> str:
    """Return what a table of scores depends on, as a short hash."""
    files = survey.db.store.manifest().files
    inputs = [files[name].sha256 for pair in survey.parts for name in pair]
    beside = [files[n].sha256 for folder in ("pairs", "predictions", "labels") for n in survey.db.store.tables(folder)]
    deleted = survey.db.store.deleted(survey.modality).tolist()
    return digest([inputs, beside, deleted, asdict(survey.settings), _VERSION, list(SCORES)])


def _raw_scores(survey: Survey, fitted: dict[str, FittedScore], key: str, progress: Progress) -> dict[str, np.ndarray]:
    store = survey.db.store
    out = {name: np.full(len(survey), np.nan) for name in fitted}
    progress.start("scores", len(survey))
    first = 0
    for number in range(len(survey.parts)):
        name = f"{_scratch(survey.modality)}/part-{number:05d}.parquet"
        if name in store.manifest().files and store.provenance(name).get("key") == key:
            table = read_table(store.root / name)
        else:
            found: dict[str, list[np.ndarray]] = {score: [] for score in fitted}
            for block in survey.part(number, first):
                for score, values in found.items():
                    values.append(fitted[score](block))
                progress.advance(len(block.ids))
            table = pa.table({score: np.concatenate(values).astype(np.float64) for score, values in found.items()})
            if len(survey.parts) > 1:
                with store.writing() as writer:
                    writer.put(name, table, {"key": key})
        here = slice(first, first + table.num_rows)
        for score in fitted:
            out[score][here] = table[score].to_numpy()
        first = here.stop
    progress.end()
    return out


def _covariates(survey: Survey) -> list[np.ndarray]:
    """Return ln S/N and, where a catalogue or a head knows it, Teff."""
    snr = survey.snr.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = [np.where(snr > 0, np.log(snr), np.nan)]
    store = survey.db.store
    teff = np.full(len(survey), np.nan)
    place = np.argsort(survey.ids)
    # Catalogues after heads, since they count for more.
    for name in (*store.tables("predictions"), *store.tables("labels")):
        if "teff" not in read_schema(store.root / name).names:
            continue
        if name.startswith("labels/"):
            table = select_values(store, survey.modality, {"teff": f'CAST("{PurePath(name).stem}"."teff" AS DOUBLE)'})
        else:
            table = read_table(store.root / name)
        values = values_of(table.select(["spectrum_id", "teff"]).drop_null(), "teff", survey.ids, place)
        teff = np.where(np.isfinite(values), values, teff)
    if np.isfinite(teff).sum() >= 200:
        found.append(teff)
    return found


def _reasons(survey: Survey, ranked: Ranked) -> tuple[list[str | None], pa.Table]:
    """Explain the most unusual rows, None for the others; and say where they deviate."""
    order = np.argsort(-ranked.surprise, kind="stable")
    count = max(_EXPLAINED, int((ranked.surprise > -np.log10(_EXPLAINED_P)).sum()))
    chosen = np.zeros(len(survey), bool)
    chosen[order[:count]] = True
    looks = "expectation" in vars(survey) or "feature" in ranked.components
    out: list[str | None] = [None] * len(survey)
    places = [deviation_table([], [], survey.wavelength, survey.modality)]
    for block in survey.blocks():
        rows = np.flatnonzero(chosen[block.rows]) if chosen[block.rows].any() else np.empty(0, np.int64)
        if not len(rows):
            continue
        at = rows + block.rows.start
        peaks: list[list[Peak]] = [[] for _ in rows]
        seen = [""] * len(rows)
        if looks:
            some: Sample = block.spectra.take(rows)
            residual = survey.expectation(some)
            peaks = survey.detector.peaks(residual)
            seen = spikes(residual, survey.wavelength)
        facts = survey.metadata.take(pa.array(at)).to_pylist()
        negative = (block.spectra.flux[rows] < 0).mean(axis=1) > _NOISE
        notes = [
            "; ".join(filter(None, (defect, _note(row["class"], row["z"], row["quality"], noisy))))
            for defect, row, noisy in zip(seen, facts, negative.tolist(), strict=True)
        ]
        if (gain := ranked.components.get("redshift")) is not None and (gain[at] > _SHIFTED).any():
            likely = np.flatnonzero(gain[at] > _SHIFTED)
            _, redshift = survey.shifted(block.spectra.take(rows[likely]))
            for row, z in zip(likely.tolist(), redshift.tolist(), strict=True):
                notes[row] = "; ".join(filter(None, (f"ordinary spectra fit it better at z = {z:.3f}", notes[row])))
        components = {name: values[at] for name, values in ranked.components.items()}
        titles = {name: SCORES[name].title for name in components}
        words = reasons(peaks, survey.wavelength, survey.modality, components, titles, notes)
        for i, text in zip(at.tolist(), words, strict=True):
            out[i] = text
        places.append(deviation_table(survey.ids[at].tolist(), peaks, survey.wavelength, survey.modality))
    return out, pa.concat_tables(places)


def _note(kind: str | None, z: float | None, quality: int | None, noisy: bool) -> str:
    parts = []
    if kind and kind != "STAR":
        redshift = f", z = {z:.3f}" if z is not None and np.isfinite(z) and -1 < z < 10 and kind in ("GALAXY", "QSO") else ""
        parts.append(f"the survey's class is {kind}{redshift}")
    if quality and quality & Quality.MANY_REPAIRED:
        parts.append("more than a tenth of its pixels were repaired")
    if quality and quality & Quality.LOW_CONTINUUM:
        parts.append("its continuum is near zero somewhere")
    if noisy:
        parts.append("more than a tenth of its flux is negative: noise rather than light")
    return "; ".join(parts)


def _table(survey: Survey, ranked: Ranked, raw: dict[str, np.ndarray], why: list[str | None]) -> pa.Table:
    def field(name: str, kind: pa.DataType, description: str) -> pa.Field:
        return pa.field(name, kind, metadata={"description": description})

    fields = [
        field("spectrum_id", pa.int64(), "spectrum"),
        field("score", pa.float64(), "-log10 of the p-value: the higher, the more unusual"),
        field(
            "p_value", pa.float64(), "share of ordinary spectra of the same S/N that score as high; extrapolated below 1/n"
        ),
    ]
    p = 10 ** -np.minimum(ranked.surprise, 300)
    arrays: list[Any] = [pa.array(survey.ids), _numbers(ranked.surprise), _numbers(p)]
    for name, values in raw.items():
        fields.append(field(name, pa.float64(), f"score: {SCORES[name].title}"))
        fields.append(field(f"{name}_p", pa.float64(), f"calibrated p-value of {name}"))
        arrays += [_numbers(values), _numbers(10 ** -np.minimum(ranked.components[name], 300))]
    fields.append(field("reason", pa.string(), "strongest deviations in words; null for ordinary spectra"))
    arrays.append(pa.array(why, pa.string()))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _numbers(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)
