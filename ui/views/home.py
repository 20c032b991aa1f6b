"""The door: what is in the database, and where to go."""

from __future__ import annotations

import streamlit as st

from ui.shell import database, go_to

__all__ = ["home"]


def home() -> None:
    """Say what there is, and offer the ways in."""
    db = database()
    st.title(f"specdb · {db.store.name}")
    counts = db.counts()
    if not counts:
        st.info(
            "The database is empty. `specdb build-index lamost FOLDER --db DB` fills it; `specdb demo` makes an example."
        )
        return
    for column, (modality, count) in zip(st.columns(4), counts.items(), strict=False):
        column.metric(f"{modality} spectra", f"{count:,}")
    with st.form("find"):
        text = st.text_input("spectrum_id, or a part of a name", placeholder="a LAMOST obsid, a Gaia source_id, J0036")
        if st.form_submit_button("Find", type="primary") and text.strip():
            if text.strip().isdigit():
                go_to("star", id=text.strip())
            go_to("star", name=text.strip())
    st.write("Or look at the survey as a map, work through what is unusual, ask in SQL, judge heads: the pages are above.")
