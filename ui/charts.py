"""Interactive figures: the same as in `specdb.plots`, drawn in the browser, light or dark."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from specdb.anomaly import Deviation
from specdb.plots.spectra import LINE_MARKS, Curve, residuals
from specdb.plots.style import COLOURS
from ui.maps import Cells

__all__ = ["ON_DARK", "histogram_chart", "map_chart", "one_to_one_chart", "overlay_chart", "scatter_chart"]

_WAVELENGTH = "vacuum wavelength (Å)"
_EXCESS, _DEFICIT = COLOURS[5], COLOURS[4]  # orange and light blue, told apart by their numbers, too

#: Cividis without its darkest third, which a dark page would swallow.
ON_DARK = [[0.0, "#5D6A8C"], [0.25, "#7C7B78"], [0.5, "#A59C74"], [0.75, "#D2C060"], [1.0, "#FEE838"]]


#: Of the palette, those that stand out from a dark ground.
_BRIGHT = (COLOURS[4], COLOURS[5], COLOURS[3], COLOURS[2], COLOURS[1])


def _ink(dark: bool) -> str:
    return "#FFFFFF" if dark else "#000000"


def _palette(dark: bool) -> Sequence[str]:
    return _BRIGHT if dark else COLOURS[:-1]


def overlay_chart(
    reference: Curve,
    others: Sequence[Curve],
    flux_label: str,
    *,
    deviations: Sequence[Deviation] = (),
    dark: bool = False,
    height: int = 0,
) -> go.Figure:
    """Show spectra on one another, below what is left when the first is taken off; see `specdb.plots.spectra`.

    Parameters
    ----------
    reference : Curve
    others : sequence of Curve
    flux_label : str
    deviations : sequence of Deviation
        Stretches to shade and number, in the order given.
    dark : bool
        For a dark page.
    height : int
        Pixels; by default as high as the panels need.
    """
    rows = 2 if others else 1
    figure = make_subplots(
        rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.03, row_heights=[0.68, 0.32] if others else [1.0]
    )
    x, colours = reference.wavelength, _palette(dark)
    for i, (other, rest) in enumerate(zip(others, residuals(reference, others), strict=True)):
        line = {"color": colours[i % len(colours)], "width": 1}
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
    # All shapes and words at once: one by one, Plotly copies those that are there each time.
    shapes, words = _shaded(deviations)
    lines, names = _line_marks(low, high)
    figure.update_xaxes(range=[low, high], tickformat="d")
    figure.update_xaxes(title=_WAVELENGTH, row=rows, col=1)
    figure.update_yaxes(title=flux_label, row=1, col=1)
    if others:
        figure.update_yaxes(title="other − this", row=2, col=1)
    figure.update_layout(
        height=height or (570 if others else 390),
        shapes=shapes + lines,
        annotations=words + names,
        margin={"l": 60, "r": 10, "t": 60, "b": 110},
        legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom"},
        hovermode="x",
    )
    return figure


def _shaded(deviations: Sequence[Deviation]) -> tuple[list[dict], list[dict]]:
    """Return shapes and numbers of deviating stretches, in the panel of the spectra."""
    shapes, words = [], []
    for number, d in enumerate(deviations, 1):
        colour, arrow = (_EXCESS, "▲") if d.significance > 0 else (_DEFICIT, "▼")
        shapes.append(
            {"type": "rect", "x0": d.low, "x1": d.high, "y0": 0, "y1": 1, "xref": "x", "yref": "y domain",
             "fillcolor": colour, "opacity": 0.3, "line": {"width": 0}, "layer": "below"}
        )  # fmt: skip
        words.append(
            {"x": d.low, "y": 0, "xref": "x", "yref": "y domain", "text": f"<b>{number}{arrow}</b>", "showarrow": False,
             "xanchor": "left", "yanchor": "bottom", "font": {"size": 12}}
        )  # fmt: skip
    return shapes, words


def _line_marks(low: float, high: float) -> tuple[list[dict], list[dict]]:
    """Return shapes and names of the known lines between two wavelengths, through all panels; names in three heights."""
    shapes, words = [], []
    before, level = -np.inf, 0
    for name, at in LINE_MARKS.items():
        if low < at < high:
            shapes.append(
                {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "xref": "x", "yref": "paper", "layer": "below",
                 "line": {"color": "#888888", "width": 0.7, "dash": "dot"}}
            )  # fmt: skip
            level = (level + 1) % 3 if at - before < 0.05 * (high - low) else 0
            before = at
            words.append(
                {"x": at, "y": 1.0 + 0.035 * level, "xref": "x", "yref": "paper", "text": name, "showarrow": False,
                 "font": {"size": 10}, "yanchor": "bottom"}
            )  # fmt: skip
    return shapes, words


def map_chart(
    cells: Cells,
    colour: str,
    *,
    backdrop: Cells | None = None,
    chosen: tuple[float, float] | None = None,
    boxes: bool = False,
    dark: bool = False,
) -> go.Figure:
    """Show a map of embeddings: points, or squares that stand for many; they are the first trace after the backdrop.

    Parameters
    ----------
    cells : Cells
        What can be clicked.
    colour : str
        What its values are.
    backdrop : Cells, optional
        All there is, in grey, where `cells` are only some.
    chosen : (float, float), optional
        Where a ring is drawn.
    boxes : bool
        Whether the mouse draws boxes, or pans and picks.
    dark : bool
        For a dark page.
    """
    value = np.log10(cells.count) if cells.value is None else cells.value
    constant = cells.single and cells.value is None
    title = colour if cells.value is not None else "log10 number"
    finite = value[np.isfinite(value)]
    low, high = np.quantile(finite, [0.02, 0.98]) if finite.size else (0, 1)
    shape = {"size": 6, "symbol": "circle" if cells.single else "square"}
    marker = shape | {"color": COLOURS[4 if dark else 0] if constant else value.astype(np.float32), "opacity": 0.9}
    if not constant:
        scale = ON_DARK if dark else "Cividis"
        marker |= {"colorscale": scale, "cmin": low, "cmax": high, "colorbar": {"title": {"text": title}, "thickness": 14}}
    figure = go.Figure()
    if backdrop is not None:
        grey = {"size": 5, "symbol": "square", "color": "#555555" if dark else "#CCCCCC", "opacity": 0.5}
        figure.add_scattergl(
            x=backdrop.x.astype(np.float32), y=backdrop.y.astype(np.float32), mode="markers", marker=grey,
            hoverinfo="skip", unselected={"marker": {"opacity": 0.5}},
        )  # fmt: skip
    # Ids as text, as a browser's numbers hold only 53 bits; of cells the place in the list is enough.
    shown = {"text": cells.ids.astype(str)} if cells.single else {"customdata": cells.count.astype(np.int32)}
    says = "%{text}" if cells.single else "%{customdata} spectra"
    figure.add_scattergl(
        x=cells.x.astype(np.float32), y=cells.y.astype(np.float32), mode="markers", marker=marker,
        hovertemplate=f"{says}<extra></extra>", unselected={"marker": {"opacity": 0.9}},
        selected={"marker": {"color": COLOURS[1], "size": 16, "opacity": 1}}, **shown,
    )  # fmt: skip
    if chosen is not None:
        ring = {"size": 18, "symbol": "circle-open", "color": COLOURS[1], "line": {"width": 3}}
        figure.add_scattergl(
            x=[chosen[0]], y=[chosen[1]], mode="markers", marker=ring, hoverinfo="skip",
            unselected={"marker": {"opacity": 1}},
        )  # fmt: skip
    figure.update_xaxes(title="map x (no unit)", showgrid=False, zeroline=False)
    figure.update_yaxes(title="map y (no unit)", showgrid=False, zeroline=False)
    figure.update_layout(
        height=600, margin={"l": 40, "r": 10, "t": 30, "b": 40}, dragmode="select" if boxes else "pan",
        clickmode="event" if boxes else "event+select", showlegend=False,
    )  # fmt: skip
    return figure


def histogram_chart(values: np.ndarray, label: str, *, dark: bool = False) -> go.Figure:
    """Show how values are distributed, counted here rather than in the browser."""
    finite = values[np.isfinite(values)]
    count, edges = np.histogram(finite, bins=min(60, max(8, int(np.sqrt(len(finite) or 1)))))
    centre = (edges[1:] + edges[:-1]) / 2
    figure = go.Figure(go.Bar(x=centre, y=count, width=np.diff(edges), marker={"color": _palette(dark)[0]}))
    figure.update_layout(height=380, xaxis_title=label, yaxis_title="number", bargap=0.02, margin={"t": 10})
    return figure


def scatter_chart(x: np.ndarray, y: np.ndarray, labels: tuple[str, str], *, dark: bool = False) -> go.Figure:
    """Show one column against another."""
    marker = {"color": _palette(dark)[0], "size": 4, "opacity": 0.6}
    figure = go.Figure(go.Scattergl(x=x, y=y, mode="markers", marker=marker))
    figure.update_layout(height=460, xaxis_title=labels[0], yaxis_title=labels[1], margin={"t": 10})
    return figure


def one_to_one_chart(truth: np.ndarray, predictions: dict[str, np.ndarray], label: str, *, dark: bool = False) -> go.Figure:
    """Show what several heads predict against the catalogue, above their differences from it.

    Parameters
    ----------
    truth : ndarray (n,)
    predictions : dict of str to ndarray (n,)
        Name of the head -> what it says of the same spectra.
    label : str
        With its unit.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.04, row_heights=[0.68, 0.32])
    symbols = ("circle", "square-open", "diamond-open")
    for i, (name, values) in enumerate(predictions.items()):
        marker = {"color": _palette(dark)[i], "symbol": symbols[i % len(symbols)], "size": 5, "opacity": 0.6}
        for row, y in ((1, values), (2, values - truth)):
            figure.add_scattergl(
                x=truth, y=y, mode="markers", marker=marker, name=name, legendgroup=name, showlegend=row == 1, row=row, col=1
            )
    low, high = (float(v) for v in np.nanquantile(truth, [0, 1])) if np.isfinite(truth).any() else (0.0, 1.0)
    line = {"color": "#888888", "width": 1, "dash": "dash"}
    for row, y in ((1, [low, high]), (2, [0, 0])):
        figure.add_scatter(x=[low, high], y=y, mode="lines", line=line, showlegend=False, hoverinfo="skip", row=row, col=1)
    figure.update_xaxes(title=f"catalogue {label}", row=2, col=1)
    figure.update_yaxes(title=f"predicted {label}", row=1, col=1)
    figure.update_yaxes(title="difference", row=2, col=1)
    figure.update_layout(height=560, margin={"t": 30}, legend={"orientation": "h", "y": 1.06})
    return figure
