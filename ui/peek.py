"""A first look at one spectrum beside something else: itself, its nearest neighbours, where it deviates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import streamlit as st

from specdb.anomaly import Deviation, deviations_of
from specdb.database import Database
from specdb.errors import SpecdbError
from specdb.plots.spectra import Curve
from specdb.search.star import curves_of
from ui.charts import overlay_chart
from ui.model import flux_label, safe_message
from ui.shell import go_to, is_dark, remember

__all__ = ["Peek", "look", "name_deviations", "peek"]

_FACTS = ("object_name", "class", "subclass", "snr", "ra", "dec", "z")


@dataclass(frozen=True)
class Peek:
    """A spectrum, its neighbours with their ids and cosines, what is known of it, and where it deviates."""

    curve: Curve
    neighbours: list[Curve]
    ids: list[int]
    scores: list[float]
    facts: dict[str, Any]
    deviations: list[Deviation]
    problem: str = ""


@st.cache_data(max_entries=256, ttl=3600, show_spinner=False)
def look(_db: Database, changed: int, modality: str, spectrum_id: int, k: int = 3) -> Peek:
    """Gather what a first look shows; without an index there are no neighbours, and the reason is given."""
    row = _db.spectra([spectrum_id], modality)
    facts = {
        n: v for n, v in row.select([n for n in _FACTS if n in row.column_names]).to_pylist()[0].items() if v is not None
    }
    curve, places = curves_of(row, modality)[0], deviations_of(_db, modality, spectrum_id)
    try:
        rows = _db.search(spectrum_id, modality=modality, k=k, with_spectra=True).rows
    except SpecdbError as error:
        return Peek(curve, [], [], [], facts, places, safe_message(error, _db.store.root))
    ids, scores = rows["spectrum_id"].to_pylist(), rows["score"].to_pylist()
    names = [f"{i} ({s:.4f})" for i, s in zip(ids, scores, strict=True)]
    return Peek(curve, curves_of(rows, modality, names), ids, scores, facts, places)


def peek(db: Database, changed: int, modality: str, spectrum_id: int) -> None:
    """Show a first look, with ways on."""
    found = look(db, changed, modality, spectrum_id)
    st.subheader(str(spectrum_id))
    if st.button("open the star's page", type="primary", key="peek-open"):
        go_to("star", id=spectrum_id, modality=modality)
    st.caption(" · ".join(f"{n} {v:.5g}" if isinstance(v, float) else f"{n} {v}" for n, v in found.facts.items()))
    chart = overlay_chart(
        found.curve, found.neighbours, flux_label(modality), deviations=found.deviations, dark=is_dark(), height=480
    )
    st.plotly_chart(chart, key=f"peek-{modality}-{spectrum_id}", alt=f"spectrum {spectrum_id} and its nearest neighbours")
    name_deviations(found.deviations)
    if found.problem:
        st.info(found.problem)
    if found.ids:
        st.caption("nearest neighbours (cosine); choose one to go there")
        for column, i, score in zip(st.columns(len(found.ids)), found.ids, found.scores, strict=True):
            if column.button(f"{i}", key=f"peek-to-{i}", help=f"cosine {score:.4f}"):
                remember(star=i)
                st.rerun()


def name_deviations(deviations: list[Deviation]) -> None:
    """Say in words what is shaded."""
    if deviations:
        words = (f"**{number}** {d.feature}" for number, d in enumerate(deviations, 1))
        st.caption(f"shaded, as it is not what similar spectra show: {'; '.join(words)}")
