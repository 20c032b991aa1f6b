"""Preparation of LAMOST LRS spectra: batched against one spectrum at a time, in one run.

    python benchmarks/preparation.py [FOLDER ...]

FOLDER holds LAMOST FITS files; without one, noisy black bodies with Balmer lines and bad pixels are used. Reading is
not part of what is measured. The batched code gets 256 batches of one spectrum per call, as it does when a survey is read.
Processor time, all threads together, is given beside the time on the clock: other work on the machine distorts it less.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import machine, write_results
from reference_preparation import prepare_one

from specdb.spectra import Source, Spectra
from specdb.spectra.lrs_preparation import LrsPreparation
from specdb.spectra.readers import read_source

COEFFS = (3.5682, 1e-4)
CALL = 256


def simulated(n: int = 512) -> list[Spectra]:
    rng = np.random.default_rng(0)
    wavelength = 10 ** (COEFFS[0] + COEFFS[1] * np.arange(3909))
    flux = (5000 / wavelength) ** 5 / np.expm1(1.4388e8 / (wavelength * rng.uniform(4000, 12000, (n, 1))))
    flux *= 1000 / flux.mean(axis=1, keepdims=True)
    for line in (4102.9, 4341.7, 4862.7):
        flux *= 1 - rng.uniform(0.1, 0.6, (n, 1)) * np.exp(-0.5 * ((wavelength - line) / 12) ** 2)
    flux = (flux + rng.normal(0, 20, flux.shape)).astype(np.float32)
    ivar = np.where(rng.random(flux.shape) < 0.01, 0, 1 / 400).astype(np.float32)
    ivar[::2] = 1 / 400
    return [Spectra(wavelength, flux[i : i + 1], ivar[i : i + 1], log10_grid=COEFFS) for i in range(n)]


def real(folders: list[Path]) -> list[Spectra]:
    paths = sorted(path for folder in folders for path in folder.rglob("*.fits*") if "mrs" not in path.parts)
    return [batch for path in paths for batch in read_source(Source(path), ("lamost",))]


def one_at_a_time(batches: list[Spectra]) -> None:
    for batch in batches:
        try:
            prepare_one(batch.wavelength, batch.flux[0])
        except (ValueError, np.linalg.LinAlgError):
            continue  # it has no answer for spectra that do not cover the grid


def batched(preparation: LrsPreparation) -> Callable[[list[Spectra]], None]:
    def run(batches: list[Spectra]) -> None:
        for start in range(0, len(batches), CALL):
            preparation(batches[start : start + CALL])

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()

    batches = real(arguments.folders) if arguments.folders else simulated()
    batches = (batches * (512 // len(batches) + 1))[:512]
    ways = {
        "one at a time (scipy, numpy.polyfit)": (one_at_a_time, batches[::32]),
        "specdb, 1 thread": (batched(LrsPreparation()), batches),
        "specdb, 2 threads": (batched(LrsPreparation(threads=2)), batches),
    }
    # Taking turns in short rounds, and the best round of each, so that other work on the machine disturbs all ways alike.
    clock, processor = dict.fromkeys(ways, np.inf), dict.fromkeys(ways, np.inf)
    for _ in range(arguments.rounds):
        for name, (way, sample) in ways.items():
            start = time.perf_counter(), time.process_time()
            way(sample)
            clock[name] = min(clock[name], (time.perf_counter() - start[0]) / len(sample))
            processor[name] = min(processor[name], (time.process_time() - start[1]) / len(sample))

    peer = next(iter(ways))
    rows = [
        {
            "way": name,
            "spectra per second": 1 / clock[name],
            "ms per spectrum": 1e3 * clock[name],
            "times faster": clock[peer] / clock[name],
            "processor ms per spectrum": 1e3 * processor[name],
            "times less processor time": processor[peer] / processor[name],
        }
        for name in ways
    ]
    print(f"{len(batches)} {'real' if arguments.folders else 'simulated'} spectra")
    write_results("preparation", __doc__, rows, machine() | {"BLAS threads": os.environ.get("OMP_NUM_THREADS", "default")})


if __name__ == "__main__":
    main()
