"""Readers in other processes while spectra are added, deleted and compacted: each answer is that of one state, in order."""

from __future__ import annotations

import multiprocessing
import sys
import time
import types
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import specdb
from indexer.compaction import compact
from indexer.indexing import IndexSettings, update_index
from specdb.search.exact import exact_search
from specdb.spectra import get_modality
from specdb.store import Store
from tests.catalog.small_store import ENCODER, N, commit, lamost, vectors

LRS, K, READERS = "lamost_lrs", 7, 2
FIRSTS = (1001, 2001, 3001)

#: Asked for throughout; never deleted.
QUERY = FIRSTS[0] + 20


def read(folder: Path, reader: int, asked: Synchronized, stop: Synchronized, found: Queue) -> None:
    """Search until told to stop, and report the distinct answers in order."""
    answers: list[Any] = []
    db = specdb.open(folder)
    while not stop.value:
        try:
            hits = db.search(QUERY, k=K, where="snr > 0" if asked.value % 2 else None)
            many = db.search_many(np.array([QUERY]), k=K, columns=["source_file"]).rows()
            named = [int(name.rsplit("-", 1)[1].split(".")[0]) for name in many.rows["source_file"].to_pylist()]
            for ids in (hits.ids.tolist(), named):
                if answers[-1:] != [ids]:
                    answers.append(ids)
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")
        with asked.get_lock():
            asked.value += 1
    found.put((reader, answers))


def test_readers_see_one_state_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # New processes begin with the main module; tests of the page leave a script of their own there.
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
    store = Store.create(tmp_path / "db", ENCODER)
    states: list[list[int]] = []
    held: list[int] = []
    x = np.concatenate([vectors(N, seed) for seed in range(3)])
    ids = np.concatenate([np.arange(first, first + N) for first in FIRSTS])

    def expect() -> None:
        """Note the exact answer of the state that begins."""
        rows = np.flatnonzero(np.isin(ids, [i for i in held if i != QUERY]))
        states.append(ids[exact_search(x, x[ids == QUERY], K, rows=rows)[1][0]].tolist())

    def index(rebuild: bool = False) -> None:
        with store.writing() as writer:
            update_index(writer, LRS, ENCODER, "abc", IndexSettings("flat"), rebuild)

    def add(number: int) -> None:
        commit(store, get_modality(LRS), lamost(FIRSTS[number]), number)
        held.extend(range(FIRSTS[number], FIRSTS[number] + N))
        expect()
        index()

    def delete(number: int) -> None:
        gone = states[-1][:2]
        held[:] = [i for i in held if i not in gone]
        expect()
        specdb.open(store.root).delete(gone)

    add(0)
    context = multiprocessing.get_context("spawn")
    stop, found = context.Value("b", 0), context.Queue()
    counts = [context.Value("l", 0) for _ in range(READERS)]
    readers = [context.Process(target=read, args=(store.root, i, counts[i], stop, found)) for i in range(READERS)]
    for reader in readers:
        reader.start()

    def wait() -> None:
        """Let every reader finish two more answers."""
        before = [count.value for count in counts]
        while any(count.value < b + 2 for count, b in zip(counts, before, strict=True)):
            assert all(reader.is_alive() for reader in readers)
            time.sleep(0.01)

    steps = (lambda: add(1), lambda: delete(1), lambda: compact(store.root), lambda: add(2), lambda: index(rebuild=True))
    try:
        wait()
        for step in (*steps, lambda: delete(2), lambda: compact(store.root)):
            step()
            wait()
    finally:
        stop.value = 1
    reported = [found.get() for _ in readers]
    for reader in readers:
        reader.join()
    assert len({tuple(state) for state in states}) == len(states) == 5
    for _, answers in reported:
        assert answers == sorted((a for a in answers if a in states), key=states.index)
        assert answers[0] == states[0]
        assert answers[-1] == states[-1]
