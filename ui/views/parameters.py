"""Heads: how good their labels and their uncertainties are, and two beside one another."""

from __future__ import annotations

import io

import streamlit as st

from specdb.database import Database
from specdb.heads import HeadEvaluation, list_heads
from specdb.plots.heads import plot_head
from ui.shell import database, fingerprint, parameter, remember

__all__ = ["parameters"]


@st.cache_data(max_entries=16, show_spinner="judging the head")
def _evaluated(_db: Database, changed: int, name: str) -> HeadEvaluation:
    return _db.evaluate_head(name)


@st.cache_data(max_entries=16, show_spinner=False)
def _figure(_db: Database, changed: int, name: str, label: str) -> bytes:
    found = _evaluated(_db, changed, name)
    i = found.labels.index(label)
    held = io.BytesIO()
    figure = plot_head(found.truth[:, i], found.mean[:, i], found.sigma[:, i], found.snr, label, title=name)
    figure.savefig(held, format="png", dpi=110)
    return held.getvalue()


def parameters() -> None:
    """Show the evaluation of a head, or of two."""
    db = database()
    st.title("Parameters")
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
    for column, name in zip(st.columns(len(chosen)), chosen, strict=True):
        with column:
            found = _evaluated(db, fingerprint(), name)
            st.subheader(name)
            st.caption(found.what)
            if label not in found.labels:
                st.info(f"{name} does not predict {label}.")
                continue
            st.image(_figure(db, fingerprint(), name, label), alt=f"{label} of head {name} against the catalogue")
            figures = found.figures()["labels"][label]
            st.dataframe([{k: v for k, v in figures.items() if isinstance(v, int | float)}], hide_index=True)
