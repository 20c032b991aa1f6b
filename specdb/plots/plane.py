"""Two labels against each other: density, or the median of a third, as in the [alpha/Fe]-[Fe/H] plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specdb.errors import InputError
from specdb.plots.style import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_plane"]

_FEW = 2000  # below, points say more than cells


def plot_plane(
    x: np.ndarray,
    y: np.ndarray,
    labels: tuple[str, str],
    value: np.ndarray | None = None,
    value_label: str = "",
    title: str = "",
) -> Figure:
    """Draw one label against another.

    Parameters
    ----------
    x, y : ndarray (n,)
    labels : tuple of str
        Of the axes, with units.
    value : ndarray (n,), optional
        Coloured by its median in each cell instead of by the number of stars.
    value_label, title : str

    Returns
    -------
    matplotlib.figure.Figure
        Points for few stars; else hexagonal cells with a logarithmic colour scale for counts.

    Raises
    ------
    InputError
        When no star has all values.
    """
    good = np.isfinite(x) & np.isfinite(y) & (np.isfinite(value) if value is not None else True)
    if not good.any():
        raise InputError(f"no star has both {labels[0]} and {labels[1]}; there is nothing to draw")
    x, y = x[good], y[good]
    value = None if value is None else value[good]
    spans = [np.quantile(v, [0.002, 0.998]) for v in (x, y)]
    (left, right), (low, high) = ((a - 0.05 * (b - a or 1), b + 0.05 * (b - a or 1)) for a, b in spans)
    figure, axes = new_figure(7, 5)
    if len(x) < _FEW:
        shown = {"color": COLOURS[0]} if value is None else {"c": value, "cmap": "cividis"}
        drawn = axes.scatter(x, y, s=10, lw=0, alpha=0.8, **shown)
    else:
        cells = {"gridsize": 70, "cmap": "cividis", "mincnt": 1, "extent": (left, right, low, high)}
        drawn = (
            axes.hexbin(x, y, bins="log", **cells)
            if value is None
            else axes.hexbin(x, y, C=value, reduce_C_function=np.median, **cells)
        )
    if value is not None or len(x) >= _FEW:
        figure.colorbar(drawn, ax=axes, label=f"median {value_label}" if value is not None else "number of stars")
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(left, right), ylim=(low, high))
    axes.set_title(f"{title}\n{len(x):,} stars" if title else f"{len(x):,} stars", fontsize=10)
    return figure
