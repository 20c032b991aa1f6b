"""Anomaly scores on spectra whose unusual ones are known: do they find them, and how often are they wrong?"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np

from indexer.evaluate.anomaly_data import Known, real_known, simulated_known
from indexer.evaluate.section import Context, Section
from specdb.anomaly import anomaly_table, run_anomalies
from specdb.anomaly.baselines import forest_on_components, pixel_distance
from specdb.anomaly.scores import voting_scores
from specdb.plots.anomalies import anomaly_figure
from specdb.statistics import wilson

__all__ = ["anomaly", "average_precision", "false_alarms", "measure"]

_NOMINAL = 0.01
_FIRST = 50
_RESAMPLES = 400
_BASELINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "isolation forest, 20 components": forest_on_components,
    "10th neighbour, pixels": pixel_distance,
}
_COMBINATION = "combination"


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the mean precision at the places of the positives; `score` (n,) is higher for the more unusual, NaN last."""
    hits = positive[np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()) if hits.any() else float("nan")


def _with_interval(positive: np.ndarray, score: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Return the average precision and its 95 % bootstrap interval over spectra."""
    rng = np.random.default_rng(seed)
    order = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")
    hits = positive[order]
    drawn = []
    for _ in range(_RESAMPLES):
        copies = np.bincount(rng.integers(0, len(hits), len(hits)), minlength=len(hits))
        again = np.repeat(hits, copies)
        if again.any():
            drawn.append((np.cumsum(again) / np.arange(1, len(again) + 1))[again].mean())
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return average_precision(positive, score), low, high


def false_alarms(p: np.ndarray, ordinary: np.ndarray, snr: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the share of ordinary spectra with a p-value below 1 %, by tercile of S/N, with Wilson intervals.

    Spectra without errors, whose `snr` (n,) is NaN, are a group of their own.
    """
    found = {}
    for name, rows in _groups(snr).items():
        judged = p[rows & ordinary]
        if len(judged):
            share = float((judged < _NOMINAL).mean())
            low, high = wilson(share, len(judged))
            found[name] = {"share": share, "low": low, "high": high, "spectra": len(judged)}
    return found


def _groups(snr: np.ndarray) -> dict[str, np.ndarray]:
    known = np.isfinite(snr)
    groups = {}
    if known.any():
        step = np.digitize(snr, np.nanquantile(snr, [1 / 3, 2 / 3]))
        groups = {f"S/N tercile {i + 1}": known & (step == i) for i in range(3)}
    return groups | ({"no errors": ~known} if (~known).any() else {})


def measure(known: Known) -> tuple[list[dict[str, str]], dict[str, Any], Any]:
    """Score a survey and return rows to print, metrics, and a figure."""
    survey, kind = known.survey, known.kind
    done = run_anomalies(survey.db, survey.modality, survey.settings)
    table = anomaly_table(survey.db, survey.modality)
    column = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name != "reason"}
    voters = voting_scores(done.used)
    scores = {_COMBINATION: column["score"]}
    scores |= {name: -np.log10(np.maximum(column[f"{name}_p"], 1e-300)) for name in done.used}
    whole = survey.settings.sample >= len(survey)
    baselines = {name: rule(survey.sample.flux) for name, rule in _BASELINES.items()} if whole else {}
    positive, classes = kind != "", sorted(set(kind[kind != ""].tolist()))
    rows, metrics = [], {}
    for name, score in {**scores, **{f"baseline: {n}": s for n, s in baselines.items()}}.items():
        value, low, high = _with_interval(positive, score)
        first = np.argsort(-np.nan_to_num(score, nan=-np.inf), kind="stable")[:_FIRST]
        share = float(positive[first].mean())
        by_class = {
            c: average_precision(kind[(kind == c) | ~positive] == c, score[(kind == c) | ~positive]) for c in classes
        }
        metrics[name] = {
            "average_precision": {"value": value, "low": low, "high": high},
            f"precision@{_FIRST}": dict(zip(("value", "low", "high"), (share, *wilson(share, len(first))), strict=True)),
            "average_precision_by_class": by_class,
            "votes": name in voters,
        }
        p = column["p_value"] if name == _COMBINATION else column.get(f"{name}_p")
        alarms = false_alarms(p, ~positive, survey.snr) if p is not None else {}
        metrics[name]["false_alarms_at_1_percent"] = alarms
        label = {_COMBINATION: f"**{_COMBINATION}**"}.get(name, f"{name} (votes)" if name in voters else name)
        rows.append(
            {
                "survey": known.title,
                "score": label,
                "average precision": f"{value:.2f} ({low:.2f} to {high:.2f})",
                f"precision@{_FIRST}": f"{share:.2f}",
                "false alarms at 1 %": " / ".join(f"{100 * a['share']:.1f}" for a in alarms.values()),
            }
        )
    shown = {_COMBINATION: scores[_COMBINATION], **{n: scores[n] for n in voters}, **baselines}
    groups = {name: column["p_value"][rows_ & ~positive] for name, rows_ in _groups(survey.snr).items()}
    figure = anomaly_figure(
        {n: np.nan_to_num(s, nan=-np.inf) for n, s in shown.items()},
        positive,
        {n: p for n, p in groups.items() if len(p)},
        f"{known.title}: {int(positive.sum())} unusual of {len(kind)}",
    )
    counts = {c: int((kind == c).sum()) for c in classes}
    facts = {"spectra": len(kind), "unusual": counts, "left_out": done.skipped, "scores": metrics}
    return rows, facts, figure


def anomaly(context: Context) -> Section:
    """Measure all scores on simulated surveys with planted objects and, where there is a database, on real ones."""
    encoder = context.location or context.encoder.name
    table, text, metrics, figures = [], [], {}, {}
    with simulated_known(context, encoder) as simulated:
        sources = list(real_known(context.db, context.unusual, context.device)) if context.db else []
        for known in chain(simulated, sources):
            rows, facts, figures[f"anomaly_{known.name}"] = measure(known)
            table += rows
            metrics[known.name] = facts
            text.append(_sentence(known.title, facts))
    text.append(
        "Average precision with 95 % bootstrap intervals; false alarms are the ordinary spectra, in percent, with a p-value "
        "below 1 %, by tercile of S/N, and last for spectra without errors. Scores that vote make up the combination."
    )
    if not context.db:
        text.append("Real objects: `specdb evaluate --anomaly --db DB` measures those of a database.")
    return Section("anomaly", "Unusual objects", table, text, metrics, figures)


def _sentence(title: str, facts: dict[str, Any]) -> str:
    classes = facts["scores"][_COMBINATION]["average_precision_by_class"]
    named = ", ".join(f"{c} {classes[c]:.2f} (of {n})" for c, n in facts["unusual"].items())
    return (
        f"{title[0].upper()}{title[1:]}: {facts['spectra']} spectra; average precision of the combination by class: {named}."
    )
