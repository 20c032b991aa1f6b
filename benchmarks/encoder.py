"""How close the full-size LRS encoder comes to the machine's own matrix-product rate, in float32 and bfloat16.

In one run, in turns: the encoder, products of exactly its layers' shapes, and one big square product. "bfloat16" is what
`Encoder.encode(precision="bfloat16")` does on this machine: with bfloat16 instructions the products are bfloat16, without
them the rounded weights are multiplied in float32; "bfloat16 arithmetic" forces the former. The last columns are one minus
the least cosine between embeddings in bfloat16 and float32: of the pooled transformer and of a split CLIP head, as they are
and with the mean embedding subtracted (random weights give embeddings that mostly share one direction).

Usage: python benchmarks/encoder.py [--threads 2] [--rounds 5] [--spectra prepared.npy]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import machine, write_results

import specdb.encoders.encoder as encoder_module
from specdb.encoders import Card, ClipConfig, Encoder, LrsTransformerConfig, build

LRS = LrsTransformerConfig()
SQUARE = 2048


def layer_shapes(config: LrsTransformerConfig) -> list[tuple[int, int]]:
    """Return (outputs, inputs) of the products in one block: q, kv, out, and the two of the MLP."""
    w, h = config.width, config.mlp_ratio * config.width
    return [(w, w), (2 * w, w), (w, w), (h, w), (w, h)]


def flop_per_spectrum(config: LrsTransformerConfig) -> float:
    """Count multiplications and additions: linear layers, attention, embedding of the tokens."""
    t, w = config.n_tokens, config.width
    linear = 2 * t * sum(n * k for n, k in layer_shapes(config))
    return config.n_layers * (linear + 4 * t * t * w) + 2 * t * config.n_features * w


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def gemm(shapes: list[tuple[int, int]], rows: int, dtype: torch.dtype) -> tuple[Callable[[], None], float]:
    """Return a function that runs x W' + b for all shapes, and its number of operations."""
    jobs = [(torch.randn(rows, k).to(dtype), torch.randn(n, k).to(dtype), torch.randn(n).to(dtype)) for n, k in shapes]

    def run() -> None:
        with torch.inference_mode():
            for x, w, b in jobs:
                F.linear(x, w, b)

    return run, sum(2.0 * rows * n * k for n, k in shapes)


def synthetic(n: int) -> np.ndarray:
    """Return continuum-normalised spectra: absorption lines of random depth and width, and noise."""
    rng = np.random.default_rng(0)
    pixel, centres = np.arange(LRS.n_pixels), rng.uniform(0, LRS.n_pixels, 60)
    depth = rng.gamma(1.0, 0.08, (n, 60, 1)) * rng.uniform(0.2, 2, (n, 1, 1))
    lines = depth * np.exp(-0.5 * ((pixel - centres[:, None]) / rng.uniform(2, 9, (60, 1))) ** 2)
    return (np.exp(-lines.sum(axis=1)) + rng.normal(0, 0.02, (n, LRS.n_pixels))).astype(np.float32)


def cosine_loss(a: np.ndarray, b: np.ndarray) -> float:
    """Return one minus the least cosine between equal rows."""
    a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a.astype(np.float64), b.astype(np.float64)))
    return 1 - float((a * b).sum(axis=1).min())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--spectra", type=Path, help="prepared LAMOST LRS spectra, .npy (n, 1462); synthetic ones by default"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    flux = np.load(args.spectra).astype(np.float32) if args.spectra else synthetic(32)
    clip = ClipConfig("split", LRS, None, ClipConfig.official("split").head, None)
    encoders = {name: Encoder(build(c).requires_grad_(False), Card(name, c)) for name, c in (("mt", LRS), ("split", clip))}
    native, batch = encoder_module.has_native_bfloat16(), encoders["mt"].batch_size("lamost_lrs")
    probe = np.resize(flux, (2 * batch, LRS.n_pixels))

    def forced(value: bool, name: str, x: np.ndarray, precision: str) -> np.ndarray:
        """Encode with a given answer to the question whether the CPU has bfloat16 instructions."""
        encoder_module.has_native_bfloat16 = lambda: value
        fresh = Encoder(encoders[name].model, encoders[name].card)
        fresh._variants = variants.setdefault((name, value), fresh._variants)
        return fresh.encode(x, "lamost_lrs", precision=precision)["shared"]

    variants: dict[tuple[str, bool], dict] = {}
    ways = {"float32": ("float32", native, torch.float32), "bfloat16": ("bfloat16", native, torch.bfloat16)}
    if not native:
        ways["bfloat16 arithmetic"] = ("bfloat16", True, torch.bfloat16)
    gemms = {
        (kind, dtype): gemm(shapes, rows, dtype)
        for dtype in (torch.float32, torch.bfloat16)
        for kind, shapes, rows in (
            ("layers", layer_shapes(LRS), batch * LRS.n_tokens),
            ("square", [(SQUARE, SQUARE)], SQUARE),
        )
    }
    jobs: dict[object, Callable[[], object]] = {key: run for key, (run, _) in gemms.items()}
    for way, (precision, value, _) in ways.items():
        jobs[way] = lambda p=precision, v=value: forced(v, "mt", probe, p)
    best = dict.fromkeys(jobs, np.inf)
    for turn in range(args.rounds + 1):  # the first one warms up
        for key, job in jobs.items():
            taken = seconds(job)
            best[key] = min(best[key], taken) if turn else np.inf

    rate = {key: gemms[key][1] / best[key] / 1e9 for key in gemms}
    rows = []
    for way, (precision, value, dtype) in ways.items():
        spectra_per_s = len(probe) / best[way]
        gflops = spectra_per_s * flop_per_spectrum(LRS) / 1e9
        row = {"precision": way, "spectra/s": spectra_per_s, "GFLOP/s": gflops}
        for kind in ("layers", "square"):
            row |= {f"GEMM {kind} GFLOP/s": rate[kind, dtype], f"ratio to {kind}": gflops / rate[kind, dtype]}
        for name in encoders:
            exact, other = (forced(value, name, flux, p) for p in ("float32", precision))
            row[f"1 - cosine, {name}"] = cosine_loss(exact, other)
            row[f"same, centred, {name}"] = cosine_loss(exact - exact.mean(axis=0), other - exact.mean(axis=0))
        rows.append(row)

    one, encoder = flux[:1], encoders["mt"]
    alone = {
        pad: min(seconds(lambda p=pad: encoder.encode(one, "lamost_lrs", pad=p)) for _ in range(3)) for pad in (True, False)
    }
    facts = machine() | {"threads": args.threads, "batch": batch, "bfloat16 instructions": native}
    facts |= {
        "GFLOP per spectrum": round(flop_per_spectrum(LRS) / 1e9, 2),
        "spectra": args.spectra.name if args.spectra else "synthetic",
    }
    facts |= {"one spectrum, padded (s)": round(alone[True], 3), "one spectrum, pad=False (s)": round(alone[False], 3)}
    write_results("encoder", __doc__, rows, facts)


if __name__ == "__main__":
    main()
