"""SQL with the schema beside it; results as table, histogram, scatter or map of the sky."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import streamlit as st

from specdb.catalog import connect
from specdb.catalog.saved import forget_query, save_query, saved_queries
from specdb.catalog.session import UNTRUSTED
from specdb.database import Database
from specdb.errors import SpecdbError
from specdb.plots.sky import plot_sky, sky_map
from ui.asking import ask
from ui.charts import histogram_chart, scatter_chart
from ui.model import rows_as_bytes, safe_message
from ui.shell import database, fingerprint, go_to, is_dark, parameter, remember, samp_button

__all__ = ["sql_page"]

_SHOWN, _DRAWN = 1000, 20_000


@st.cache_data(max_entries=8, show_spinner=False)
def _schema(_db: Database, changed: int) -> pa.Table:
    with connect(_db.store) as session:
        return session.schema()


def sql_page() -> None:
    """Edit, run, draw."""
    db = database()
    st.title("SQL")
    if not db.modalities:
        st.info("The database is empty: `specdb build-index lamost FOLDER --db DB` fills it.")
        return
    main, side = st.columns([3, 1], gap="large")
    schema = _schema(db, fingerprint())
    with side:
        st.caption("tables and columns")
        for table in sorted(set(schema["table"].to_pylist())):
            with st.expander(table):
                rows = [r for r in schema.to_pylist() if r["table"] == table]
                st.dataframe([{k: r[k] for k in ("column", "type", "unit", "description")} for r in rows], hide_index=True)
    with main:
        asked = _editor(db)
        if not asked:
            st.caption("Results have up to 100,000 rows and 10 s; the address of the page holds the query.")
            return
        try:
            table, cut = ask(db, fingerprint(), asked)
        except SpecdbError as error:  # here, beside the question, rather than below the page
            st.error(safe_message(error, db.store.root))
            return
        st.caption(f"{table.num_rows:,} rows" + (f", cut off at {UNTRUSTED.rows:,}" if cut else ""))
        _result(db, table, asked)


def _editor(db: Database) -> str:
    """Show editor and saved questions; return the question that was asked last."""
    first = f"SELECT spectrum_id, object_name, ra, dec, snr, class, subclass\nFROM {db.modalities[0]}\nORDER BY snr DESC"
    kept = saved_queries(db.store)
    if kept:
        with st.expander(f"saved questions ({len(kept)})", expanded=not parameter("q")):
            for name, text in kept.items():
                words, take, forget = st.columns([6, 1, 1])
                words.markdown(f"**{name}**")
                words.code(text, language="sql", wrap_lines=True)
                if take.button("use", key=f"use-{name}"):
                    st.session_state["sql-text"] = text
                    remember(q=text)
                    st.rerun()
                if forget.button("forget", key=f"forget-{name}"):
                    forget_query(db.store, name)
                    st.rerun()
    if "sql-text" not in st.session_state:
        st.session_state["sql-text"] = parameter("q", first)
    query = st.text_area("query", height=130, key="sql-text", max_chars=5000, help="Ctrl+Enter runs it")
    left, name_column, right = st.columns([1, 2, 1], vertical_alignment="bottom")
    run = left.button("Run", type="primary", shortcut="Ctrl+Enter")
    name = name_column.text_input("save as", max_chars=80, placeholder="a name; kept in the database, for all who open it")
    if right.button("Save", disabled=not name):
        save_query(db.store, name, query)
        st.rerun()
    if run:
        remember(q=query)
    return parameter("q")


def _result(db: Database, table: pa.Table, query: str) -> None:
    numbers = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    plain = [n for n in numbers if not n.endswith("_id")]
    kinds = ["table", *(["histogram"] if plain else []), *(["scatter"] if len(plain) > 1 else [])]
    kinds += ["sky"] if {"ra", "dec"} <= set(numbers) else []
    kind = st.segmented_control("show as", kinds, default="table") or "table"
    if "spectrum_id" in table.column_names and table.num_rows:
        _on_the_map(db, query)
    if kind == "table":
        _table(table)
    elif kind == "histogram":
        name = st.selectbox("column", plain)
        st.plotly_chart(
            histogram_chart(_values(table, name), name, dark=is_dark()), key="sql-histogram", alt=f"histogram of {name}"
        )
    elif kind == "scatter":
        x, y = st.selectbox("x", plain), st.selectbox("y", plain, index=1)
        some = table.slice(0, _DRAWN)
        st.plotly_chart(
            scatter_chart(_values(some, x), _values(some, y), (x, y), dark=is_dark()), key="sql-scatter", alt=f"{y} over {x}"
        )
        if table.num_rows > _DRAWN:
            st.caption(f"the first {_DRAWN:,} rows")
    else:
        value = st.selectbox("value", ["number of spectra", *[n for n in plain if n not in ("ra", "dec")]])
        counted = value == "number of spectra"
        sky = sky_map(
            _values(table, "ra"), _values(table, "dec"), None if counted else _values(table, value),
            statistic="count" if counted else "median",
        )  # fmt: skip
        held = io.BytesIO()
        plot_sky(sky, value).savefig(held, format="png", dpi=110)
        st.image(held.getvalue(), alt=f"map of the sky: {value}")


def _on_the_map(db: Database, query: str) -> None:
    """Offer the maps that could show the spectra of the result."""
    mapped = [m for m in db.modalities if f"maps/{db.store.default_encoder}/{m}.parquet" in db.store.manifest().files]
    for column, modality in zip(st.columns(4), mapped, strict=False):
        if column.button(f"show on the map of {modality}", key=f"on-map-{modality}"):
            go_to("explore", modality=modality, q=query)


def _table(table: pa.Table) -> None:
    names = [f.name for f in table.schema]
    shown = table.slice(0, _SHOWN)
    for at, f in enumerate(table.schema):
        if f.type == pa.int64() and f.name.endswith("id"):
            shown = shown.set_column(at, f.name, shown[f.name].cast(pa.string()))
    picked = st.dataframe(shown, hide_index=True, on_select="rerun", selection_mode="single-row", key="sql-table")
    if table.num_rows > _SHOWN:
        st.caption(f"the first {_SHOWN:,} rows; downloads have all")
    rows = picked["selection"]["rows"]
    if rows and "spectrum_id" in names and st.button("look at the chosen one"):
        go_to("star", id=table["spectrum_id"][rows[0]].as_py())
    if st.toggle("downloads"):
        st.download_button("VOTable", rows_as_bytes(table, ".vot"), "result.vot")
        st.download_button("CSV", rows_as_bytes(table, ".csv"), "result.csv")
        samp_button(table, "specdb SQL", "sql")


def _values(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)
