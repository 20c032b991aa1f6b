"""One spectrum: itself, its neighbours in every modality, translation, labels, downloads."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import streamlit as st

from specdb.database import Database
from specdb.errors import SpecdbError
from specdb.export.samp import SampLink
from specdb.plots.spectra import Curve
from specdb.search.asked import modality_of
from specdb.search.joins import labels_of
from specdb.search.star import FLUX_LABELS, StarView, card, star_view
from specdb.spectra import Spectra, get_modality
from ui.charts import overlay_chart
from ui.model import cone, plain_condition, rows_as_bytes, safe_message, search_command, view_url
from ui.shell import choose_modality, database, fingerprint, go_to, is_dark, parameter, remember
from ui.uploads import MOST_BYTES, SUFFIXES, read_upload

__all__ = ["star"]

_FACTS = ("object_name", "class", "subclass", "ra", "dec", "snr", "n_repaired", "z", "mjd", "release")
_SHOWN = ("rank", "score", "spectrum_id", "object_name", "ra", "dec", "snr", "class", "subclass", "z")


@st.cache_data(max_entries=64, ttl=3600, show_spinner="searching")
def _view(_db: Database, changed: int, query: int, modality: str, k: int, where: str | None, exclude: bool) -> StarView:
    return star_view(_db, query, modality=modality, k=k, where=where, exclude_star=exclude)


def star() -> None:
    """Pick a spectrum, look at its company."""
    db = database()
    st.title("Star")
    side, main = st.columns([1, 3], gap="large")
    with side:
        bare = parameter("id") if not parameter("modality") else ""
        if bare.lstrip("-").isdigit() and len(bare) <= 20:
            remember(modality=modality_of(db, int(bare)))
        modality = choose_modality()
        if modality is None:
            return
        ways = ["id", "position or name", "upload"]
        how = st.radio("pick by", ways, index=1 if parameter("name") else 0, horizontal=True)
        question: int | Spectra | None = None
        if how == "id":
            text = st.text_input("spectrum_id", parameter("id"), placeholder="a LAMOST obsid or Gaia source_id")
            if text.strip():
                if not text.strip().lstrip("-").isdigit() or len(text.strip()) > 20:
                    st.error("A spectrum_id is a whole number.")
                    return
                question = int(text)
                remember(id=question)
        elif how == "upload":
            question, modality, name = _uploaded(db, modality)
        else:
            _by_position(db)
        k = int(st.slider("neighbours", 1, 20, int(parameter("k", "5")) if parameter("k", "5").isdigit() else 5))
        where = plain_condition(st.text_input("condition on neighbours", parameter("where"), placeholder="snr_g > 20"))
        exclude = st.toggle("leave out the same star", parameter("exclude") == "star")
        remember(k=k if k != 5 else None, where=where, exclude="star" if exclude else None)
    with main:
        if question is None:
            _example(db, modality)
            return
        if isinstance(question, Spectra):
            with st.spinner("preparing, embedding and searching"):
                view = star_view(db, question, modality=modality, k=k, where=where, exclude_star=exclude)
        else:
            view = _view(db, fingerprint(), question, modality, k, where, exclude)
            name = str(question)
        _show(db, view, name, k, where, exclude)


def _uploaded(db: Database, modality: str) -> tuple[Spectra | None, str, str]:
    file = st.file_uploader(
        "a spectrum (nothing of it is kept)",
        type=sorted({s.rsplit(".", 1)[1] for s in SUFFIXES}),
        help=f"{', '.join(SUFFIXES)}; up to {MOST_BYTES >> 20} MB",
    )
    any_kind = st.checkbox("recognise the instrument from the file", True)
    if file is None:
        return None, modality, ""
    found = read_upload(db, file.name, file.getvalue(), None if any_kind else modality)
    return found.spectra, found.modality or modality, found.name


def _by_position(db: Database) -> None:
    name = st.text_input("name contains", parameter("name"), placeholder="LAMOST J0036")
    ra = st.number_input("right ascension (deg, ICRS)", 0.0, 360.0, None, format="%.5f")
    dec = st.number_input("declination (deg, ICRS)", -90.0, 90.0, None, format="%.5f")
    radius = st.number_input("radius (arcsec)", 0.1, 7200.0, 10.0)
    if not name and (ra is None or dec is None):
        return
    found = cone(db, ra or 0.0, dec or 0.0, radius, name)
    if found.num_rows == 0:
        st.info("Nothing there; take a larger radius.")
        return
    rows = found.to_pylist()
    for row in rows[:12]:
        label = f"{row['spectrum_id']} ({row['object_name'] or row['modality']})"
        if st.button(label, key=f"near-{row['modality']}-{row['spectrum_id']}"):
            go_to("star", id=row["spectrum_id"], modality=row["modality"])


def _example(db: Database, modality: str) -> None:
    st.write("Pick a spectrum on the left, or begin with one of these:")
    ids = db.store.column(db.store.spectra_parts(modality)[:1], "spectrum_id")
    for i in next(ids).to_pylist()[:6]:
        if st.button(str(i), key=f"example-{i}"):
            go_to("star", id=i, modality=modality)


def _show(db: Database, view: StarView, name: str, k: int, where: str | None, exclude: bool) -> None:
    st.subheader(f"{name} · {get_modality(view.modality).title}")
    facts = {n: view.facts[n] for n in _FACTS if n in view.facts}
    st.caption(" · ".join(f"{n} {v:.5g}" if isinstance(v, float) else f"{n} {v}" for n, v in facts.items()))
    for what, why in view.problems.items():
        st.info(f"No {what}: {safe_message(SpecdbError(why), db.store.root)}")
    names = ["Spectrum", *(f"Neighbours in {m}" for m in view.hits), "Labels and scores", "Take it along"]
    tabs = st.tabs(names)
    label = FLUX_LABELS[view.modality]
    with tabs[0]:
        chart = overlay_chart(view.curve, [], label, dark=is_dark())
        st.plotly_chart(chart, key="spectrum", alt=f"prepared spectrum {name}")
        repaired = 0 if view.curve.repaired is None else int(view.curve.repaired.sum())
        st.caption(
            f"The prepared spectrum as the encoder sees it; {repaired} of {len(view.curve.flux)} pixels have no weight."
        )
    for tab, modality in zip(tabs[1:], view.hits, strict=False):
        with tab:
            _neighbours(db, view, modality, name)
    with tabs[-2]:
        _labels(db, view)
    with tabs[-1]:
        _take_along(view, name, k, where, exclude)


def _neighbours(db: Database, view: StarView, modality: str, name: str) -> None:
    hits = view.hits[modality]
    others = view.neighbours(modality)
    shown = st.multiselect("shown", [c.name for c in others], [c.name for c in others[:3]], key=f"shown-{modality}")
    reference = view.curve
    if modality != view.modality:
        if modality not in view.translations:
            st.info("There is no translation into this modality, so neighbours are shown by themselves.")
            reference = others[0] if others else reference
        else:
            found = view.translations[modality]
            reference = Curve(f"{name} translated", found.wavelength, found.flux[0], found.sigma[0])
            observed = next((c for c in others if c.name.split(" ")[0] == str(view.facts.get("gaia_source_id"))), None)
            if observed is not None:
                st.success("The star itself is among the answers: compare its observed with the translated spectrum.")
            if not found.calibrated:
                st.caption("The band is the spread of the prediction; it was not calibrated on held-out pairs.")
    curves = [c for c in others if c.name in shown and c is not reference]
    chart = overlay_chart(reference, curves, FLUX_LABELS[modality], dark=is_dark())
    st.plotly_chart(chart, key=f"overlay-{modality}", alt=f"nearest {modality} spectra of {name}, with residuals")
    st.caption(f"{hits.index.certificate}. Solid lines and residuals: other − this.")
    table = hits.rows.select([n for n in _SHOWN if n in hits.rows.column_names])
    table = _with_labels(db, table)
    picked = st.dataframe(
        _readable(table), hide_index=True, on_select="rerun", selection_mode="single-row", key=f"table-{modality}"
    )
    chosen = picked["selection"]["rows"]
    if chosen and st.button("look at the chosen one", key=f"open-{modality}"):
        go_to("star", id=table["spectrum_id"][chosen[0]].as_py(), modality=modality)


def _readable(table: pa.Table) -> pa.Table:
    """Turn ids into text: a browser's numbers hold only 53 bits."""
    at = table.column_names.index("spectrum_id")
    return table.set_column(at, "spectrum_id", table["spectrum_id"].cast(pa.string()))


