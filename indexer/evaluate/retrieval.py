"""In-modal retrieval: does a spectrum find the other visits of its star?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from indexer.evaluate.baselines import in_modal_baselines
from indexer.evaluate.measures import Recall, recalls, visit_ranks
from indexer.evaluate.section import Context, Section, Skip
from specdb.plots.evaluation import recall_figure

__all__ = ["interval", "representations", "retrieval"]

_DEPTHS = (1, 10)


def interval(r: Recall) -> str:
    """Return a recall with its 95 % interval, to print."""
    return f"{r.value:.2f} ({r.low:.2f} to {r.high:.2f})"


def representations(context: Context) -> dict[str, np.ndarray]:
    """Return what is compared on the real LAMOST spectra: baselines, then encoders; ndarrays (n, d) by name."""
    lrs, held_out = context.real.lrs, context.real.held_out
    if lrs is None or held_out is None:
        raise Skip("there are no real LAMOST spectra")
    found = in_modal_baselines(lrs.flux, ~held_out.test)
    for name, encoder in context.encoders.items():
        if "lamost_lrs" in encoder.modalities:
            found[name] = context.shared(encoder, lrs.flux, "lamost_lrs")
    return found


def retrieval(context: Context) -> Section:
    """Search each repeat visit among the judged spectra."""
    found = representations(context)
    lrs, held_out = context.real.lrs, context.real.held_out
    assert lrs is not None
    assert held_out is not None
    test = held_out.test
    table, curves = [], {}
    metrics: dict[str, Any] = {}
    n_queries = 0
    for name, x in found.items():
        query, ranks = visit_ranks(x[test], lrs.star[test])
        n_queries = len(query)
        if not n_queries:
            raise Skip("no star among the judged ones has two spectra")
        measured = recalls(ranks, _DEPTHS)
        table.append({"representation": name} | {f"recall@{r.k}": interval(r) for r in measured})
        metrics[name] = {"recall": [asdict(r) for r in measured], "median_rank": float(np.median(ranks))}
        curves[name] = ranks
    text = [
        f"Each of the {n_queries} spectra whose star has another one is searched among {int(test.sum())} spectra by cosine; "
        "a hit is any other visit of the star. 95 % Wilson intervals in brackets.",
        f"Judged: {held_out.statement}.",
    ]
    figure = recall_figure(curves, int(test.sum()), f"Repeat visits: {n_queries} queries among {int(test.sum())} spectra")
    return Section("retrieval", "Repeat visits of a star", table, text, metrics, {"repeat_visits": figure})
