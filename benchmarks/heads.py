"""Stellar parameters of real LAMOST DR10 stars: heads on embeddings, pixels and principal components side by side.

    python benchmarks/heads.py FOLDER ENCODER [--fold 0] [--methods mlp,posterior,ridge,knn]

FOLDER holds LAMOST spectra, labels.csv, and the DR1 folder for the external check. ENCODER must have been trained without
the stars of the fold (`python -m indexer.train.mini ... --split-only`): all figures are of stars that neither encoder nor
head has seen. Folds, stars and figures are explained in docs/heads.md.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, write_results

from indexer.evaluate.measures import principal_components
from indexer.train.data import LABELS, load_lamost, split_stars
from specdb.encoders import load_encoder
from specdb.heads import Head, HeadConfig, fit_head
from specdb.heads.head import HeadCard, LabelFacts
from specdb.heads.measures import label_figures
from specdb.spectra import expand_sources
from specdb.spectra.lrs_preparation import LrsPreparation
from specdb.spectra.readers import read_source

#: The network of 2.06 million weights that is published for 1462 pixels (arXiv 2602.15021).
PUBLISHED = {"hidden": [1024, 512, 64], "lr": 5e-4, "steps": 700}
#: What is not worth its time: neighbours among pixels, and posteriors of anything but embeddings.
LEFT_OUT = {("1462 pixels", "knn"), ("1462 pixels", "posterior"), ("50 components", "posterior")}
KEEP = {"teff": 0, "logg": 3, "feh": 3}


def dr1_stars(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return prepared flux (n, 1462) and labels (n, 3) of the DR1 spectra that their catalogue knows."""
    with gzip.open(folder / "catalogue.csv.gz", "rt") as lines:
        known = {row["filename"]: [float(row[name]) for name in LABELS] for row in csv.DictReader(lines)}
    files = sorted(folder.rglob("*.fits.gz"))
    batches = [b for source in expand_sources(files, (".fits.gz",)) for b in read_source(source, ("lamost",))]
    names = [Path(str(f)).name.removesuffix(".gz") for b in batches for f in b.metadata["source_file"].to_pylist()]
    prepared = LrsPreparation()(batches)
    labels = np.array([known.get(names[row], [np.nan] * 3) for row in prepared.rows])
    have = np.isfinite(labels).all(axis=1)
    return prepared.flux[have], labels[have]


def measure(head: Head, x: np.ndarray, labels: np.ndarray, cuts: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the table's cells."""
    prediction = head.predict(x)
    out: dict[str, Any] = {}
    for i, name in enumerate(LABELS):
        f = label_figures(labels[:, i], prediction.mean[:, i], prediction.sigma[:, i])
        out[f"{name} sigma / R2"] = f"{f['sigma']:.{KEEP[name]}f} / {f['r2']:.3f}"
        out[f"{name} in 68 / 95 %"] = f"{f['coverage_68']:.2f} / {f['coverage_95']:.2f}"
    for name, (label, rows) in cuts.items():
        i = LABELS.index(label)
        columns = labels[rows, i], prediction.mean[rows, i], prediction.sigma[rows, i]
        out[name] = f"{label_figures(*columns)['sigma']:.{KEEP[label]}f}"
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("encoder", help="name or folder of an encoder trained without the fold")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--methods", default="mlp,posterior,ridge,knn")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = load_lamost(given.folder)
    held_out = split_stars(data.star, 4, 0) == given.fold
    train, test = data.labelled & ~held_out, data.labelled & held_out
    with (given.folder / "lamost_dr10_afg" / "labels.csv").open(newline="") as lines:
        snr = {int(row["obsid"]): float(row["snrg"]) for row in csv.DictReader(lines)}
    snr_g = np.array([snr.get(i, np.nan) for i in data.spectrum_id.tolist()])[test]
    dr1_flux, dr1_labels = dr1_stars(given.folder / "lamost_dr1_classes")
    teff, feh = data.labels[test, 0], data.labels[test, 2]
    cuts = {
        "teff < 7000 K": ("teff", teff < 7000),
        "feh, S/N_g > 50": ("feh", snr_g > 50),
        "feh > -1": ("feh", feh > -1),
        "feh < -1": ("feh", feh < -1),
    }
    encoder = load_encoder(given.encoder)

    def embed(flux: np.ndarray) -> np.ndarray:
        vectors = encoder.encode(flux, "lamost_lrs")
        return np.concatenate([vectors[k] for k in ("shared", "private") if k in vectors], axis=1)

    mean = data.flux[train].mean(axis=0)
    axes = np.linalg.svd(data.flux[train] - mean, full_matrices=False)[2][:50].T
    sources = {
        "embedding": (embed(data.flux), embed(dr1_flux), None),
        "1462 pixels": (data.flux, dr1_flux, data.sigma),
        "50 components": (
            principal_components(data.flux, np.flatnonzero(train)),
            (dr1_flux - mean) @ axes,
            None,
        ),
    }
    facts = machine() | {
        "training stars": int(train.sum()),
        "test spectra": int(test.sum()),
        "DR1 stars": len(dr1_labels),
        "encoder": f"{encoder.name} {encoder.weight_hash[:12]}",
    }
    rows: list[dict[str, Any]] = []
    for source, (x, x_dr1, x_err) in sources.items():
        for kind in given.methods.split(","):
            if (source, kind) in LEFT_OUT:
                continue
            settings = PUBLISHED if source == "1462 pixels" and kind == "mlp" else {}
            card = HeadCard(kind, "lamost_lrs", "", "", tuple(map(LabelFacts, LABELS)), HeadConfig("shared", kind, settings))
            begun = time.perf_counter()
            head = fit_head(
                x[train],
                data.labels[train],
                data.star[train],
                card,
                x_err=None if x_err is None else np.where(x_err[train] > 0, np.minimum(x_err[train], 0.3), 0.3),
            )
            seconds = time.perf_counter() - begun
            row = {"input": source, "head": kind} | measure(head, x[test], data.labels[test], cuts)
            outside = head.predict(x_dr1)
            row["DR1 offset (scatter)"] = ", ".join(
                f"{f['bias']:+.{KEEP[n]}f} ({f['sigma']:.{KEEP[n]}f})"
                for i, n in enumerate(LABELS)
                for f in [label_figures(dr1_labels[:, i], outside.mean[:, i], outside.sigma[:, i])]
            )
            rows.append(row | {"training": f"{seconds:.0f} s"})
            write_results("heads", __doc__, rows, facts)


if __name__ == "__main__":
    main()
