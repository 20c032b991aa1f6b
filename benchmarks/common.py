"""What every benchmark shares: what it ran on, and how its figures are written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

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
