"""SQL with the schema beside it; results as table, histogram, scatter or map of the sky."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import streamlit as st

from specdb.catalog import connect
from specdb.catalog.session import UNTRUSTED
from specdb.database import Database
from specdb.plots.sky import plot_sky, sky_map
from ui.charts import histogram_chart, scatter_chart
from ui.model import rows_as_bytes
from ui.shell import database, fingerprint, go_to, parameter, remember

__all__ = ["sql_page"]

_SHOWN, _DRAWN = 1000, 20_000


@st.cache_data(max_entries=8, show_spinner=False)
def _schema(_db: Database, changed: int) -> pa.Table:
    with connect(_db.store) as session:
        return session.schema()


@st.cache_data(max_entries=4, ttl=600, show_spinner="asking (stopped after 10 s)")
def _ask(_db: Database, changed: int, query: str) -> tuple[pa.Table, bool]:
    with connect(_db.store, index=_db.index, limits=UNTRUSTED) as session:
        return session.query(query), session.cut_off


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
        first = f"SELECT spectrum_id, object_name, ra, dec, snr, class, subclass\nFROM {db.modalities[0]}\nORDER BY snr DESC"
        saved: dict[str, str] = st.session_state.setdefault("saved queries", {})
        query = st.text_area("query", parameter("q", first), height=130, key="sql-text", max_chars=5000)
        left, right, name_column = st.columns([1, 1, 2])
        run = left.button("Run", type="primary", shortcut="Ctrl+Enter")
        name = name_column.text_input("name", placeholder="save as", label_visibility="collapsed")
        if right.button("Save", disabled=not name):
            saved[name] = query
        for known, text in saved.items():
            st.markdown(f"saved: **{known}**")
            st.code(text, language="sql")
        if run:
            remember(q=query)
        asked = parameter("q")
        if not asked:
            st.caption("Results have up to 100,000 rows and 10 s; the address of the page holds the query.")
            return
        table, cut = _ask(db, fingerprint(), asked)
        st.caption(f"{table.num_rows:,} rows" + (f", cut off at {UNTRUSTED.rows:,}" if cut else ""))
        _result(table)


def _result(table: pa.Table) -> None:
    numbers = [f.name for f in table.schema if pa.types.is_floating(f.type) or pa.types.is_integer(f.type)]
    plain = [n for n in numbers if not n.endswith("_id")]
    kinds = ["table", *(["histogram"] if plain else []), *(["scatter"] if len(plain) > 1 else [])]
    kinds += ["sky"] if {"ra", "dec"} <= set(numbers) else []
    kind = st.segmented_control("show as", kinds, default="table") or "table"
    if kind == "table":
        _table(table)
    elif kind == "histogram":
        name = st.selectbox("column", plain)
        st.plotly_chart(histogram_chart(_values(table, name), name), key="sql-histogram", alt=f"histogram of {name}")
    elif kind == "scatter":
        x, y = st.selectbox("x", plain), st.selectbox("y", plain, index=1)
        some = table.slice(0, _DRAWN)
        st.plotly_chart(scatter_chart(_values(some, x), _values(some, y), (x, y)), key="sql-scatter", alt=f"{y} over {x}")
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


def _values(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float64)