def _tables(db: Database, folders: tuple[str, ...]) -> list[str]:
    return [Path(name).stem for folder in folders for name in db.store.tables(folder)]


def _with_labels(db: Database, table: pa.Table) -> pa.Table:
    ids = table["spectrum_id"].to_numpy()
    for name in _tables(db, ("labels", "predictions")):
        try:
            found = labels_of(db, name, ids)
        except SpecdbError:
            continue  # a table of another modality, without a view by that name
        for column in found.schema:
            if found[column.name].null_count < len(ids):
                table = table.append_column(column, found[column.name])
    return table


def _labels(db: Database, view: StarView) -> None:
    if view.spectrum_id is None:
        st.info("Labels, predictions and anomaly scores are known of spectra in the database.")
        return
    ids = np.array([view.spectrum_id])
    any_known = False
    tables = _tables(db, ("labels", "predictions"))
    if f"anomalies/{view.modality}.parquet" in db.store.tables("anomalies"):
        tables.append("anomalies")
    for name in tables:
        try:
            row = labels_of(db, name, ids).to_pylist()[0]
        except SpecdbError:
            continue
        known = {key.removeprefix(f"{name}_"): value for key, value in row.items() if value is not None}
        if known:
            any_known = True
            st.markdown(f"**{name}**")
            st.dataframe([known], hide_index=True)
    if not any_known:
        st.info(
            "Nothing is known of it yet: `specdb labels add` brings catalogues, `specdb heads predict` predictions, "
            "`specdb anomalies` scores."
        )


