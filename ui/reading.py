"""Reading a stranger's file in a process of its own, with limits: what it does there, it does not do to the server.

Checks of sizes come first (`ui.uploads`), but a file may lie about them, and a damaged one may crash the library that reads
it. So the reading itself is done by ``python -m ui.reading``, which gives up most of the memory and time that the server
has. Arrays come back as npz without pickles, everything else as Arrow and JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from specdb import errors
from specdb.errors import InputError, SpecdbError
from specdb.search.query import Question, read_question
from specdb.spectra import Spectra

__all__ = ["MOST_MEMORY", "MOST_SECONDS", "read_apart"]

#: Of the process that reads: bytes of address space, and seconds on the clock.
MOST_MEMORY, MOST_SECONDS = 3 << 30, 60

_ARRAYS = ("wavelength", "flux", "ivar", "and_mask", "or_mask")
_ANSWER, _ROWS, _SAID = "answer.npz", "answer.arrow", "answer.json"


def read_apart(path: Path, modalities: list[str], foreign: bool = False) -> Question:
    """Read the one spectrum of a file in a process of its own; see `specdb.search.query.read_question`.

    Parameters
    ----------
    path : Path
        Alone in a folder that the process may write to.
    modalities : list of str
        Tried in this order.
    foreign : bool
        Then try those that specdb knows besides.

    Raises
    ------
    QueryError, InputError
        As reading in this process would; and `InputError` for a file that takes too much memory or time, or crashes its
        reader.
    """
    command = [sys.executable, "-m", "ui.reading", "foreign" if foreign else "known", str(path), *modalities]
    # One thread: libraries reserve memory for each, and one spectrum needs no more.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPECDB_UI_")}
    search = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *filter(None, [kept.get("PYTHONPATH")])])
    environment = kept | threads | {"PYTHONPATH": search}
    try:
        done = subprocess.run(
            command, env=environment, timeout=MOST_SECONDS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"reading the file took more than {MOST_SECONDS} s; send one spectrum") from None
    said = path.parent / _SAID
    if done.returncode or not said.exists():
        raise InputError("the file needs more memory than one spectrum should, or is damaged; it was not read")
    facts = json.loads(said.read_text(encoding="utf-8"))
    if "error" in facts:
        raise getattr(errors, facts["error"])(facts["text"])
    with np.load(path.parent / _ANSWER, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    rows = pa.ipc.open_stream((path.parent / _ROWS).read_bytes()).read_all()
    grid = tuple(facts["log10_grid"]) if facts["log10_grid"] else None
    spectra = Spectra(**found, metadata=rows, log10_grid=grid)
    return Question(facts["name"], spectra=spectra, modality=facts["modality"])


def _limit() -> None:
    """Give up memory and processor time beyond the limits, where the system knows such limits."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _main(path: Path, modalities: list[str], foreign: bool) -> None:
    _limit()
    facts: dict[str, object]
    try:
        found = read_question(path, modalities, foreign)
    except SpecdbError as error:
        # Errors that need more than a text to be raised again become the general one.
        kind = type(error).__name__ if type(error).__name__ in ("QueryError", "InputError") else "InputError"
        facts = {"error": kind, "text": str(error)}
    else:
        spectra = found.spectra
        assert spectra is not None
        arrays = {name: value for name in _ARRAYS if (value := getattr(spectra, name)) is not None}
        np.savez(path.parent / _ANSWER, allow_pickle=False, **arrays)
        with pa.ipc.new_stream(str(path.parent / _ROWS), spectra.metadata.schema) as stream:
            stream.write_table(spectra.metadata)
        facts = {"name": found.name, "modality": found.modality, "log10_grid": spectra.log10_grid}
    (path.parent / _SAID).write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    _main(Path(sys.argv[2]), sys.argv[3:], sys.argv[1] == "foreign")
