"""Reading, preparing and, when an encoder is given, embedding spectra into a database, part by part.

The stream of records (spectra and unreadable sources, in the order of the inputs) is cut into windows that are prepared
together and parts that are committed together. The cuts depend only on the order of what is still to be read, so a run
that was killed continues exactly where the last committed part ended and writes the same rows as an undisturbed one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.embedding import EmbeddingBuffer, embed_missing
from indexer.known import IntSet, source_key
from indexer.prefetch import prefetch
from indexer.progress import NoProgress, Progress
from indexer.reading import Record, read_records
from specdb.spectra import REASONS, Modality, Rejection, Source, Spectra, expand_sources
from specdb.spectra.readers import suffixes_of
from specdb.store import REJECTED, Batch, Store, Writer, in_sorted, read_table, spectra_schema, spectra_table

__all__ = ["IngestReport", "IngestSettings", "ingest"]


@dataclass(frozen=True)
class IngestSettings:
    """How the work is cut and shared out.

    Attributes
    ----------
    window : int
        Records prepared together; limits memory.
    part_records : int
        Records per committed part; a killed run repeats at most this many.
    workers : int
        Reader processes; 0 reads in the calling process.
    file_format : str or None
        Name of a reader to force, e.g. ``text``.
    retry_failed : bool
        Read sources that failed in earlier runs again.
    undelete : bool
        Take back the deletion of spectra that are met; otherwise they are skipped.
    """

    window: int = 256
    part_records: int = 4096
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    file_format: str | None = None
    retry_failed: bool = False
    undelete: bool = False


@dataclass
class IngestReport:
    """Count in = count out: ``records == accepted + skipped + failed`` for the sources read in this run.

    Attributes
    ----------
    sources : int
        Files and archive members met.
    known : int
        Of these, how many were in the database already (or named twice) and were not read again.
    accepted, skipped, failed : int
        Spectra, and sources that gave none.
    reasons : Counter
        Reason -> number, for those skipped and failed.
    """

    sources: int = 0
    known: int = 0
    accepted: int = 0
    skipped: int = 0
    failed: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def records(self) -> int:
        """Records that this run dealt with."""
        return self.accepted + self.skipped + self.failed


@dataclass
class _Part:
    """What the part being filled holds so far."""

    number: int
    open_sources: dict[str, int]
    records: int = 0
    tables: list[pa.Table] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Window:
    """Some hundred records after preparation: `table` holds the accepted rows, `flux` their prepared flux."""

    table: pa.Table
    flux: np.ndarray
    rejected: list[dict[str, Any]]
    records: list[Record]


def ingest(
    writer: Writer,
    modality: Modality,
    inputs: Sequence[str | Path] | str | Path,
    *,
    settings: IngestSettings | None = None,
    buffer: EmbeddingBuffer | None = None,
    progress: Progress | None = None,
) -> IngestReport:
    """Read sources that the database does not hold yet, prepare them, and commit them part by part.

    Parameters
    ----------
    writer : Writer
        From `Store.writing`.
    modality : Modality
    inputs : sequence of path-like
        Files, folders, globs, tar archives, ``@lists``; see `specdb.spectra.expand_sources`.
    settings : IngestSettings, optional
    buffer : EmbeddingBuffer, optional
        Embed what is accepted while the next files are being read. Parts ingested earlier without embeddings are embedded
        first.
    progress : Progress, optional

    Raises
    ------
    InputError
        An input that does not exist, or a folder without files.
    ProvenanceError
        When the stored spectra were prepared differently.
    """
    settings = settings or IngestSettings()
    progress = progress or NoProgress()
    store, report = writer.store, IngestReport()
    preparation = _preparation_record(modality)
    writer.require_same(store.spectra_parts(modality.name), preparation, f"{modality.name} spectra")
    if settings.retry_failed:
        writer.forget_failures(modality.name)
    if settings.undelete:
        writer.forget_rejected(modality.name, reason="deleted")
    if buffer is not None:
        embed_missing(writer, buffer, progress)

    known_ids = IntSet(store.ids(modality.name, deleted=True))
    open_sources = _open_sources(store, modality.name)
    sources = _unseen(
        expand_sources(inputs, suffixes_of(modality.readers)),
        _seen(store, modality.name, deleted=not settings.undelete),
        open_sources,
        report,
    )
    records = read_records(sources, modality.readers, file_format=settings.file_format, workers=settings.workers)
    windows = (_prepare(modality, w) for w in _windows(_skip_done(records, open_sources), settings.window))

    provenance = {"kind": "spectra", **preparation}
    number = max((b.number for b in store.manifest().batches.get(modality.name, ())), default=-1) + 1
    part = _Part(number, dict(open_sources))

    def commit() -> None:
        batch = Batch(part.number, part.records, dict(part.open_sources))
        rejected = pa.Table.from_pylist([row | {"batch": part.number} for row in part.rejected], REJECTED)
        spectra = pa.concat_tables(part.tables)
        embeddings = None
        if buffer is not None and spectra.num_rows:
            table = buffer.finish(spectra["spectrum_id"].to_numpy())
            embeddings = (buffer.encoder.name, table, buffer.provenance())
        writer.commit_ingest(modality, batch, spectra, rejected, provenance, embeddings)

    progress.start("ingest" if buffer is None else "read and embed", None)
    with closing(prefetch(windows, depth=4)) as prepared:
        for window in prepared:
            window = _without_deleted(window, writer, modality.name, undelete=settings.undelete)
            window = _without_duplicates(window, known_ids)
            _count(report, window)
            part.tables.append(window.table)
            part.rejected += window.rejected
            part.records += sum(map(len, window.records))
            for record in window.records:
                if record.ends:
                    part.open_sources.pop(record.source, None)
                else:
                    part.open_sources[record.source] = record.first + len(record)
            if buffer is not None:
                buffer.add(window.flux)
            progress.advance(sum(map(len, window.records)))
            if part.records >= settings.part_records:
                commit()
                part = _Part(part.number + 1, dict(part.open_sources))
    if part.records:
        commit()
    progress.end()
    return report


# -- what is known already ---------------------------------------------------------------------------------------------


def _seen(store: Store, modality: str, *, deleted: bool) -> IntSet:
    """Return the keys of the sources that need not be read again; those of deleted spectra only where asked for."""
    keys: list[np.ndarray] = []
    columns = [store.rejected(modality)["source_file"]]
    gone = np.empty(0, np.int64) if deleted else store.deleted(modality)
    for part in store.spectra_parts(modality):
        table = read_table(store.root / part, ["spectrum_id", "source_file"])
        columns.append(table["source_file"].filter(pa.array(~in_sorted(table["spectrum_id"].to_numpy(), gone))))
    for column in columns:
        names = column.unique().to_pylist()
        keys.append(np.fromiter(map(source_key, names), np.int64, len(names)))
    return IntSet(np.concatenate(keys))


def _open_sources(store: Store, modality: str) -> dict[str, int]:
    batches = store.manifest().batches.get(modality, ())
    return dict(batches[-1].open_sources) if batches else {}


def _unseen(sources: Iterable[Source], seen: IntSet, open_sources: dict[str, int], report: IngestReport) -> Iterator[Source]:
    to_go_on = set(open_sources)
    for source in sources:
        report.sources += 1
        new = seen.add(np.array([source_key(source.name)]))[0]
        if new or source.name in to_go_on:
            to_go_on.discard(source.name)
            yield source
        else:
            report.known += 1


def _skip_done(records: Iterator[Record], open_sources: dict[str, int]) -> Iterator[Record]:
    """Drop the records of half-read sources that earlier runs have committed."""
    for record in records:
        done = open_sources.get(record.source, 0) - max(record.first, 0)
        if done <= 0 or isinstance(record.content, Rejection):
            yield record
        elif done < len(record):
            yield record.split(done)[1]
        elif record.ends:
            yield Record(record.source, record.content.take(slice(0)), record.first + len(record), True)


# -- windows -----------------------------------------------------------------------------------------------------------


def _windows(records: Iterator[Record], size: int) -> Iterator[list[Record]]:
    """Cut the stream into lists of exactly `size` spectra or unreadable sources (fewer in the last)."""
    window: list[Record] = []
    room = size
    for record in records:
        while len(record) > room:
            head, record = record.split(room)
            yield [*window, head]
            window, room = [], size
        window.append(record)
        room -= len(record)
        if room == 0:
            yield window
            window, room = [], size
    if window:
        yield window


def _prepare(modality: Modality, records: list[Record]) -> _Window:
    readable = [(r, r.content) for r in records if isinstance(r.content, Spectra)]
    rejected = [_rejected_row(r.source, -1, None, r.content) for r in records if isinstance(r.content, Rejection)]
    if not readable:
        return _Window(
            spectra_schema(modality).empty_table(), np.empty((0, len(modality.wavelength)), np.float32), rejected, records
        )

    batches = [spectra for _, spectra in readable]
    prepared = modality.preparation(batches)
    metadata = pa.concat_tables([batch.metadata for batch in batches], promote_options="default")
    source = np.repeat([r.source for r, _ in readable], list(map(len, batches)))
    record = np.concatenate([np.arange(r.first, r.first + len(r)) for r, _ in readable])
    for rejection in prepared.rejections:
        spectrum_id = metadata["spectrum_id"][rejection.row].as_py()
        rejected.append(_rejected_row(str(source[rejection.row]), int(record[rejection.row]), spectrum_id, rejection))
    arrays = {name: getattr(prepared, name) for name in ("flux", "ivar", "snr", "quality", "n_repaired")}
    table = spectra_table(modality, metadata.take(pa.array(prepared.rows)), arrays)
    return _Window(table, prepared.flux, rejected, records)


def _without_deleted(window: _Window, writer: Writer, modality: str, *, undelete: bool) -> _Window:
    """Move rows that the user has deleted to the rejected ones, or take their deletion back."""
    ids = window.table["spectrum_id"].to_numpy()
    gone = in_sorted(ids, writer.store.deleted(modality))
    if undelete and gone.any():
        # Before the rows themselves: killed in between, the next run finds ids that are neither deleted nor there.
        writer.mark_deleted(modality, ids[gone], deleted=False, reason="ingested with --undelete")
        return window
    return _without(window, ~gone, "deleted", "was deleted; `--undelete` takes it back")


def _without_duplicates(window: _Window, known: IntSet) -> _Window:
    """Move rows whose id is in the database already, or came earlier in this run, to the rejected ones."""
    new = known.add(window.table["spectrum_id"].to_numpy())
    return _without(window, new, "duplicate", "is in the database already; the first one is kept")


def _without(window: _Window, kept: np.ndarray, reason: str, what: str) -> _Window:
    """Move the rows that are not kept to the rejected ones."""
    if kept.all():
        return window
    rejected = list(window.rejected)
    for row in window.table.select(["spectrum_id", "source_file"]).filter(pa.array(~kept)).to_pylist():
        detail = f"spectrum_id {row['spectrum_id']} {what}"
        rejected.append(_rejected_row(row["source_file"], -1, row["spectrum_id"], Rejection(reason, detail)))
    return _Window(window.table.filter(pa.array(kept)), window.flux[kept], rejected, window.records)


def _rejected_row(source: str, record: int, spectrum_id: int | None, rejection: Rejection) -> dict[str, Any]:
    return {
        "source_file": source,
        "record": record,
        "spectrum_id": spectrum_id,
        "status": REASONS[rejection.reason],
        "reason": rejection.reason,
        "detail": rejection.detail,
    }


def _count(report: IngestReport, window: _Window) -> None:
    report.accepted += window.table.num_rows
    for row in window.rejected:
        report.reasons[row["reason"]] += 1
        if row["status"] == "skipped":
            report.skipped += 1
        else:
            report.failed += 1


def _preparation_record(modality: Modality) -> dict[str, Any]:
    return {
        "modality": modality.name,
        "preparation": modality.preparation.name,
        "preparation_version": modality.preparation.version,
        "preparation_settings": modality.preparation.settings(),
    }
