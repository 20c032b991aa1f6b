"""Figures of a head: predicted against catalogue labels, residuals over S/N, and whether the uncertainties are right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from specdb.errors import InputError
from specdb.plots.style import COLOURS, new_figure
from specdb.statistics import biweight_sigma

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from specdb.heads.diagnose import PosteriorChecks

__all__ = ["plot_checks", "plot_head", "plot_posterior"]

_BLUE, _ORANGE, _GREY = COLOURS[0], COLOURS[1], "#666666"


def plot_head(
    truth: np.ndarray,
    mean: np.ndarray,
    sigma: np.ndarray,
    snr: np.ndarray,
    label: str,
    unit: str = "",
    title: str = "",
    pit: np.ndarray | None = None,
) -> Figure:
    """Draw four panels for one label.

    Parameters
    ----------
    truth, mean, sigma, snr : ndarray (n,)
        Catalogue label, prediction, its uncertainty, S/N per pixel; stars with NaN are left out.
    label, unit, title : str
    pit : ndarray (n,), optional
        Share of each predicted distribution below the label; by default that of normal distributions.

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
    transform.hist(ndtr(-z) if pit is None else pit[known], bins=bins, color=_BLUE, alpha=0.8)
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


def plot_posterior(draws: np.ndarray, labels: list[str], truth: np.ndarray | None = None, title: str = "") -> Figure:
    """Draw the joint posterior of one star: histograms on the diagonal, each pair of labels below it.

    Parameters
    ----------
    draws : ndarray (s, L)
        From `specdb.heads.Head.sample`.
    labels : list of str
        With units.
    truth : ndarray (L,), optional
        Catalogue values to mark.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Contours hold 68 and 95 per cent of the draws; dashed lines are the 16, 50 and 84 per cent quantiles.

    Raises
    ------
    InputError
        For draws that are not finite, or too few of them.
    """
    finite = int(np.isfinite(draws).all(axis=1).sum())
    if finite < max(50, len(draws)):
        raise InputError(f"{finite} of {len(draws)} draws are finite; all must be, and 50 are needed to draw a posterior")
    n = draws.shape[1]
    figure, axes = new_figure(2.3 * n + 1, 2.3 * n + 0.6, n, n, squeeze=False)
    spans = [(a - 0.05 * (b - a), b + 0.05 * (b - a) + 1e-9) for a, b in np.quantile(draws, [0.002, 0.998], axis=0).T]
    for i in range(n):
        low, middle, high = np.quantile(draws[:, i], [0.15865525, 0.5, 0.84134475])
        for j in range(n):
            one = axes[i, j]
            if j > i:
                one.set_axis_off()
                continue
            one.set_xlim(spans[j])
            if j == i:
                one.hist(draws[:, i], bins=40, range=spans[i], color=_BLUE, alpha=0.8)
                for value in (low, middle, high):
                    one.axvline(value, color="k", ls="--", lw=0.8)
                one.set_yticks([])
                one.set_title(f"{middle:.4g} +{high - middle:.2g} -{middle - low:.2g}", fontsize=9)
            else:
                _density(one, draws[:, j], draws[:, i], spans[j], spans[i])
                one.set_ylim(spans[i])
            if truth is not None and np.isfinite(truth[j]):
                one.axvline(truth[j], color=_ORANGE, lw=1.2)
            if truth is not None and j < i and np.isfinite(truth[i]):
                one.axhline(truth[i], color=_ORANGE, lw=1.2)
            if i == n - 1:
                one.set_xlabel(labels[j])
            else:
                one.set_xticklabels([])
            if j == 0 and i:
                one.set_ylabel(labels[i])
            elif j < i:
                one.set_yticklabels([])
            one.tick_params(labelsize=7)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _density(one: Any, x: np.ndarray, y: np.ndarray, x_span: tuple[float, float], y_span: tuple[float, float]) -> None:
    """Draw points, and contours that hold 68 and 95 per cent of them."""
    one.scatter(x, y, s=2, color=_BLUE, lw=0, alpha=0.25, rasterized=True)
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=36, range=[x_span, y_span])
    smooth = gaussian_filter(counts, 1.5)
    cells = [np.clip(np.digitize(v, e) - 1, 0, 35) for v, e in ((x, x_edges), (y, y_edges))]
    levels = np.quantile(smooth[cells[0], cells[1]], [0.05, 0.32])  # densities that 95 and 68 per cent of the draws exceed
    if levels[0] < levels[1]:
        middles = [(edges[1:] + edges[:-1]) / 2 for edges in (x_edges, y_edges)]
        one.contour(*middles, smooth.T, levels=levels, colors="k", linewidths=0.8)


def plot_checks(checks: PosteriorChecks, title: str = "") -> Figure:
    """Draw the checks of a joint posterior: ranks of the truth per label, and coverage of joint regions.

    Parameters
    ----------
    checks : PosteriorChecks
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        The grey band holds 99 per cent of the bars of a posterior that is right.
    """
    n = len(checks.labels) + 1
    figure, axes = new_figure(3.1 * n, 3.2, 1, n, squeeze=False)
    for one, label, ranks, p in zip(axes[0], checks.labels, checks.ranks, checks.rank_p_values, strict=False):
        bars = len(ranks)
        band = binom.ppf([0.005, 0.995], checks.n, 1 / bars)
        one.bar((np.arange(bars) + 0.5) / bars, ranks, width=1 / bars, color=_BLUE, alpha=0.8)
        one.axhspan(*band, color=_GREY, alpha=0.3, lw=0)
        one.set(xlabel=f"rank of the catalogue's {label}", ylabel="spectra", xlim=(0, 1))
        one.set_title(f"uniform with p = {p:.2g}", fontsize=9)
    last = axes[0, -1]
    last.plot(checks.levels, checks.coverage, color=_ORANGE, lw=1.8)
    last.plot([0, 1], [0, 1], color="k", lw=0.8, ls="--")
    last.set(xlabel="credibility of a joint region", ylabel="share of spectra inside", xlim=(0, 1), ylim=(0, 1))
    last.set_title(f"TARP: p = {checks.tarp_p_value:.2g}", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
