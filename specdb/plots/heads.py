"""Figures of a head: predicted against catalogue labels, residuals over S/N, and whether the uncertainties are right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr, ndtri

from specdb.plots.style import COLOURS, new_figure
from specdb.statistics import biweight_sigma

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_head"]

_BLUE, _ORANGE, _GREY = COLOURS[0], COLOURS[1], "#666666"


def plot_head(
    truth: np.ndarray, mean: np.ndarray, sigma: np.ndarray, snr: np.ndarray, label: str, unit: str = "", title: str = ""
) -> Figure:
    """Draw four panels for one label.

    Parameters
    ----------
    truth, mean, sigma, snr : ndarray (n,)
        Catalogue label, prediction, its uncertainty, S/N per pixel; stars with NaN are left out.
    label, unit, title : str

    Returns
    -------
    matplotlib.figure.Figure
        One-to-one; residual over S/N with its running scatter; histogram of the probability integral transform; share of
        stars inside central intervals against the nominal share.
    """
    known = np.isfinite(truth) & np.isfinite(mean) & np.isfinite(sigma)
    t, m, s, q = truth[known], mean[known], sigma[known], snr[known]
    residual = m - t
    named = f"{label} [{unit}]" if unit else label
    figure, axes = new_figure(9, 7, 2, 2)
    one, over, transform, coverage = axes.ravel()

    low, high = np.quantile(np.concatenate([t, m]), [0.001, 0.999])
    size = 14 if len(t) < 300 else 6 if len(t) < 3000 else 2
    one.errorbar(t, m, s, fmt="none", ecolor=_GREY, elinewidth=0.4, alpha=0.25, zorder=1, rasterized=True)
    one.scatter(t, m, s=size, color=_BLUE, lw=0, alpha=0.7, zorder=2, rasterized=True)
    one.plot([low, high], [low, high], color="k", lw=0.8)
    one.set(xlabel=f"catalogue {named}", ylabel=f"predicted {named}", xlim=(low, high), ylim=(low, high))
    one.set_title(f"scatter {biweight_sigma(residual):.3g}, bias {np.median(residual):+.2g}, {len(t)} spectra", fontsize=9)

    order = np.argsort(q)
    over.scatter(q, residual, s=size, color=_BLUE, lw=0, alpha=0.5, rasterized=True)
    groups = np.array_split(order, max(1, min(12, len(t) // 25)))
    centre = [np.median(q[g]) for g in groups]
    spread = np.array([biweight_sigma(residual[g]) for g in groups])
    stated = np.array([np.median(s[g]) for g in groups])
    for sign in (-1, 1):
        over.plot(centre, sign * spread, color=_ORANGE, lw=1.5, label="scatter" if sign > 0 else None)
        over.plot(centre, sign * stated, color="k", ls="--", lw=1.2, label="median stated sigma" if sign > 0 else None)
    over.axhline(0, color=_GREY, lw=0.6)
    most = 6 * max(float(biweight_sigma(residual)), 1e-12)
    over.set(xscale="log", xlabel="S/N per pixel", ylabel=f"predicted - catalogue {named}", ylim=(-most, most))
    over.legend(fontsize=8, frameon=False)

    z = residual / s
    bins = np.linspace(0, 1, 11)
    transform.hist(ndtr(-z), bins=bins, color=_BLUE, alpha=0.8)
    transform.axhline(len(t) / 10, color="k", ls="--", lw=1)
    transform.set(xlabel="probability integral transform", ylabel="spectra")
    transform.set_title("flat where the uncertainties are right", fontsize=9)

    nominal = np.linspace(0.02, 0.98, 49)
    width = ndtri((1 + nominal) / 2)
    coverage.plot(nominal, (np.abs(z)[None] <= width[:, None]).mean(axis=1), color=_ORANGE, lw=1.8)
    coverage.plot([0, 1], [0, 1], color="k", lw=0.8, ls="--")
    coverage.set(xlabel="nominal share of a central interval", ylabel="share of spectra inside", xlim=(0, 1), ylim=(0, 1))
    inside = [float((np.abs(z) <= w).mean()) for w in (1.0, 1.959964)]
    coverage.set_title(f"68 % interval holds {inside[0]:.0%}, 95 % holds {inside[1]:.0%}", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
