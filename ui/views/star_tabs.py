"""What a star's page shows: spectrum, neighbours, translation beside the observed, sky, labels and scores, downloads."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import streamlit as st

from specdb.anomaly import SCORES, deviations_of
from specdb.database import Database
from specdb.errors import SpecdbError
from specdb.plots.sky import sky_map
from specdb.plots.spectra import Curve, residuals
from specdb.search.joins import labels_of
from specdb.search.star import StarView, card
from specdb.spectra import get_modality
from ui.charts import overlay_chart
from ui.model import flux_label, rows_as_bytes, safe_message, search_command, view_url
from ui.peek import name_deviations
from ui.shell import database, fingerprint, go_to, is_dark, samp_button
from ui.sky import Footprint, footprint, sky_chart

__all__ = ["Shown", "show"]

_FACTS = ("object_name", "class", "subclass", "ra", "dec", "snr", "n_repaired", "z", "mjd", "release")
_SHOWN = ("rank", "score", "spectrum_id", "object_name", "ra", "dec", "snr", "class", "subclass", "z")


@dataclass(frozen=True)
class Shown:
    """A view of a star and how it was asked for."""

    view: StarView
    name: str
    k: int
    where: str | None
    exclude: bool


def show(db: Database, shown: Shown) -> None:
    """Show heading, facts and tabs."""
    view, name = shown.view, shown.name
    st.subheader(f"{name} · {get_modality(view.modality).title}")
    facts = {n: view.facts[n] for n in _FACTS if n in view.facts}
    st.caption(" · ".join(f"{n} {v:.5g}" if isinstance(v, float) else f"{n} {v}" for n, v in facts.items()))
    for what, why in view.problems.items():
        st.info(f"No {what}: {safe_message(SpecdbError(why), db.store.root)}")
    # What was observed of the star itself is worth a tab even where nothing could be searched or translated.
    others = [m for m in view.observed if m not in view.hits]
    tabs = st.tabs(
        ["Spectrum", *(f"Neighbours in {m}" for m in view.hits), *others, "Sky", "Labels and scores", "Take it along"]
    )
    with tabs[0]:
        _spectrum(db, view, name)
    for tab, modality in zip(tabs[1:], [*view.hits, *others], strict=False):
        with tab:
            _neighbours(db, view, modality, name)
    with tabs[-3]:
        _sky(db, view, name)
    with tabs[-2]:
        _labels(db, view)
    with tabs[-1]:
        _take_along(shown)


def _spectrum(db: Database, view: StarView, name: str) -> None:
    places = [] if view.spectrum_id is None else deviations_of(db, view.modality, view.spectrum_id)
    chart = overlay_chart(view.curve, [], flux_label(view.modality), deviations=places, dark=is_dark())
    st.plotly_chart(chart, key="spectrum", alt=f"prepared spectrum {name}")
    name_deviations(places)
    repaired = 0 if view.curve.repaired is None else int(view.curve.repaired.sum())
    st.caption(f"The prepared spectrum as the encoder sees it; {repaired} of {len(view.curve.flux)} pixels have no weight.")


def _neighbours(db: Database, view: StarView, modality: str, name: str) -> None:
    """Overlay the spectrum, or what it is translated to, with the star's own spectra there and its nearest neighbours."""
    others = view.neighbours(modality)
    observed = view.observed.get(modality, [])
    choice = [*observed, *others]
    first = [*(c.name for c in observed[:2]), *(c.name for c in others[: 1 if observed else 3])]
    shown = st.multiselect("shown", [c.name for c in choice], first, key=f"shown-{modality}")
    reference = view.curve
    if not np.array_equal(view.curve.wavelength, get_modality(modality).wavelength):
        reference = _translated(view, modality, name, observed) or choice[0]
    curves = [c for c in choice if c.name in shown and c is not reference]
    chart = overlay_chart(reference, curves, flux_label(modality), dark=is_dark())
    st.plotly_chart(chart, key=f"overlay-{modality}", alt=f"nearest {modality} spectra of {name}, with residuals")
    if modality not in view.hits:
        return
    hits = view.hits[modality]
    st.caption(f"{hits.index.certificate}. Solid lines and residuals: other − this.")
    table = hits.rows.select([n for n in _SHOWN if n in hits.rows.column_names])
    table = _with_labels(db, table)
    picked = st.dataframe(
        _readable(table), hide_index=True, on_select="rerun", selection_mode="single-row", key=f"table-{modality}"
    )
    chosen = picked["selection"]["rows"]
    if chosen and st.button("look at the chosen one", key=f"open-{modality}"):
        go_to("star", id=table["spectrum_id"][chosen[0]].as_py(), modality=modality)


