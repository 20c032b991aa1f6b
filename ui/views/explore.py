"""The whole survey as a map of its embeddings."""

from __future__ import annotations

import numpy as np
import streamlit as st

from specdb.database import Database
from ui.charts import map_chart
from ui.model import MapPoints, bin_points, colour_columns, colour_values, read_map
from ui.shell import choose_modality, database, fingerprint, go_to, is_dark, parameter, remember

__all__ = ["explore"]


@st.cache_resource(max_entries=4, show_spinner="reading the map")
def _map(_db: Database, changed: int, modality: str) -> MapPoints:
    return read_map(_db, modality)


@st.cache_resource(max_entries=8, show_spinner="reading the colours")
def _values(_db: Database, changed: int, modality: str, expression: str) -> np.ndarray:
    return colour_values(_db, modality, expression, _map(_db, changed, modality).ids)


@st.cache_data(max_entries=8, show_spinner=False)
def _columns(_db: Database, changed: int, modality: str) -> dict[str, str]:
    return colour_columns(_db, modality)


def _window() -> tuple[float, float, float, float] | None:
    try:
        x0, x1, y0, y1 = map(float, parameter("window").split(","))
    except ValueError:
        return None
    return (x0, x1, y0, y1) if x0 < x1 and y0 < y1 else None


def explore() -> None:
    """Show the map; a box zooms in, the list below it opens a star."""
    db, changed = database(), fingerprint()
    st.title("Explore")
    side, main = st.columns([1, 4], gap="large")
    with side:
        modality = choose_modality()
        if modality is None:
            return
    points = _map(db, changed, modality)
    columns = _columns(db, changed, modality)
    names = ["density", *columns]
    with side:
        asked = parameter("colour", "snr")
        colour = st.selectbox("colour", names, index=names.index(asked) if asked in names else 0)
        remember(colour=colour)
        value = None if colour == "density" else _values(db, changed, modality, columns[colour])
        if value is not None and np.isfinite(value).any():
            low, high = (float(v) for v in np.quantile(value[np.isfinite(value)], [0, 1]))
            if low < high:
                chosen = st.slider(f"only with {colour} in", low, high, (low, high))
                if chosen != (low, high):
                    value = np.where((value >= chosen[0]) & (value <= chosen[1]), value, np.nan)
    window = _window()
    cells = bin_points(points, window, value)
    with side:
        st.metric("spectra in view", f"{cells.total:,}")
        if window and st.button("show all"):
            remember(window=None)
            st.rerun()
        st.caption("Draw a box to zoom in, until single spectra show; then choose one from the list below the map.")
    with main:
        if cells.total == 0:
            st.info("Nothing in view has this value.")
            return
        # Another view is another widget: what was selected in the last one is no longer meant.
        key = f"map-{modality}-{colour}-{parameter('window')}"
        chart = map_chart(cells, colour, dark=is_dark())
        event = st.plotly_chart(chart, key=key, on_select="rerun", selection_mode="box", alt=f"map of {modality}")
        boxes = event["selection"]["box"]
        if boxes:
            xs, ys = boxes[0]["x"], boxes[0]["y"]
            remember(window=",".join(f"{v:.4g}" for v in (min(xs), max(xs), min(ys), max(ys))))
            st.rerun()
        if cells.single:
            rows = [{"spectrum_id": str(i)} for i in cells.ids[:500].tolist()]
            with st.expander(f"the spectra in view as a list ({len(rows)})"):
                listed = st.dataframe(
                    rows, hide_index=True, on_select="rerun", selection_mode="single-row", key=f"list-{key}"
                )
                if listed["selection"]["rows"]:
                    go_to("star", id=rows[listed["selection"]["rows"][0]]["spectrum_id"], modality=modality)
        some = points.provenance
        st.caption(
            f"UMAP of {db.store.default_encoder}: {some.get('sample', '?')} spectra fitted, the others placed beside their "
            "neighbours. Distances between groups mean little."
        )
