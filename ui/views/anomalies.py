"""The queue of unusual spectra: look, judge, and let that rank the rest."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from specdb.anomaly import Mark, add_marks, anomaly_list, anomaly_table, deviations_of, latest_marks
from specdb.database import Database
from specdb.plots.style import COLOURS, new_figure
from specdb.search.star import curves_of
from ui.charts import overlay_chart
from ui.model import flux_label, rows_as_bytes
from ui.peek import look, name_deviations
from ui.shell import choose_modality, database, fingerprint, go_to, is_dark, parameter, remember, samp_button

__all__ = ["anomalies"]

_PAGE = 6


@st.cache_data(max_entries=8, ttl=600, show_spinner="ranking")
def _queue(_db: Database, changed: int, modality: str, by_review: bool, rejected: bool) -> pa.Table:
    return anomaly_list(_db, modality, 2000, by_review=by_review, rejected=rejected).rows


@st.cache_data(max_entries=200, show_spinner=False)
def _thumbnail(_db: Database, changed: int, modality: str, spectrum_id: int) -> bytes:
    curve = curves_of(_db.spectra([spectrum_id], modality), modality)[0]
    figure, axes = new_figure(3.2, 1.5)
    axes.plot(curve.wavelength, curve.flux, color=COLOURS[0], lw=0.6)
    for d in deviations_of(_db, modality, spectrum_id):
        axes.axvspan(d.low, d.high, color=COLOURS[5 if d.significance > 0 else 4], alpha=0.35, lw=0)
    axes.set_xlabel("vacuum wavelength (Å)", fontsize=6)
    axes.tick_params(labelsize=6)
    low, high = np.nanquantile(curve.flux, [0.001, 0.999])
    room = max(high - low, 1e-9) * 0.1
    axes.set_ylim(low - room, high + room)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=100)
    return held.getvalue()


def anomalies() -> None:
    """Show the queue with a desk to judge on."""
    db = database()
    st.title("Anomalies")
    side, main = st.columns([1, 4], gap="large")
    with side:
        modality = choose_modality()
        if modality is None:
            return
        anomaly_table(db, modality)  # says which command makes it
        by_review = st.toggle("order by what was accepted so far", parameter("by") == "review")
        seen = st.toggle("show what was judged", False)
        least = st.number_input("S/N at least", 0.0, 1000.0, 0.0)
        kind = st.text_input("type begins with", placeholder="A, dM, GALAXY")
        band = st.slider("declination (deg)", -90, 90, (-90, 90))
        remember(by="review" if by_review else None)
    queue = _filtered(_queue(db, fingerprint(), modality, by_review, seen), least, kind, band, seen)
    with main:
        if queue.num_rows == 0:
            st.info("Nothing is left in this queue.")
            return
        place = min(max(int(parameter("at", "0")) if parameter("at", "0").isdigit() else 0, 0), queue.num_rows - 1)
        _desk(db, modality, queue, place)
        st.subheader("Next in the queue")
        following = queue.slice(place + 1, _PAGE).to_pylist()
        for column, row in zip([c for _ in range(2) for c in st.columns(3)], following, strict=False):
            with column:
                st.image(_thumbnail(db, fingerprint(), modality, row["spectrum_id"]), alt=f"spectrum {row['spectrum_id']}")
                st.caption(f"score {row['score']:.2f} · {row['spectrum_id']} · {row['reason'] or 'no single reason'}")
        st.download_button("queue as VOTable", rows_as_bytes(_plain(queue), ".vot"), f"anomalies-{modality}.vot")
        st.download_button("queue as CSV", rows_as_bytes(_plain(queue), ".csv"), f"anomalies-{modality}.csv")
        samp_button(_plain(queue), f"anomalies of {modality}", "queue")


def _plain(queue: pa.Table) -> pa.Table:
    """Leave out where files of the server lie."""
    return queue.drop_columns([n for n in ("source_file",) if n in queue.column_names])


def _filtered(queue: pa.Table, least: float, kind: str, band: tuple[int, int], seen: bool) -> pa.Table:
    keep = pc.greater_equal(pc.fill_null(queue["snr"].cast(pa.float64()), 0.0), least)
    if kind:
        starts = [pc.fill_null(pc.starts_with(queue[n], kind, ignore_case=True), False) for n in ("class", "subclass")]
        keep = pc.and_(keep, pc.or_(*starts))
    if band != (-90, 90):
        dec = queue["dec"]
        inside = pc.and_(pc.greater_equal(dec, band[0]), pc.less_equal(dec, band[1]))
        keep = pc.and_(keep, pc.fill_null(inside, False))
    if not seen:
        keep = pc.and_(keep, pc.is_null(queue["mark"]))
    return queue.filter(keep)


def _desk(db: Database, modality: str, queue: pa.Table, place: int) -> None:
    row = queue.slice(place, 1).to_pylist()[0]
    spectrum = int(row["spectrum_id"])
    st.subheader(f"{place + 1} of {queue.num_rows}: {spectrum}")
    judged = f" · judged: {row['mark']}" if row["mark"] else ""
    st.write(f"score **{row['score']:.2f}** (p = {row['p_value']:.2g}) · {row['reason'] or 'no single reason'}{judged}")
    found = look(db, fingerprint(), modality, spectrum)
    beside = st.toggle("lay its nearest neighbours beside it", parameter("beside") == "1", key="desk-beside")
    remember(beside="1" if beside else None)
    chart = overlay_chart(
        found.curve,
        found.neighbours if beside else [],
        flux_label(modality),
        deviations=found.deviations,
        dark=is_dark(),
    )
    st.plotly_chart(chart, key=f"desk-{spectrum}-{beside}", alt=f"spectrum {spectrum}, deviating stretches shaded")
    name_deviations(found.deviations)
    before = latest_marks(db, modality).get(spectrum)
    note = st.text_input("note", before.note if before else "", key=f"note-{spectrum}", max_chars=500)
    columns = st.columns(6)
    for column, (mark, key) in zip(columns, (("accept", "a"), ("reject", "x"), ("unsure", "u")), strict=False):
        if column.button(mark, key=f"mark-{mark}", shortcut=key):
            add_marks(db, modality, [Mark(spectrum, mark, note)])
            st.rerun()
    if columns[3].button("skip", shortcut="s"):
        remember(at=min(place + 1, queue.num_rows - 1))
        st.rerun()
    if columns[4].button("back", shortcut="b", disabled=place == 0):
        remember(at=place - 1)
        st.rerun()
    if columns[5].button("neighbours"):
        go_to("star", id=spectrum, modality=modality)
    st.caption("Keys: a accept, x reject, u unsure, s skip, b back.")
    scores = {n: row[f"{n}_p"] for n in row if f"{n}_p" in row and row[f"{n}_p"] is not None}
    with st.expander("scores of the methods (p-values)"):
        st.dataframe([scores], hide_index=True)
