"""One spectrum: picked by id, position, name or upload; `ui.views.star_tabs` shows it."""

from __future__ import annotations

import streamlit as st

from specdb.database import Database
from specdb.search.asked import modality_of
from specdb.search.star import StarView, star_view
from specdb.spectra import Spectra
from ui.model import cone, plain_condition
from ui.shell import choose_modality, database, fingerprint, go_to, parameter, remember
from ui.uploads import MOST_BYTES, SUFFIXES, read_upload
from ui.views.star_tabs import Shown, show

__all__ = ["star"]


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
        show(db, Shown(view, name, k, where, exclude))


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
    ids = next(db.store.column(db.store.spectra_parts(modality)[:1], "spectrum_id"), None)
    for i in [] if ids is None else ids.slice(0, 6).to_pylist():
        if st.button(str(i), key=f"example-{i}"):
            go_to("star", id=i, modality=modality)
