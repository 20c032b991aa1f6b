"""Figures of a transfer: learning curves, the plane of abundances, loss landscapes, and the lines that a label rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from specdb.anomaly.lines import LINES, Line
from specdb.errors import InputError
from specdb.plots.style import COLOURS, MARKERS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from specdb.heads.transfer.landscape import Landscape
    from specdb.heads.transfer.sensitivity import Sensitivity

__all__ = ["plot_landscapes", "plot_learning_curves", "plot_plane", "plot_predictions", "plot_sensitivity"]

_PARTS = {"full": "all stars", "poor": "[Fe/H] < -1", "rich": "[Fe/H] > -1"}
_NAMES = {"feh": "[Fe/H]", "alphafe": "[alpha/Fe]", "teff": "Teff", "logg": "log g"}
#: Lines that stars on the whole do not have, or that lie elsewhere, say nothing about a label.
_MARKED = tuple(line for line in LINES if not line.sky and not line.band and not line.name.startswith(("[", "He")))
#: Strong lines of iron and strontium (NIST ASD; vacuum), for abundances.
_METALS = tuple(
    Line(name, wavelength)
    for name, wavelength in (
        ("Fe I 4046", 4046.96), ("Sr II 4078", 4078.86), ("Fe I 4272", 4272.96), ("Fe I 4384", 4384.78),
        ("Fe I 4405", 4405.99), ("Ba II 4554", 4555.31), ("Fe I 4921", 4921.87), ("Fe I 4957", 4958.98),
        ("Fe I 5270", 5271.00), ("Fe I 5328", 5329.52), ("Fe I 5406", 5407.28),
    )
)  # fmt: skip


def plot_learning_curves(rows: Sequence[Mapping[str, Any]], label: str, figure: str = "r2") -> Figure:
    """Draw a figure of merit over the number of target stars learnt from.

    Parameters
    ----------
    rows : sequence of dict
        As `specdb.heads.transfer.Comparison.rows`.
    label : str
    figure : str
        ``r2``, ``sigma`` or another of `specdb.heads.measures.label_figures`.

    Returns
    -------
    matplotlib.figure.Figure
        A row per kind of input; a column each for all, metal-poor and metal-rich stars. Bars span the seeds.
    """
    chosen = [row for row in rows if row["label"] == label and figure in row]
    if not chosen:
        raise InputError(f"no row has the figure {figure!r} of label {label!r}")
    inputs, strategies = (list(dict.fromkeys(row[key] for row in chosen)) for key in ("inputs", "strategy"))
    parts = [part for part in _PARTS if any(row["part"] == part for row in chosen)]
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    drawn, axes = new_figure(
        3.1 * len(parts) + 0.6, 2.5 * len(inputs) + 0.7, len(inputs), len(parts), sharex=True, squeeze=False
    )
    for i, kind in enumerate(inputs):
        for j, part in enumerate(parts):
            axis = axes[i, j]
            lows, highs = [], []
            for s, strategy in enumerate(strategies):
                key = (kind, strategy, part)
                found = [r for r in chosen if (r["inputs"], r["strategy"], r["part"]) == key]
                sizes = sorted({r["stars"] for r in found})
                values = [np.array([r[figure] for r in found if r["stars"] == n]) for n in sizes]
                mean = np.array([v.mean() for v in values])
                spread = np.abs(np.array([[v.min(), v.max()] for v in values]).T - mean)
                style = {"color": COLOURS[s], "marker": MARKERS[s], "ms": 4, "lw": 1.2, "capsize": 2, "elinewidth": 0.8}
                axis.errorbar(sizes, mean, spread, label=strategy, **style)
                lows.append(mean.min())
                highs.append(mean.max())
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.tick_params(axis="x", labelsize=7)
            if figure == "r2":  # a strategy that fails altogether would hide the others
                top, usual = max(highs), float(np.median(lows))
                low = max(min(lows), usual - 2 * (top - usual)) - 0.02
                axis.set_ylim(low, min(1.0, top + 0.1 * (top - low)))
            if i == 0:
                axis.set_title(_PARTS[part], fontsize=9)
            if j == 0:
                axis.set_ylabel(f"{kind}: {'R2' if figure == 'r2' else figure}")
            if i == len(inputs) - 1:
                axis.set_xlabel("labelled target stars")
    handles, names = axes[0, 0].get_legend_handles_labels()
    drawn.legend(handles, names, loc="outside lower center", ncols=len(strategies), fontsize=8, frameon=False)
    drawn.suptitle(f"{_NAMES.get(label, label)} of stars left out", fontsize=10)
    return drawn


def plot_plane(samples: Mapping[str, np.ndarray], notes: Mapping[str, str] | None = None) -> Figure:
    """Draw the density of stars over [Fe/H] and [alpha/Fe], a panel per sample.

    Parameters
    ----------
    samples : mapping of title to ndarray (n, 2)
        [Fe/H] and [alpha/Fe] in dex; the first is the reference, whose range all panels have.
    notes : mapping of title to str, optional
        Written into the panel, for instance its discrepancy.
    """
    columns = min(3, len(samples))
    rows = -(-len(samples) // columns)
    figure, axes = new_figure(3.0 * columns + 0.4, 2.7 * rows + 0.3, rows, columns, sharex=True, sharey=True, squeeze=False)
    low, high = np.nanquantile(next(iter(samples.values())), [0.002, 0.998], axis=0)
    margin = 0.08 * (high - low)
    edges = [np.linspace(a, b, 45) for a, b in zip(low - margin, high + margin, strict=True)]
    for axis in axes.flat[len(samples) :]:
        axis.set_visible(False)
    for axis, (title, stars) in zip(axes.flat, samples.items(), strict=False):
        axis.grid(visible=False)
        counts, _, _ = np.histogram2d(stars[:, 0], stars[:, 1], edges)
        shown = np.ma.masked_equal(np.sqrt(counts.T), 0)  # square root: both sequences stay visible
        axis.pcolormesh(*edges, shown, cmap="cividis_r", rasterized=True)
        axis.axvline(-1, color="k", lw=0.6, ls=":")
        axis.set_title(title, fontsize=9)
        if notes and title in notes:
            axis.text(0.97, 0.95, notes[title], transform=axis.transAxes, ha="right", va="top", fontsize=7.5)
    for axis in axes[-1]:
        axis.set_xlabel("[Fe/H]")
    for axis in axes[:, 0]:
        axis.set_ylabel("[alpha/Fe]")
    return figure


def plot_landscapes(landscapes: Mapping[str, Landscape]) -> Figure:
    """Draw loss landscapes with the same levels, a panel per solution."""
    figure, axes = new_figure(2.9 * len(landscapes) + 0.9, 3.0, 1, len(landscapes), sharey=True, squeeze=False)
    every = np.log10(np.stack([one.loss for one in landscapes.values()]))
    levels = np.linspace(every.min(), min(float(every.max()), 1.5), 16)
    for axis, (name, one) in zip(axes[0], landscapes.items(), strict=True):
        axis.grid(visible=False)
        values = np.log10(one.loss).T
        filled = axis.contourf(one.step, one.step, values, levels, cmap="cividis", extend="max")
        axis.contour(one.step, one.step, values, levels[::3], colors="w", linewidths=0.5)
        axis.plot(0, 0, "x", color=COLOURS[1], ms=7, mew=2)
        centre = len(one.step) // 2
        axis.set_title(f"{name}: {one.loss[centre, centre]:.3f}", fontsize=9)
        axis.set(xlabel="first direction", aspect="equal")
    axes[0, 0].set_ylabel("second direction")
    bar = figure.colorbar(filled, ax=axes, label="log10 mean squared error / variance", format="%.2f")
    bar.ax.tick_params(labelsize=7)
    return figure


def plot_sensitivity(wavelength: np.ndarray, found: Mapping[str, Sensitivity], label: str) -> Figure:
    """Draw the gradient of a label by the flux of each pixel, a panel per head, with known lines marked.

    Parameters
    ----------
    wavelength : ndarray (n_pix,)
        Vacuum, Angstrom.
    found : mapping of title to Sensitivity
    label : str
    """
    figure, axes = new_figure(9, 1.7 * len(found) + 0.9, len(found), 1, sharex=True, squeeze=False)
    inside = [line for line in (*_MARKED, *_METALS) if wavelength[0] < line.wavelength < wavelength[-1]]
    marked = sorted(inside, key=lambda line: line.wavelength)
    for k, (axis, (title, one)) in enumerate(zip(axes[:, 0], found.items(), strict=True)):
        if label not in one.labels:
            raise InputError(f"{title} has no label {label!r}; it has {', '.join(one.labels)}")
        mean, error = (values[one.labels.index(label)] for values in (one.mean, one.error))
        for line in marked:
            axis.axvline(line.wavelength, color="#999999", lw=0.7, ls=":", zorder=0)
        axis.fill_between(wavelength, mean - 2 * error, mean + 2 * error, color=COLOURS[k % len(COLOURS)], alpha=0.25, lw=0)
        axis.plot(wavelength, mean, color=COLOURS[k % len(COLOURS)], lw=0.8)
        axis.axhline(0, color="k", lw=0.5)
        axis.text(
            0.008, 0.9, title, transform=axis.transAxes, fontsize=8, va="top", bbox={"fc": "w", "ec": "none", "pad": 1}
        )
    top = axes[0, 0]
    for line, shift in zip(marked, _staggered(marked), strict=True):
        top.annotate(
            line.name, (line.wavelength, 1.02 + shift), xycoords=("data", "axes fraction"), fontsize=6.5, ha="center"
        )
    axes[-1, 0].set(xlabel="vacuum wavelength [Angstrom]", xlim=(wavelength[0], wavelength[-1]))
    figure.supylabel(f"d {_NAMES.get(label, label)} / d flux", fontsize=9)
    return figure


def _staggered(lines: Sequence[Line]) -> list[float]:
    """Return a height for each name, so that neighbours do not overlap."""
    heights, last = [], [-np.inf] * 4
    for line in lines:
        level = next((k for k, end in enumerate(last) if line.wavelength - end > 95), 3)
        last[level] = line.wavelength
        heights.append(0.11 * level)
    return heights


def plot_predictions(
    names: Sequence[str], labels: Sequence[str], predictions: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> Figure:
    """Draw predicted labels of a handful of spectra, star by star.

    Parameters
    ----------
    names : sequence of str (n,)
        What to write under each spectrum.
    labels : sequence of str (L,)
    predictions : mapping of title to (mean, sigma), each ndarray (n, L)
    """
    figure, axes = new_figure(0.5 * len(names) + 2.5, 1.8 * len(labels) + 1.2, len(labels), 1, sharex=True, squeeze=False)
    place = np.arange(len(names))
    for i, (axis, label) in enumerate(zip(axes[:, 0], labels, strict=True)):
        for k, (title, (mean, sigma)) in enumerate(predictions.items()):
            shifted = place + 0.16 * (k - (len(predictions) - 1) / 2)
            style = {"color": COLOURS[k], "marker": MARKERS[k], "ms": 4, "lw": 0, "elinewidth": 1, "capsize": 2}
            axis.errorbar(shifted, mean[:, i], sigma[:, i], label=title, **style)
        axis.set_ylabel(_NAMES.get(label, label))
    axes[0, 0].legend(fontsize=8, ncols=len(predictions), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    axes[-1, 0].set_xticks(place, names, rotation=60, ha="right", fontsize=7)
    return figure
