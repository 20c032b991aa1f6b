"""Anomaly scores on spectra whose unusual ones are known: average precision, precision@50, false alarms, beside baselines.

    python benchmarks/anomalies.py DB MODALITY (--class | --files WORD | --truth truth.parquet) [--name anomalies-...]

DB is a database with embeddings and an index. What counts as unusual: a survey class other than STAR (`--class`), a word in
the name of the source file (`--files pn_symbiotic`), or the truth of `specdb simulate pairs` (`--truth`). False alarms are
the share of the others with a calibrated p-value below 1 %, by tercile of S/N and, last, for spectra without errors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from common import machine, write_results

import specdb
from specdb.anomaly import SCORES, Survey, anomaly_table, run_anomalies
from specdb.anomaly.baselines import forest_on_components, pixel_distance


def unusual(survey: Survey, given: argparse.Namespace) -> np.ndarray:
    """Return the class of what is unusual (n,), empty for the others."""
    if given.truth:
        key = "lamost_obsid" if survey.modality == "lamost_lrs" else "gaia_source_id"
        truth = pq.read_table(given.truth, columns=[key, "anomaly"]).to_pydict()
        kind = dict(zip(truth[key], truth["anomaly"], strict=True))
        # Of a wrong pair each spectrum alone is an ordinary one.
        return np.array([kind[i].replace("wrong_pair", "") for i in survey.ids.tolist()])
    if given.files:
        names = [Path(name.split("::")[0]) for name in survey.metadata["source_file"].to_pylist()]
        return np.array([name.stem if given.files in str(name) else "" for name in names])
    return np.array([kind if kind and kind != "STAR" else "" for kind in survey.metadata["class"].to_pylist()])


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the area under the curve of precision over recall."""
    hits = positive[np.argsort(-score, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def row(name: str, score: np.ndarray, kind: np.ndarray, p: np.ndarray | None, snr: np.ndarray) -> dict[str, object]:
    score, positive = np.nan_to_num(score, nan=-np.inf), kind != ""
    found: dict[str, object] = {
        "score": name,
        "average precision": f"{average_precision(positive, score):.3f}",
        "precision@50": f"{positive[np.argsort(-score, kind='stable')[:50]].mean():.2f}",
    }
    if p is not None:
        known = np.isfinite(snr)
        step = np.where(known, np.digitize(snr, np.nanquantile(snr, [1 / 3, 2 / 3])), 3)
        rates = [f"{100 * (p[(step == s) & ~positive] < 0.01).mean():.2f}" for s in range(4) if (step == s).any()]
        found["false alarms at 1 %, by S/N"] = " / ".join(rates)
    for one in sorted(set(kind[positive])):
        among = (kind == one) | ~positive
        found[one] = f"{average_precision(positive[among], score[among]):.2f}"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("db", type=Path)
    parser.add_argument("modality")
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--files")
    parser.add_argument("--class", dest="by_class", action="store_true")
    parser.add_argument("--name", default="anomalies")
    given = parser.parse_args()
    db = specdb.open(given.db)
    done = run_anomalies(db, given.modality)
    survey, table = Survey(db, given.modality), anomaly_table(db, given.modality)
    kind, snr = unusual(survey, given), survey.snr
    flux = survey.sample.flux
    rows = []
    if len(flux) == len(survey):
        rows.append(row("baseline: isolation forest, 20 principal components", forest_on_components(flux), kind, None, snr))
        rows.append(row("baseline: distance to the 10th neighbour, pixels", pixel_distance(flux), kind, None, snr))
    column = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name != "reason"}
    for name in done.used:
        p = column[f"{name}_p"]
        voting = " (votes)" if SCORES[name].votes else ""
        rows.append(row(f"{name}{voting}", -np.log10(np.maximum(p, 1e-300)), kind, p, snr))
    rows.append(row(f"combination: {done.settings.combination}", column["score"], kind, column["p_value"], snr))
    facts = machine() | {"spectra": len(survey), "unusual": int((kind != "").sum()), "modality": given.modality}
    write_results(given.name, __doc__, rows, facts)


if __name__ == "__main__":
    main()
