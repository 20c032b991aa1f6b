"""The whole pipeline: does reading overlap encoding, and does memory stay put when the survey grows tenfold?

Every stage runs in a process of its own with the settings it has inside `build-index`. Overlap: the time of `build-index`
over that of its slowest stage alone. Memory: the peak of the process that prepares, encodes and writes, and of its largest
reader.

Usage: python benchmarks/pipeline.py [--files 5000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import machine, write_results

_STAGES = {
    "ingest": "indexer.ingest_survey(db, 'lamost', [files])",
    "embed": "indexer.embed_survey(db, 'lamost', encoder=encoder)",
    "index": "indexer.index_survey(db, 'lamost', encoder=encoder)",
    "build-index": "indexer.build_index(db, 'lamost', [files], encoder=encoder)",
}


def run_stage(stage: str, db: Path, files: Path, encoder: str | None) -> dict[str, float]:
    """Run one stage in a fresh process; return seconds (imports not counted) and peak megabytes."""
    script = f"""
import json, resource, sys, time
import indexer
from specdb.encoders import load_encoder
if __name__ == "__main__":
    db, files, encoder = sys.argv[1], sys.argv[2], sys.argv[3] or None
    load_encoder(encoder) if encoder else load_encoder()
    begun = time.perf_counter()
    {_STAGES[stage]}
    seconds = time.perf_counter() - begun
    own, readers = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({{"seconds": seconds, "own_mb": own, "reader_mb": readers}}))
"""
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(script)
        file.flush()
        command = [sys.executable, file.name, str(db), str(files), encoder or ""]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def full_size_encoder(folder: Path) -> str:
    """Save the full-size SpecCLIP LRS transformer with random weights: speed does not depend on them."""
    from specdb.encoders import Card, LrsTransformerConfig, build, save_model

    config = LrsTransformerConfig()
    preparation = {"lamost_lrs": ("specclip-lrs", 1)}
    save_model(folder, build(config), Card(name="lrs-full-size", config=config, preparation=preparation))
    return str(folder)


def measure(n: int, files: Path, scratch: Path, name: str, encoder: str | None) -> list[dict]:
    """Run the three stages one after the other, then all in one; return a row each."""
    staged, whole = scratch / f"staged-{name}-{n}", scratch / f"whole-{name}-{n}"
    found = {stage: run_stage(stage, staged, files, encoder) for stage in ("ingest", "embed", "index")}
    slowest = max(figures["seconds"] for figures in found.values())
    found["build-index"] = run_stage("build-index", whole, files, encoder)
    rows = [{"encoder": name, "files": n, "stage": s, "files_per_s": n / f["seconds"], **f} for s, f in found.items()]
    rows[-1]["over_slowest_stage"] = found["build-index"]["seconds"] / slowest
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000)
    args = parser.parse_args()

    from indexer.simulate import simulate_lamost

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for n in (args.files // 10, args.files):
            simulate_lamost(scratch / f"survey-{n}", n_stars=n, repeat_fraction=0, seed=n)
            rows += measure(n, scratch / f"survey-{n}" / "spectra", scratch, "specclip-mini", None)
        few = args.files // 10
        full = full_size_encoder(scratch / "lrs-full-size")
        rows += measure(few, scratch / f"survey-{few}" / "spectra", scratch, "full-size LRS", full)
    write_results("pipeline", __doc__, rows, machine())


if __name__ == "__main__":
    main()
