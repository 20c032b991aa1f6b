"""What the database holds, how good its indices are, and what did not get in."""

from __future__ import annotations

import streamlit as st

from specdb.catalog import run_sql
from ui.shell import database

__all__ = ["database_page"]


def database_page() -> None:
    """Show status, recall certificates and rejected files."""
    db = database()
    found = db.status()
    st.title(db.store.name)
    st.caption(f"default encoder {found['default_encoder']}")
    if not found["modalities"]:
        st.info(
            "The database is empty. `specdb build-index lamost FOLDER --db DB` fills it; `specdb demo` makes an example."
        )
        return
    for modality, facts in found["modalities"].items():
        st.header(modality)
        rejected = sum(facts["rejected"].values())
        figures = {"spectra": facts["spectra"], "rejected": rejected, "deleted": facts["deleted"]}
        for column, (name, value) in zip(st.columns(4), figures.items(), strict=False):
            column.metric(name, f"{value:,}")
        st.columns(4)[0].caption(f"{facts['bytes'] / 1e6:.1f} MB on disk")
        for name, state in facts["encoders"].items():
            st.markdown(f"**{name}**: {state['embedded']:,} embedded, {state['indexed']:,} indexed")
            if not facts["spectra"] == state["embedded"] == state["indexed"]:
                st.warning("Not complete: run `specdb embed` and `specdb index`, or `specdb build-index` again.")
            if state["index"] is None:
                st.info(f"No index yet: `specdb index` builds it ({modality}).")
                continue
            certificates = [{"queries": modality, "certificate": state["index"]["recall"]}]
            certificates += [{"queries": s, "certificate": text} for s, text in state["index"]["cross"].items()]
            st.caption(f"index: {state['index']['kind']}, {state['index']['why']}")
            st.dataframe(certificates, hide_index=True, alt="recall certificates")
    st.header("What did not get in")
    rows = run_sql(
        db.store,
        "SELECT modality, status, reason, detail, parse_filename(source_file) AS file, spectrum_id "
        "FROM rejected ORDER BY status, reason, file",
        untrusted=True,
    )
    if rows.num_rows == 0:
        st.write("Everything that was read is in the database.")
    else:
        st.dataframe(rows, hide_index=True, alt="rejected files with reasons")
