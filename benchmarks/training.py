"""One training step of every published size: time and peak memory, each in a process of its own.

::

    python benchmarks/training.py [--batch 8] [--device cpu] [--precision float32]

Backbones that the published alignment leaves frozen are frozen here, with fresh weights; spectra are random.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from indexer.train.config import StartSettings, list_configs, load_config
from indexer.train.loop import fit
from indexer.train.recipe import make_model, plan
from indexer.train.runtime import Runtime, RuntimeSettings, launch
from indexer.train.streams import Stream
from indexer.train.tasks import make_task

GRID = {"lamost_lrs": 1462, "gaia_xp": 343}


class RandomSource:
    """Spectra of noise."""

    def __init__(self, modalities: tuple[str, ...], n: int) -> None:
        self.modalities, self.n = modalities, n

    def chunk(self, number: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(number)
        return {m: rng.normal(1, 0.1, (self.n, GRID[m])).astype(np.float32) for m in self.modalities}

    validation = None


def measure(runtime: Runtime, name: str, batch: int, steps: int) -> None:
    """Print the figures of one configuration as JSON."""
    config = load_config(name)
    frozen = bool(config.start.lamost_lrs)
    config = replace(config, start=StartSettings(), loop=replace(config.loop, batch_size=batch, accumulate=1, patience=0))
    model, _ = make_model(config, {})
    if frozen:
        for modality in config.modalities:
            model.get_submodule(f"{modality}_encoder.backbone").requires_grad_(False)
    stream = Stream(RandomSource(config.modalities, batch), batch)
    task = make_task(model, stream, stream.source.chunk(0), runtime)
    task.validate = lambda model: {"total": 0.0}  # the step is measured, not the validation
    seconds: list[float] = []
    settings = replace(config.loop, steps=steps, checkpoint_every=1)
    fit(model, task, settings, 0, report=lambda step, losses, passed: seconds.append(passed), runtime=runtime)
    stream.close()
    gpu = torch.cuda.max_memory_allocated() / 2**30 if runtime.cuda_devices else None
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    each = float(np.median(np.diff(seconds)))
    print(json.dumps({"seconds": each, "peak_gib": rss if gpu is None else gpu}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--one", help="one configuration, printed as JSON")
    given = parser.parse_args()
    if given.one:
        settings = RuntimeSettings(given.device, 1, given.precision)
        launch(settings, measure, given.one, given.batch, given.steps)
        return
    threads = torch.get_num_threads()
    print(f"{given.device}, {given.precision}, {threads} threads, micro-batch of {given.batch}, torch {torch.__version__}")
    print("| configuration | weights | trained | s per step | peak GiB | estimate GiB |\n|---|---|---|---|---|---|")
    for name in list_configs():
        if name == "mini":
            continue
        options = ["--one", name, "--batch", str(given.batch), "--steps", str(given.steps), "--device", given.device]
        options += ["--precision", given.precision]
        done = subprocess.run([sys.executable, str(Path(__file__)), *options], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        config = load_config(name)
        config = replace(config, loop=replace(config.loop, batch_size=given.batch, accumulate=1))
        p = plan(config)
        print(
            f"| {name} | {p.parameters / 1e6:.1f} M | {p.trained / 1e6:.1f} M | {found['seconds']:.2f} "
            f"| {found['peak_gib']:.2f} | {p.memory_bytes / 2**30:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
