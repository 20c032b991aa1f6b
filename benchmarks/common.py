"""What every benchmark shares: what it ran on, how it is timed, FAISS by hand, and how its figures are written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from specdb.search import SearchParameters, VectorIndex

_faiss: Any = faiss  # its type stubs know only part of it

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Return hardware, versions and commit."""
    import numpy
    import torch

    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=RESULTS.parent, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "torch": torch.__version__,
        "commit": commit,
    }


def write_results(name: str, title: str | None, rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Print a Markdown table of the rows and write it, with the machine's facts, as `.md` and `.json`."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(_cell(row.get(column)) for column in columns) for row in rows]
    table = "\n".join(f"| {line} |" for line in lines)
    print(table)
    heading = (title or name).strip().splitlines()[0]
    on = ", ".join(f"{key} {value}" for key, value in facts.items())
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text(f"# {heading}\n\n{table}\n\nMeasured on: {on}.\n")
    (RESULTS / f"{name}.json").write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def paired(
    ours: Callable[[int], Any], theirs: Callable[[int], Any], rounds: int, budget_s: float = 15.0
) -> tuple[float, float, float]:
    """Time two functions in turn, so that other work on the machine hits both alike.

    With one thread processor time, else wall time. Stops early when the budget is spent, but not before five rounds.

    Returns
    -------
    tuple of float
        Median of each, and median of the differences, s.
    """
    clock, times = timer(), np.empty((rounds, 2))
    begin = time.perf_counter()
    for i in range(rounds):
        if i >= 5 and time.perf_counter() - begin > budget_s:
            times = times[:i]
            break
        for column, function in ((0, ours), (1, theirs)) if i % 2 else ((1, theirs), (0, ours)):
            start = clock()
            function(i)
            times[i, column] = clock() - start
    return float(np.median(times[:, 0])), float(np.median(times[:, 1])), float(np.median(times[:, 0] - times[:, 1]))


def timed(function: Callable[[], Any], budget_s: float = 0.3) -> tuple[Any, float]:
    """Run once, and again while there is time left, and return the result with the least time in seconds."""
    clock, best, spent, result = timer(), np.inf, 0.0, None
    while spent < budget_s or best == np.inf:
        start = clock()
        result = function()
        spent += clock() - start
        best = min(best, clock() - start)
    return result, best


def timer() -> Callable[[], float]:
    """Return the clock that is least disturbed: processor time where one thread works, so that other work does not count."""
    return time.process_time if faiss.omp_get_max_threads() == 1 else time.perf_counter


def recall_of(rows: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of the true neighbours (m, k) that is among the rows found (m, k)."""
    return round(float((truth[:, :, None] == rows[:, None, :]).any(axis=2).mean()), 4)


def by_hand(
    index: VectorIndex, directory: Path, vectors: np.ndarray, k: int, knobs: SearchParameters | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a search as someone would write it with FAISS alone, with the index's own file and parameters; rows (m, k).

    The very file in memory, the same `nprobe` or `efSearch`, and `IndexRefine` with full vectors for refined candidates.
    """
    card, full = index.card, faiss.IndexFlatIP(index.card.dimension)
    knobs = knobs or card.certificate.parameters
    if card.kind != "ivf-flat":
        full.add(vectors)
    if card.kind == "flat":
        return lambda queries: full.search(queries, k)[1]
    raw = faiss.read_index(str(directory / card.segments[0].file.name))
    if card.kind == "hnsw":
        raw.own_fields = False
        raw.storage = full
        queue = _faiss.SearchParametersHNSW(efSearch=knobs.ef)
        return lambda queries, kept=full: raw.search(queries, k, params=queue)[1]
    probe = _faiss.SearchParametersIVF(nprobe=knobs.nprobe)
    if card.kind == "ivf-flat":
        return lambda queries: raw.search(queries, k, params=probe)[1]
    refined = faiss.IndexRefine(raw, full)
    extra = _faiss.IndexRefineSearchParameters(k_factor=max(knobs.k_factor, 2), base_index_params=probe)
    return lambda queries: refined.search(queries, k, params=extra)[1]


def resident_mib(field: str = "VmRSS") -> float:
    """Return the memory of this process, MiB: ``VmRSS`` all, ``RssAnon`` without mapped files."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields[field].split()[0]) / 1024