def _take_along(view: StarView, name: str, k: int, where: str | None, exclude: bool) -> None:
    st.markdown("**The same without a browser**")
    st.code(search_command(name, view.modality, k, where, exclude), language="bash")
    if view.spectrum_id is not None:
        address = view_url("star", id=view.spectrum_id, modality=view.modality, k=k, where=where)
        st.caption(f"address of this view: `/{address}`")
    if view.hits and st.button("make the card (figure)"):
        figure = card(view)
        for kind in ("png", "pdf"):
            held = io.BytesIO()
            figure.savefig(held, format=kind, dpi=130)
            st.download_button(f"card as {kind.upper()}", held.getvalue(), f"{Path(name).stem}.{kind}", key=f"card-{kind}")
    for modality, hits in view.hits.items():
        table = hits.rows.drop_columns([c for c in ("flux", "ivar", "source_file") if c in hits.rows.column_names])
        left, middle, right = st.columns(3)
        for column, suffix, kind in ((left, ".vot", "VOTable"), (middle, ".csv", "CSV")):
            content: Any = _content(table, suffix)
            column.download_button(
                f"{modality} as {kind}", content, f"{Path(name).stem}-{modality}{suffix}", key=f"down-{modality}-{suffix}"
            )
        if right.button("send to TOPCAT", key=f"samp-{modality}"):
            with SampLink() as link:
                receivers = link.send(table, f"neighbours of {name}", "topcat")
            st.success(f"sent to {', '.join(receivers)}")


def _content(table: pa.Table, suffix: str) -> bytes:
    return rows_as_bytes(table, suffix)