def _translated(view: StarView, modality: str, name: str, observed: list[Curve]) -> Curve | None:
    """Return the translation as a curve, having said how it compares with what was observed; None where there is none."""
    if modality not in view.translations:
        st.info("There is no translation into this modality, so spectra are shown by themselves.")
        return None
    found = view.translations[modality]
    curve = Curve(f"{name} translated", found.wavelength, found.flux[0], found.sigma[0])
    if observed:
        left = residuals(curve, observed[:1])[0]
        known = np.isfinite(left) & (found.sigma[0] > 0)
        if observed[0].repaired is not None:
            known &= ~observed[0].repaired
        off, sigmas = np.median(np.abs(left[known])), np.median(np.abs(left[known] / found.sigma[0][known]))
        st.success(
            f"The star itself was observed here ({observed[0].name.split()[0]}): its spectrum differs from the translation "
            f"by {off:.2g} in the median, {sigmas:.1f} of the predicted sigmas."
        )
    if not found.calibrated:
        st.caption("The band is the spread of the prediction; it was not calibrated on held-out pairs.")
    return curve


@st.cache_data(max_entries=8, show_spinner="looking where the survey looked")
def _footprint(changed: int, modality: str, frame: str) -> Footprint:
    stars = database().lookups.stars(modality)
    return footprint(sky_map(stars.ra, stars.dec, level=4, statistic="count"), frame)


def _sky(db: Database, view: StarView, name: str) -> None:
    # An uploaded spectrum may be of an instrument that the database has nothing of.
    modality = view.modality if view.modality in db.modalities else next(iter(view.hits), db.modalities[0])
    ra, dec = view.facts.get("ra"), view.facts.get("dec")
    frame = st.segmented_control("frame", ["galactic", "icrs"], default="galactic", key="sky-frame") or "galactic"
    known = ra is not None and dec is not None and np.isfinite([ra, dec]).all()
    try:
        survey = _footprint(fingerprint(), modality, frame)
    except SpecdbError:
        st.info(f"No spectrum of {modality} has a position.")
        return
    if not known:
        st.info("The position of this spectrum is not known; the map shows where the others are.")
    chart = sky_chart(survey, {name: (float(ra), float(dec))} if known else {}, dark=is_dark())  # type: ignore[arg-type]
    st.plotly_chart(chart, key="sky", alt=f"position of {name} on the sky, and the footprint of {modality}")
    cells = f"Squares: HEALPix cells of 3.7° that hold {modality} spectra of this database"
    st.caption(
        f"{cells}; the star is at right ascension {ra:.5f}°, declination {dec:+.5f}° (ICRS)." if known else f"{cells}."
    )


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
    known = [(name, row) for name in _tables(db, ("labels", "predictions")) if (row := _row(db, name, ids))]
    for name, row in known:
        st.markdown(f"**{name}**")
        st.dataframe([row], hide_index=True)
    scored = f"anomalies/{view.modality}.parquet" in db.store.tables("anomalies") and _row(db, "anomalies", ids)
    if scored:
        _scores(scored)
    if not known and not scored:
        st.info(
            "Nothing is known of it yet: `specdb labels add` brings catalogues, `specdb heads predict` predictions, "
            "`specdb anomalies` scores."
        )


def _row(db: Database, name: str, ids: np.ndarray) -> dict[str, Any]:
    """Return what a table knows of one spectrum; nothing where it is of another modality."""
    try:
        row = labels_of(db, name, ids).to_pylist()[0]
    except SpecdbError:
        return {}
    return {key.removeprefix(f"{name}_"): value for key, value in row.items() if value is not None}


def _scores(row: dict[str, Any]) -> None:
    st.markdown("**how unusual it is**")
    score = f"score **{row['score']:.2f}** (p = {row['p_value']:.2g})" if "score" in row else "not scored"
    st.write(f"{score} · {row.get('reason') or 'no single reason'}")
    methods = [name for name in row if f"{name}_p" in row]
    titles = [SCORES[name].title if name in SCORES else name for name in methods]
    parts = [{"method": t, "value": row[n], "p": row[f"{n}_p"]} for n, t in zip(methods, titles, strict=True)]
    if parts:
        st.dataframe(sorted(parts, key=lambda part: part["p"]), hide_index=True, alt="scores of the methods")


def _take_along(shown: Shown) -> None:
    view, name = shown.view, shown.name
    st.markdown("**The same without a browser**")
    st.code(search_command(name, view.modality, shown.k, shown.where, shown.exclude), language="bash")
    if view.spectrum_id is not None:
        address = view_url("star", id=view.spectrum_id, modality=view.modality, k=shown.k, where=shown.where)
        st.caption(f"address of this view: `/{address}`")
    if view.hits and st.toggle("make the card (figure)"):
        figure = card(view)
        for column, kind in zip(st.columns(4), ("png", "pdf"), strict=False):
            held = io.BytesIO()
            figure.savefig(held, format=kind, dpi=130)
            name_of_file = f"{Path(name).stem}.{kind}"
            column.download_button(f"card as {kind.upper()}", held.getvalue(), name_of_file, key=f"card-{kind}")
    for modality, hits in view.hits.items():
        table = hits.rows.drop_columns([c for c in ("flux", "ivar", "source_file") if c in hits.rows.column_names])
        left, middle, right = st.columns(3)
        for column, suffix, kind in ((left, ".vot", "VOTable"), (middle, ".csv", "CSV")):
            content = rows_as_bytes(table, suffix)
            file = f"{Path(name).stem}-{modality}{suffix}"
            column.download_button(f"{modality} as {kind}", content, file, key=f"down-{modality}-{suffix}")
        with right:
            samp_button(table, f"neighbours of {name}", modality)
