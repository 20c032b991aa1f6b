"""Reading sources in worker processes, in order, with bounded memory.

Decompressing and parsing one FITS file takes longer than preparing it, so files are read by a few processes, some dozens
at a time, while the caller prepares and encodes. A source of many spectra is streamed by the calling process instead: its
batches would be too large to pass around, and one such file keeps a reader of Arrow or HDF5 busy anyway.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

import pyarrow as pa

from specdb.errors import InputError, ReadError
from specdb.spectra import METADATA, Rejection, Source, Spectra
from specdb.spectra.readers import read_source

__all__ = ["Record", "read_records"]

#: Sources per task: enough to hide the cost of passing results between processes (about 0.1 ms a task).
_TASK = 32

#: Fewer sources than this are read by the calling process before others would have started.
_FEW = 256

#: A source whose first batch is larger than this is streamed by the caller.
_SMALL = 64


@dataclass(frozen=True)
class Record:
    """What one read of a source gave: spectra, or the reason why it gave none.

    Attributes
    ----------
    source : str
        Name of the source.
    content : Spectra or Rejection
    first : int
        Number of the first spectrum within its source; -1 for a rejection.
    ends : bool
        True when the source holds nothing more.
    """

    source: str
    content: Spectra | Rejection
    first: int
    ends: bool

    def __len__(self) -> int:
        return len(self.content) if isinstance(self.content, Spectra) else 1

    def split(self, n: int) -> tuple[Record, Record]:
        """Split into the first `n` spectra and the rest."""
        assert isinstance(self.content, Spectra)
        head, tail = self.content.take(slice(n)), self.content.take(slice(n, None))
        return Record(self.source, head, self.first, False), Record(self.source, tail, self.first + n, self.ends)


#: Sources with their records; None stands for a source of many spectra, which the caller streams itself.
_Results = list[tuple[Source, list[Record] | None]]


def read_records(
    sources: Iterable[Source], readers: tuple[str, ...], *, file_format: str | None = None, workers: int = 1
) -> Iterator[Record]:
    """Yield the content of sources in their order.

    Parameters
    ----------
    sources : iterable of Source
        May be endless: only a few hundred are in flight at once.
    readers : tuple of str
        Names of the readers to try, see `specdb.spectra.readers`.
    file_format : str, optional
        Force one reader.
    workers : int
        Reader processes; 0 reads in this process, as always where there are few sources.

    Notes
    -----
    Every source ends with exactly one record whose `ends` is true. A source that fails midway keeps the spectra it gave
    before, followed by a `Rejection`.
    """
    sources = iter(sources)
    first = list(islice(sources, _FEW))
    if len(first) < _FEW:
        workers = 0
    tasks = _chunks(chain(first, sources), _TASK)
    results = (
        map(_read_small, tasks, _repeat(readers), _repeat(file_format))
        if workers == 0
        else _in_processes(tasks, readers, file_format, workers)
    )
    for result in results:
        for source, records in result:
            yield from _stream(source, readers, file_format) if records is None else records


def _stream(source: Source, readers: tuple[str, ...], file_format: str | None) -> Iterator[Record]:
    """Read one source, telling the last record from the others by reading one ahead."""
    waiting: Record | None = None
    count = 0
    try:
        for spectra in read_source(source, readers, file_format=file_format):
            if waiting is not None:
                yield waiting
            waiting = Record(source.name, spectra, count, False)
            count += len(spectra)
        if waiting is None:
            raise ReadError("empty_file", "the file holds no spectrum")
        yield Record(waiting.source, waiting.content, waiting.first, True)
    except ReadError as error:
        if waiting is not None:
            yield waiting
        yield Record(source.name, Rejection(error.reason, error.detail), -1, True)


def _read_small(sources: Sequence[Source], readers: tuple[str, ...], file_format: str | None) -> _Results:
    """Read sources of few spectra; None stands for a large one, which the caller streams itself."""
    out: _Results = []
    for source in sources:
        records: list[Record] | None = []
        for record in _stream(source, readers, file_format):
            if len(record) > _SMALL or not record.ends:
                records = None
                break
            assert records is not None
            records.append(record)
        out.append((source, records))
    return out


def _read_packed(sources: Sequence[Source], readers: tuple[str, ...], file_format: str | None) -> tuple[_Results, pa.Table]:
    """Read as `_read_small`, with the metadata of all spectra in one table.

    Sending a table of one row between processes takes 7 ms, more than reading the file; one of many rows hardly longer.
    """
    results = _read_small(sources, readers, file_format)
    spectra = [r.content for _, records in results for r in records or () if isinstance(r.content, Spectra)]
    if not spectra:
        return results, METADATA.empty_table()
    metadata = pa.concat_tables([s.metadata for s in spectra], promote_options="default").combine_chunks()
    none = METADATA.empty_table()  # one object, so that it is sent once
    return [(source, _with_metadata(records, lambda _: none)) for source, records in results], metadata


def _unpack(results: _Results, metadata: pa.Table) -> _Results:
    """Undo `_read_packed`."""
    start = 0

    def next_rows(n: int) -> pa.Table:
        nonlocal start
        start += n
        return metadata.slice(start - n, n)

    return [(source, _with_metadata(records, next_rows)) for source, records in results]


def _with_metadata(records: list[Record] | None, rows: Callable[[int], pa.Table]) -> list[Record] | None:
    def changed(record: Record) -> Record:
        if not isinstance(record.content, Spectra):
            return record
        return replace(record, content=replace(record.content, metadata=rows(len(record.content))))

    return None if records is None else [changed(record) for record in records]


def _in_processes(
    tasks: Iterator[list[Source]], readers: tuple[str, ...], file_format: str | None, workers: int
) -> Iterator[_Results]:
    # A forked child would inherit locks of torch's and BLAS's threads, so fresh processes are started.
    context = multiprocessing.get_context("spawn")
    pending: deque[Future] = deque()
    # Ctrl-C goes to all processes of the terminal; the caller alone deals with it.
    with ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            for task in islice(tasks, 2 * workers + 2):
                with _main_hidden():
                    pending.append(pool.submit(_read_packed, task, readers, file_format))
            while pending:
                result = _unpack(*pending.popleft().result())
                for task in islice(tasks, 1):
                    with _main_hidden():
                        pending.append(pool.submit(_read_packed, task, readers, file_format))
                yield result
        except BrokenProcessPool as error:
            raise InputError(
                "a reader process was killed, perhaps for want of memory; everything committed is safe: run the same again, "
                "or read in the calling process with IngestSettings(workers=0), on the command line --workers 0"
            ) from error
        finally:
            for future in pending:
                future.cancel()


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep processes that start meanwhile from importing, that is running again, the user's script.

    Readers need nothing of it, and a script without `if __name__ == "__main__":` would build the database in each of them.
    """
    main: dict[str, Any] = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(kept)


def _chunks(sources: Iterable[Source], size: int) -> Iterator[list[Source]]:
    iterator = iter(sources)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _repeat(value: object) -> Iterator:
    while True:
        yield value
