"""Labels of the nearest neighbours: do neighbours agree in Teff, logg and [Fe/H]?"""

from __future__ import annotations

from typing import Any

import numpy as np

from indexer.evaluate.measures import neighbour_labels
from indexer.evaluate.retrieval import representations
from indexer.evaluate.section import Context, Section, Skip
from indexer.train.data import LABELS
from specdb.plots.evaluation import binned_figure, one_to_one_figure
from specdb.statistics import biweight_sigma, r_squared

__all__ = ["labels"]

_TITLES = {"teff": "Teff (K)", "logg": "log g (dex)", "feh": "[Fe/H] (dex)"}
_SNR_EDGES = (0, 20, 40, 80, np.inf)
_FEW = 20


def labels(context: Context) -> Section:
    """Estimate the labels of the judged spectra from their nearest labelled neighbours of other stars."""
    found = representations(context)
    lrs, held_out = context.real.lrs, context.real.held_out
    assert lrs is not None
    assert held_out is not None
    k = context.settings.neighbours
    query = lrs.labelled & held_out.test
    bank = lrs.labelled & ~held_out.test if not held_out.test.all() else lrs.labelled
    if query.sum() < 2 or bank.sum() < k:
        raise Skip(f"{int(query.sum())} judged and {int(bank.sum())} other spectra have labels; too few")
    truth, snr = lrs.labels[query], lrs.snr[query]
    table, by_snr = [], {}
    metrics: dict[str, Any] = {}
    estimate = truth
    for name, x in found.items():
        estimate = neighbour_labels(
            x[bank], lrs.labels[bank], x[query], k, bank_star=lrs.star[bank], query_star=lrs.star[query]
        )
        residual = estimate - truth
        metrics[name] = {
            label: {
                "sigma": biweight_sigma(residual[:, i]),
                "r2": r_squared(truth[:, i], estimate[:, i]),
                "bias": float(np.median(residual[:, i])),
            }
            for i, label in enumerate(LABELS)
        }
        row = {"representation": name}
        for label, digits, unit in zip(LABELS, (0, 3, 3), (" K", "", ""), strict=True):
            m = metrics[name][label]
            row[f"{label} sigma / R2"] = f"{m['sigma']:.{digits}f}{unit} / {m['r2']:.3f}"
        table.append(row)
        bins = np.digitize(snr, _SNR_EDGES) - 1
        by_snr[name] = np.array(
            [
                [biweight_sigma(residual[bins == b, i]) if (bins == b).sum() >= _FEW else np.nan for b in range(4)]
                for i in range(len(LABELS))
            ]
        )
        metrics[name]["sigma_by_snr"] = {
            "edges": [*_SNR_EDGES[:-1], None],
            "sigma": [[None if np.isnan(v) else float(v) for v in row] for row in by_snr[name]],
        }
    text = [
        f"Mean of the {k} nearest of {int(bank.sum())} labelled spectra, for {int(query.sum())} spectra; sigma is the "
        "Tukey-biweight scale. No spectrum of the same star counts as a neighbour.",
        f"Judged: {held_out.statement}.",
    ]
    steps = ["< 20", "20-40", "40-80", "> 80"]
    judged = context.encoder.name if context.encoder.name in found else next(reversed(found))
    shown = neighbour_labels(
        found[judged][bank], lrs.labels[bank], found[judged][query], k, bank_star=lrs.star[bank], query_star=lrs.star[query]
    )
    titles = [_TITLES[label] for label in LABELS]
    figures = {
        "labels_one_to_one": one_to_one_figure(truth, shown, titles, f"{judged}, kNN({k})"),
        "labels_snr": binned_figure(by_snr, steps, "median S/N per pixel", [f"sigma {title}" for title in titles]),
    }
    return Section("labels", "Labels of the nearest neighbours", table, text, metrics, figures)
