"""Questions in SQL from the browser: within the limits for strangers, and remembered for a while."""

from __future__ import annotations

import pyarrow as pa
import streamlit as st

from specdb.catalog import connect
from specdb.catalog.session import UNTRUSTED
from specdb.database import Database

__all__ = ["ask"]


@st.cache_data(max_entries=4, ttl=600, show_spinner="asking (stopped after 10 s)")
def ask(_db: Database, changed: int, query: str) -> tuple[pa.Table, bool]:
    """Return the answer, and whether it was cut off at the limit of rows.

    Raises
    ------
    QueryError
        See `specdb.catalog.run_sql`.
    """
    with connect(_db.store, index=_db.index, limits=UNTRUSTED) as session:
        return session.query(query), session.cut_off
