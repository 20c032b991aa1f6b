"""Figures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from specdb.plots.style import COLOURS, MARKERS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "binned_figure",
    "coverage_figure",
    "deviation_figure",
    "one_to_one_figure",
    "prediction_figure",
    "recall_figure",
]


def recall_figure(ranks: Mapping[str, np.ndarray], n: int, title: str = "") -> Figure:
    """Show recall@k against k.

    Parameters
    ----------
    ranks : mapping of name to ndarray (q,), int
        Rank of the true answer, from 1.
    n : int
        Size of the bank.
    title : str
    """
    figure, axis = new_figure(5.6, 3.8)
    ks = np.unique(np.round(np.geomspace(1, max(min(n, 1000), 2), 60)).astype(int))
    for i, (name, rank) in enumerate(ranks.items()):
        shares = np.searchsorted(np.sort(rank), ks, side="right") / max(len(rank), 1)
        marked = [int(np.argmin(np.abs(ks - k))) for k in (1, 10, 100) if k <= ks[-1]]
        axis.plot(ks, shares, color=COLOURS[i % 7], marker=MARKERS[i % 7], markevery=marked, ms=5, lw=1.5, label=name)
    axis.set(xscale="log", xlim=(0.9, ks[-1] * 1.1), ylim=(0, 1.03), xlabel="k", ylabel="recall@k")
    axis.set_title(title, fontsize=10)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def binned_figure(values: Mapping[str, np.ndarray], steps: Sequence[str], xlabel: str, ylabels: Sequence[str]) -> Figure:
    """Show figures of merit in bins, one panel for each.

    Parameters
    ----------
    values : mapping of name to ndarray (panels, bins)
        NaN where a bin holds too little.
    steps : sequence of str
        Names of the bins.
    xlabel : str
    ylabels : sequence of str
        Of the panels.
    """
    n = len(ylabels)
    figure, axes = new_figure(3.3 * n, 3.4, 1, n, squeeze=False)
    for panel, (axis, label) in enumerate(zip(axes[0], ylabels, strict=True)):
        for i, (name, rows) in enumerate(values.items()):
            axis.plot(range(len(steps)), rows[panel], color=COLOURS[i % 7], marker=MARKERS[i % 7], ms=5, lw=1.2, label=name)
        axis.set_xticks(range(len(steps)), steps, fontsize=8)
        axis.set_xlabel(xlabel, fontsize=9)
        axis.set_ylabel(label, fontsize=9)
        axis.set_ylim(bottom=0)
    axes[0, 0].legend(frameon=False, fontsize=7)
    return figure


def one_to_one_figure(truth: np.ndarray, estimate: np.ndarray, titles: Sequence[str], title: str = "") -> Figure:
    """Show estimates against labels, one panel per label; both ndarrays (n, l)."""
    n = len(titles)
    figure, axes = new_figure(3.2 * n, 3.3, 1, n, squeeze=False)
    for i, (axis, name) in enumerate(zip(axes[0], titles, strict=True)):
        ends = np.nanpercentile(np.concatenate([truth[:, i], estimate[:, i]]), [0.2, 99.8])
        margin = 0.05 * (ends[1] - ends[0])
        limits = ends[0] - margin, ends[1] + margin
        axis.plot(limits, limits, color=COLOURS[6], lw=0.8)
        axis.scatter(truth[:, i], estimate[:, i], s=6, color=COLOURS[0], alpha=0.5, linewidths=0, rasterized=True)
        axis.set(xlim=limits, ylim=limits, aspect="equal")
        axis.set_xlabel(name, fontsize=9)
        axis.set_ylabel("of the neighbours", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def deviation_figure(wavelength: np.ndarray, errors: Mapping[str, np.ndarray], ylabel: str, title: str = "") -> Figure:
    """Show an error (n_grid,) against vacuum wavelength (n_grid,) in Angstrom, one line per method; the last stands out."""
    figure, axis = new_figure(6.4, 3.6)
    for i, (name, values) in enumerate(errors.items()):
        left = len(errors) - 1 - i  # the last one is what the figure is about
        style, width = ("-", "--", "-.", ":")[left % 4], 2.0 if left == 0 else 1.3
        axis.plot(wavelength, values, color=COLOURS[left % 7], ls=style, lw=width, label=name)
    axis.set(xlim=(wavelength[0], wavelength[-1]), xlabel="vacuum wavelength (Å)", ylabel=ylabel)
    axis.set_ylim(0, 1.15 * max(np.nanpercentile(v, 98) for v in errors.values()))
    axis.set_title(title, fontsize=10)
    axis.legend(frameon=False, fontsize=8)
    return figure


def coverage_figure(nominal: np.ndarray, held: Mapping[str, np.ndarray]) -> Figure:
    """Show the share of truths inside intervals against what the intervals claim (n,)."""
    figure, axis = new_figure(4.2, 4.0)
    axis.plot([0, 1], [0, 1], color=COLOURS[6], lw=0.8, label="as claimed")
    for i, (name, shares) in enumerate(held.items()):
        axis.plot(nominal, shares, color=COLOURS[i % 7], marker=MARKERS[i % 7], ms=4, lw=1.2, label=name)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="claimed share", ylabel="share inside")
    axis.legend(frameon=False, fontsize=8)
    return figure


def prediction_figure(
    wavelength: np.ndarray, panels: Sequence[tuple[str, np.ndarray, np.ndarray, np.ndarray]], ylabel: str
) -> Figure:
    """Show predicted and observed spectra, one panel each.

    Parameters
    ----------
    wavelength : ndarray (n_grid,), vacuum Angstrom
    panels : sequence of (title, predicted, sigma, observed)
        ndarrays (n_grid,).
    ylabel : str
    """
    figure, axes = new_figure(6.6, 2.3 * len(panels), len(panels), 1, sharex=True, squeeze=False)
    for axis, (title, predicted, sigma, observed) in zip(axes[:, 0], panels, strict=True):
        axis.fill_between(wavelength, predicted - sigma, predicted + sigma, color=COLOURS[4], alpha=0.5, lw=0, label="68 %")
        axis.plot(wavelength, predicted, color=COLOURS[0], lw=1.2, label="predicted")
        axis.plot(wavelength, observed, color=COLOURS[1], lw=1.1, ls="--", label="observed")
        axis.set_title(title, fontsize=9)
        axis.set_ylabel(ylabel, fontsize=8)
        axis.set_xlim(wavelength[0], wavelength[-1])
    axes[0, 0].legend(frameon=False, fontsize=8, ncols=3)
    axes[-1, 0].set_xlabel("vacuum wavelength (Å)")
    return figure
