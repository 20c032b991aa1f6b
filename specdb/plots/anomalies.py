"""Figures of anomaly scores whose unusual objects are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from specdb.plots.style import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["anomaly_figure"]


def anomaly_figure(
    scores: Mapping[str, np.ndarray], positive: np.ndarray, p_values: Mapping[str, np.ndarray], title: str = ""
) -> Figure:
    """Show precision against recall, and how many ordinary spectra fall below a p-value.

    Parameters
    ----------
    scores : mapping of name to ndarray (n,)
        Higher for the more unusual.
    positive : ndarray (n,), bool
    p_values : mapping of name to ndarray
        Calibrated p-values of ordinary spectra, by group.
    title : str
    """
    figure, (left, right) = new_figure(9.0, 3.8, 1, 2)
    for i, (name, score) in enumerate(scores.items()):
        hits = np.cumsum(positive[np.argsort(-score, kind="stable")])
        width = 2.2 if i == 0 else 1.1
        found = np.arange(1, len(hits) + 1)
        left.plot(hits / hits[-1], hits / found, color=COLOURS[i % 7], lw=width, ls="-" if i < 7 else "--", label=name)
    left.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="recall", ylabel="precision", title=title)
    left.legend(frameon=False, fontsize=7, loc="best")
    nominal = np.geomspace(1e-3, 0.2, 60)
    for i, (name, p) in enumerate(p_values.items()):
        rate = np.searchsorted(np.sort(p), nominal, side="right") / len(p)
        right.plot(nominal, np.where(rate > 0, rate, np.nan), color=COLOURS[i % 7], lw=1.5, label=name)
    right.plot(nominal, nominal, color="0.4", lw=0.8)
    right.fill_between(nominal, nominal / 2, nominal * 2, color="0.9", lw=0)
    right.set(xscale="log", yscale="log", xlabel="nominal false-alarm rate", ylabel="share of ordinary spectra")
    right.legend(frameon=False, fontsize=8, loc="upper left")
    return figure
