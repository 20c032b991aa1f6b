"""Interactive figures: the same as in `specdb.plots`, drawn in the browser, light or dark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from specdb.plots.spectra import LINE_MARKS, Curve, residuals
from specdb.plots.style import COLOURS
from ui.model import Cells

__all__ = ["histogram_chart", "map_chart", "overlay_chart", "scatter_chart"]

_WAVELENGTH = "vacuum wavelength (Å)"


def _ink(dark: bool) -> str:
    return "#FFFFFF" if dark else "#000000"


def overlay_chart(reference: Curve, others: Sequence[Curve], flux_label: str, *, dark: bool = False) -> go.Figure:
    """Show spectra on one another, below what is left when the first is taken off; see `specdb.plots.spectra`."""
    rows = 2 if others else 1
    figure = make_subplots(
        rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.03, row_heights=[0.68, 0.32] if others else [1.0]
    )
    x = reference.wavelength
    for i, (other, rest) in enumerate(zip(others, residuals(reference, others), strict=True)):
        line = {"color": COLOURS[i % (len(COLOURS) - 1)], "width": 1}
        figure.add_scatter(
            x=other.wavelength, y=other.flux, name=other.name, line=line, legendgroup=other.name, row=1, col=1
        )
        figure.add_scatter(x=x, y=rest, line=line, legendgroup=other.name, showlegend=False, name=other.name, row=2, col=1)
    if reference.sigma is not None and np.isfinite(reference.sigma).any():
        known = np.isfinite(reference.sigma)
        for row, centre in ((rows, np.zeros(len(x)) if others else reference.flux),):
            band = np.where(known, reference.sigma, 0.0)
            xs = np.concatenate([x, x[::-1]])
            ys = np.concatenate([centre + band, (centre - band)[::-1]])
            figure.add_scatter(
                x=xs, y=ys, fill="toself", fillcolor="rgba(86,180,233,0.35)", line={"width": 0}, hoverinfo="skip",
                name="±1σ of this spectrum", row=row, col=1,
            )  # fmt: skip
    figure.add_scatter(x=x, y=reference.flux, name=reference.name, line={"color": _ink(dark), "width": 1.4}, row=1, col=1)
    if reference.repaired is not None and reference.repaired.any():
        filled = reference.repaired
        marker = {"color": COLOURS[1], "size": 4, "symbol": "x"}
        figure.add_scatter(
            x=x[filled], y=reference.flux[filled], mode="markers", marker=marker, name="repaired pixels", row=1, col=1
        )
    low, high = float(x[0]), float(x[-1])
    before, level = -np.inf, 0
    for name, at in LINE_MARKS.items():
        if low < at < high:
            figure.add_vline(x=at, line={"color": "#888888", "width": 0.7, "dash": "dot"})
            level = (level + 1) % 3 if at - before < 0.05 * (high - low) else 0
            before = at
            figure.add_annotation(
                x=at, y=1.0 + 0.035 * level, yref="paper", text=name, showarrow=False, font={"size": 10}, yanchor="bottom"
            )
    figure.update_xaxes(range=[low, high], tickformat="d")
    figure.update_xaxes(title=_WAVELENGTH, row=rows, col=1)
    figure.update_yaxes(title=flux_label, row=1, col=1)
    if others:
        figure.update_yaxes(title="other − this", row=2, col=1)
    figure.update_layout(
        height=570 if others else 390,
        margin={"l": 60, "r": 10, "t": 60, "b": 110},
        legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom"},
        hovermode="x",
    )
    return figure


def map_chart(cells: Cells, colour: str, *, dark: bool = False) -> go.Figure:
    """Show a map of embeddings: points, or squares that stand for many."""
    value = np.log10(cells.count) if cells.value is None else cells.value
    constant = cells.single and cells.value is None
    title = colour if cells.value is not None else "log10 number"
    finite = value[np.isfinite(value)]
    low, high = np.quantile(finite, [0.02, 0.98]) if finite.size else (0, 1)
    marker = {
        "size": 5,
        "symbol": "circle" if cells.single else "square",
        "color": COLOURS[4 if dark else 0] if constant else value,
        "opacity": 0.85,
    }
    if not constant:
        marker |= {"colorscale": "Cividis", "cmin": low, "cmax": high, "colorbar": {"title": {"text": title}}}
    # Ids as text: the browser's numbers hold only 53 bits.
    custom = np.stack([cells.ids.astype(str), cells.count.astype(str)], axis=1)
    figure = go.Figure(
        go.Scattergl(
            x=cells.x,
            y=cells.y,
            mode="markers",
            marker=marker,
            customdata=custom,
            hovertemplate="%{customdata[0]}<br>%{customdata[1]} spectra<extra></extra>",
        )
    )
    figure.update_xaxes(title="map x (no unit)", showgrid=False, zeroline=False)
    figure.update_yaxes(title="map y (no unit)", showgrid=False, zeroline=False)
    figure.update_layout(
        height=600, margin={"l": 40, "r": 10, "t": 10, "b": 40}, dragmode="select", clickmode="event+select"
    )
    return figure


def histogram_chart(values: np.ndarray, label: str) -> go.Figure:
    """Show how values are distributed, counted here rather than in the browser."""
    finite = values[np.isfinite(values)]
    count, edges = np.histogram(finite, bins=min(60, max(8, int(np.sqrt(len(finite) or 1)))))
    centre = (edges[1:] + edges[:-1]) / 2
    figure = go.Figure(go.Bar(x=centre, y=count, width=np.diff(edges), marker={"color": COLOURS[0]}))
    figure.update_layout(height=380, xaxis_title=label, yaxis_title="number", bargap=0.02, margin={"t": 10})
    return figure


def scatter_chart(x: np.ndarray, y: np.ndarray, labels: tuple[str, str]) -> go.Figure:
    """Show one column against another."""
    figure = go.Figure(go.Scattergl(x=x, y=y, mode="markers", marker={"color": COLOURS[0], "size": 4, "opacity": 0.6}))
    figure.update_layout(height=460, xaxis_title=labels[0], yaxis_title=labels[1], margin={"t": 10})
    return figure
