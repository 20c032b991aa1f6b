"""The whole survey as a map of its embeddings: click for a spectrum and its neighbours, draw a box to come closer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st

from specdb.catalog.selection import select_ids
from specdb.database import Database
from specdb.errors import QueryError
from ui.asking import ask
from ui.charts import map_chart
from ui.maps import Cells, MapPoints, Window, bin_points, colour_columns, colour_values, read_map
from ui.model import plain_condition, short_hash
from ui.peek import peek
from ui.shell import choose_modality, database, fingerprint, go_to, is_dark, parameter, remember

__all__ = ["explore"]


#: Streamlit passes clicks on only while no box can be drawn.
_POINTERS = ("pick", "box to zoom")


@st.cache_resource(max_entries=4, show_spinner="reading the map")
def _map(_db: Database, changed: int, modality: str) -> MapPoints:
    return read_map(_db, modality)


@st.cache_resource(max_entries=8, show_spinner="reading the colours")
def _values(_db: Database, changed: int, modality: str, expression: str) -> np.ndarray:
    return colour_values(_db, modality, expression, _map(_db, changed, modality).ids)


@st.cache_data(max_entries=8, show_spinner=False)
def _columns(_db: Database, changed: int, modality: str) -> dict[str, str]:
    return colour_columns(_db, modality)


@st.cache_resource(max_entries=8, show_spinner="selecting")
def _matching(_db: Database, changed: int, modality: str, where: str) -> np.ndarray:
    return _map(_db, changed, modality).among(select_ids(_db.store, modality, where, index=_db.index))


@st.cache_resource(max_entries=8, show_spinner="asking")
def _answering(_db: Database, changed: int, modality: str, query: str) -> np.ndarray:
    table, _ = ask(_db, changed, query)
    if "spectrum_id" not in table.column_names:
        raise QueryError("the result has no column spectrum_id, so nothing of it can be shown on the map")
    return _map(_db, changed, modality).among(table["spectrum_id"].drop_null().to_numpy())


@dataclass(frozen=True)
class _Drawn:
    """What is on the screen; made anew only when one of these changes."""

    modality: str
    colour: str
    window: Window | None
    limits: tuple[float, float] | None
    where: str | None
    query: str
    box: bool = False

    @property
    def key(self) -> str:
        # Another view is another widget: what was selected in the last one is no longer meant.
        return f"map-{short_hash(repr(self))}"


@st.cache_resource(max_entries=16, show_spinner=False)
def _cells(_db: Database, changed: int, drawn: _Drawn) -> tuple[Cells, Cells | None]:
    """Return what can be clicked, and, where that is a choice, all there is."""
    points = _map(_db, changed, drawn.modality)
    expression = _columns(_db, changed, drawn.modality).get(drawn.colour)
    value = None if expression is None else _values(_db, changed, drawn.modality, expression)
    mask = None
    if drawn.where:
        mask = _matching(_db, changed, drawn.modality, drawn.where)
    if drawn.query:
        found = _answering(_db, changed, drawn.modality, drawn.query)
        mask = found if mask is None else mask & found
    if drawn.limits is not None and value is not None:
        inside = (value >= drawn.limits[0]) & (value <= drawn.limits[1])
        mask = inside if mask is None else mask & inside
    cells = bin_points(points, drawn.window, value, mask)
    return cells, None if mask is None else bin_points(points, drawn.window)


def _numbers(name: str, count: int) -> tuple[float, ...] | None:
    """Return so many numbers of the address, or None where they are not there."""
    try:
        found = tuple(map(float, parameter(name).split(",")))
    except ValueError:
        return None
    return found if len(found) == count and np.isfinite(found).all() else None


def _window() -> Window | None:
    found = _numbers("window", 4)
    if found is None or found[0] >= found[1] or found[2] >= found[3]:
        return None
    return found  # type: ignore[return-value]


def explore() -> None:
    """Show the map with its controls on the left and the chosen spectrum on the right."""
    db, changed = database(), fingerprint()
    st.title("Explore")
    side, main, right = st.columns([1, 2.7, 1.9], gap="medium")
    with side:
        modality = choose_modality()
        if modality is None:
            return
        points = _map(db, changed, modality)
        drawn = _controls(db, changed, modality)
    cells, backdrop = _cells(db, changed, drawn)
    with side:
        _where_we_are(cells, drawn)
    clicked = _clicked(drawn, cells, backdrop)
    spectrum, stands_for = _chosen(drawn, cells, clicked)
    with main:
        if cells.total == 0:
            st.info("Nothing in view is like this.")
        else:
            # What was clicked is marked by the browser itself: an unchanged figure is not sent again.
            marked = clicked is not None and int(cells.ids[clicked]) == spectrum
            _draw(drawn, cells, backdrop, None if spectrum is None or marked else points.place(spectrum))
            if clicked is not None and not cells.single and st.button("zoom to the chosen square"):
                _zoom(cells.window(clicked))
        some = points.provenance
        st.caption(
            f"UMAP of {db.store.default_encoder}: {some.get('sample', '?')} spectra fitted, the others placed beside their "
            "neighbours. Distances between groups mean little."
        )
        if cells.single and cells.total:
            _as_list(modality, cells, drawn.key)
    with right:
        if spectrum is None:
            st.info("Click a point, or a square that stands for several: its spectrum and its nearest neighbours show here.")
            return
        if stands_for > 1:
            st.caption(f"one of {stands_for:,} spectra in this square")
        peek(db, changed, modality, spectrum)


def _controls(db: Database, changed: int, modality: str) -> _Drawn:
    columns = _columns(db, changed, modality)
    names = ["density", *columns]
    asked = parameter("colour", "snr")
    colour = st.selectbox("colour", names, index=names.index(asked) if asked in names else 0)
    limits = None
    if colour != "density":
        value = _values(db, changed, modality, columns[colour])
        if np.isfinite(value).any():
            low, high = float(np.nanmin(value)), float(np.nanmax(value))
            if low < high:
                limits = _between(colour, low, high)
    where = plain_condition(
        st.text_input(
            "only spectra with",
            parameter("where"),
            placeholder="snr_g > 20 AND class = 'STAR'",
            help="comparisons of columns",
        )
    )
    remember(colour=colour, where=where, range=None if limits is None else f"{limits[0]:.6g},{limits[1]:.6g}")
    query = parameter("q")
    if query:
        with st.container(border=True):
            st.caption("only what this question found")
            st.code(query, language="sql", wrap_lines=True)
            if st.button("show the others, too"):
                remember(q=None)
                st.rerun()
    pointer = st.segmented_control("mouse", _POINTERS, default=_POINTERS[0], key="pointer")
    return _Drawn(modality, colour, _window(), limits, where, query, pointer == _POINTERS[1])


def _between(colour: str, low: float, high: float) -> tuple[float, float] | None:
    """Let the user narrow the range; None for all of it."""
    kept = _numbers("range", 2) if parameter("colour", "snr") == colour else None
    first = (max(low, min(kept[0], high)), min(high, max(kept[1], low))) if kept else (low, high)
    chosen = st.slider(f"only with {colour} in", low, high, first, key=f"range-{colour}")
    return None if chosen == (low, high) else (float(chosen[0]), float(chosen[1]))


def _where_we_are(cells: Cells, drawn: _Drawn) -> None:
    st.metric("spectra in view", f"{cells.total:,}")
    if drawn.window is not None:
        if st.button("show all", help="of the map"):
            remember(window=None)
            st.rerun()
        if st.button("zoom out"):
            x0, x1, y0, y1 = drawn.window
            _zoom((1.5 * x0 - 0.5 * x1, 1.5 * x1 - 0.5 * x0, 1.5 * y0 - 0.5 * y1, 1.5 * y1 - 0.5 * y0))
    if not cells.single:
        st.caption("Each square stands for several spectra; zoom in until single ones show.")


def _zoom(window: Window) -> None:
    remember(window=",".join(f"{v:.5g}" for v in window))
    st.rerun()


def _selection(drawn: _Drawn) -> Any:
    """Return what is selected in the map, as of this run."""
    return st.session_state.get(drawn.key, {}).get("selection", {})


def _chosen(drawn: _Drawn, cells: Cells, clicked: int | None) -> tuple[int | None, int]:
    """Return the spectrum that was clicked, or that the address names, and how many its cell holds."""
    selected = _selection(drawn)
    if selected.get("box"):
        xs, ys = selected["box"][0]["x"], selected["box"][0]["y"]
        _zoom((min(xs), max(xs), min(ys), max(ys)))
    if clicked is not None and st.session_state.get("handled click") != (drawn.key, clicked):
        # Once: a click stays selected in the map while the page goes on to other spectra.
        st.session_state["handled click"] = (drawn.key, clicked)
        remember(star=int(cells.ids[clicked]))
    text = parameter("star")
    if not text.lstrip("-").isdigit() or len(text) > 20:
        return None, 1
    here = clicked is not None and int(cells.ids[clicked]) == int(text)
    return int(text), int(cells.count[clicked]) if here else 1


def _clicked(drawn: _Drawn, cells: Cells, backdrop: Cells | None) -> int | None:
    """Return the place among the cells of the one that is selected."""
    trace = 0 if backdrop is None else 1
    points = [p["point_index"] for p in _selection(drawn).get("points", []) if p.get("curve_number") == trace]
    return points[0] if points and points[0] < len(cells.ids) else None


def _draw(drawn: _Drawn, cells: Cells, backdrop: Cells | None, place: tuple[float, float] | None) -> None:
    chart = map_chart(cells, drawn.colour, backdrop=backdrop, chosen=place, boxes=drawn.box, dark=is_dark())
    st.plotly_chart(
        chart,
        key=drawn.key,
        on_select="rerun",
        selection_mode="box" if drawn.box else "points",
        config={"scrollZoom": True},
        alt=f"map of {drawn.modality}",
    )


def _as_list(modality: str, cells: Cells, key: str) -> None:
    rows = [{"spectrum_id": str(i)} for i in cells.ids[:500].tolist()]
    with st.expander(f"the spectra in view as a list ({len(rows)})"):
        listed = st.dataframe(rows, hide_index=True, on_select="rerun", selection_mode="single-row", key=f"list-{key}")
        if listed["selection"]["rows"]:
            go_to("star", id=rows[listed["selection"]["rows"][0]]["spectrum_id"], modality=modality)
