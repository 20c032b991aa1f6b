"""How good heads and encoders are: one-to-one, bias, scatter, coverage; two heads or several encoders side by side."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import streamlit as st

from specdb.database import Database
from specdb.errors import SpecdbError
from specdb.heads import HeadEvaluation, list_heads
from specdb.heads.measures import label_figures
from specdb.plots.heads import plot_head
from ui.charts import one_to_one_chart
from ui.model import safe_message
from ui.reports import compare_reports, read_report, stored_reports
from ui.shell import database, fingerprint, is_dark, parameter, remember

__all__ = ["parameters"]

#: Figures of merit -> what they are in words.
_WORDS = {
    "n": "spectra",
    "bias": "bias (median)",
    "sigma": "scatter (biweight)",
    "rms": "root mean square",
    "r2": "R²",
    "median_sigma": "stated sigma (median)",
    "coverage_68": "share within 1 sigma (right: 0.68)",
    "coverage_95": "share within 1.96 sigma (right: 0.95)",
    "width_95": "sigmas that hold 95 % (right: 1.96)",
}


#: Units of the usual labels; a head does not know those of its catalogue.
_UNITS = {"teff": "K", "logg": "dex", "feh": "dex", "mh": "dex", "alpha_m": "dex", "alpha_fe": "dex", "rv": "km/s"}


@st.cache_data(max_entries=16, show_spinner="judging the head")
def _evaluated(_db: Database, changed: int, name: str) -> HeadEvaluation:
    return _db.evaluate_head(name)


@st.cache_data(max_entries=16, show_spinner=False)
def _figure(_db: Database, changed: int, name: str, label: str) -> bytes:
    found = _evaluated(_db, changed, name)
    i = found.labels.index(label)
    held = io.BytesIO()
    figure = plot_head(
        found.truth[:, i],
        found.mean[:, i],
        found.sigma[:, i],
        found.snr,
        label,
        _UNITS.get(label, ""),
        name,
        found.pit[:, i],
    )
    figure.savefig(held, format="png", dpi=110)
    return held.getvalue()


def parameters() -> None:
    """Show heads, then encoders."""
    db = database()
    st.title("Parameters")
    heads, encoders = st.tabs(["Heads", "Encoders"])
    with heads:
        _heads(db)
    with encoders:
        _encoders(db)


def _heads(db: Database) -> None:
    known = list_heads(db.store)
    if not known:
        st.info("There is no head yet: `specdb heads train NAME --labels SQL` makes one, `specdb labels add` brings labels.")
        return
    left, right = st.columns(2)
    asked, other = parameter("head", known[0]), parameter("with")
    first = left.selectbox("head", known, index=known.index(asked) if asked in known else 0)
    choices = ["(none)", *known]
    second = right.selectbox("compared with", choices, index=choices.index(other) if other in choices else 0)
    remember(head=first, **{"with": None if second == "(none)" else second})
    chosen = [first] if second in ("(none)", first) else [first, second]
    labels = list(_evaluated(db, fingerprint(), first).labels)
    label = st.selectbox("label", labels, index=labels.index(parameter("label")) if parameter("label") in labels else 0)
    remember(label=label)
    if len(chosen) == 2:
        _side_by_side([_evaluated(db, fingerprint(), name) for name in chosen], label)
    for column, name in zip(st.columns(len(chosen)), chosen, strict=True):
        with column:
            found = _evaluated(db, fingerprint(), name)
            st.subheader(name)
            st.caption(found.what)
            if label not in found.labels:
                st.info(f"{name} does not predict {label}.")
                continue
            st.image(_figure(db, fingerprint(), name, label), alt=f"{label} of head {name} against the catalogue")
            if len(chosen) == 1:
                figures = found.figures()["labels"][label]
                rows = [{"figure": _WORDS.get(k, k), name: v} for k, v in figures.items() if isinstance(v, int | float)]
                st.dataframe(rows, hide_index=True, alt=f"figures of merit of {name}")


def _side_by_side(found: list[HeadEvaluation], label: str) -> None:
    """Compare heads on the spectra that both predict: only there do their figures mean the same."""
    if any(label not in e.labels for e in found):
        return
    common = sorted(set.intersection(*(set(e.ids.tolist()) for e in found)))
    if not common:
        st.info("The two heads were judged on different spectra, so that their figures cannot be set side by side.")
        return
    columns = {}
    for e in found:
        order = np.argsort(e.ids)
        rows = order[np.searchsorted(e.ids, common, sorter=order)]
        i = e.labels.index(label)
        columns[e.head] = e.truth[rows, i], e.mean[rows, i], e.sigma[rows, i]
    figures = {head: label_figures(*values) for head, values in columns.items()}
    names = [k for k, v in next(iter(figures.values())).items() if isinstance(v, int | float)]
    st.subheader(f"{label} by {' and '.join(columns)}, on the same {len(common):,} spectra")
    left, right = st.columns([3, 2])
    with left:
        truth = next(iter(columns.values()))[0]
        named = f"{label} ({_UNITS[label]})" if label in _UNITS else label
        chart = one_to_one_chart(truth, {head: mean for head, (_, mean, _) in columns.items()}, named, dark=is_dark())
        st.plotly_chart(chart, key="side-by-side", alt=f"{label} predicted by two heads against the catalogue")
    with right:
        listed: list[dict[str, Any]] = [
            {"figure": _WORDS.get(name, name)} | {head: values.get(name) for head, values in figures.items()}
            for name in names
        ]
        st.dataframe(listed, hide_index=True, alt="figures of merit of two heads")


def _encoders(db: Database) -> None:
    reports = stored_reports(db.store)
    st.caption(
        "Reports of `specdb evaluate --out DIR`. Those below the folder `evaluations` of the database are found by "
        "themselves: `specdb evaluate --db mydb --out mydb/evaluations/NAME`."
    )
    for file in st.file_uploader("reports (evaluation.json)", type=["json"], accept_multiple_files=True):
        try:
            reports[f"{file.name} ({len(reports) + 1})"] = read_report(file.getvalue())
        except SpecdbError as error:
            st.error(safe_message(error, db.store.root))
    if not reports:
        st.info("There is no report yet.")
        return
    names = list(reports)
    shown = st.multiselect("reports", names, names[:3])
    chosen = {name: reports[name] for name in shown}
    if not chosen:
        return
    st.dataframe(
        [{"report": name} | report.header for name, report in chosen.items()], hide_index=True, alt="what was judged"
    )
    if len({report.header["judged"] for report in chosen.values()}) > 1:
        st.warning("These reports judged different stars, so that their figures cannot be compared strictly.")
    for section, rows in compare_reports(chosen).items():
        st.subheader(section)
        st.dataframe(rows, hide_index=True, alt=f"{section} of several encoders")
