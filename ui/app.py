"""The similarity explorer; started by `specdb ui`."""

from __future__ import annotations

import streamlit as st

from ui.shell import admitted, guarded
from ui.views.anomalies import anomalies
from ui.views.database import database_page
from ui.views.explore import explore
from ui.views.home import home
from ui.views.parameters import parameters
from ui.views.sql import sql_page
from ui.views.star import star

st.set_page_config(page_title="specdb", page_icon="🔭", layout="wide")

# Streamlit leaves a hand's breadth above and beside every page, which a map can use.
st.html("<style>.stMainBlockContainer {padding: 4rem 2.5rem 2rem}</style>")

if not admitted():
    st.error("This explorer is shared by an address with a token; ask who started it for the whole address.")
    st.stop()

PAGES = {
    # A default page has no path of its own, and every view needs an address.
    "home": st.Page(guarded(home), title="specdb", icon=":material/home:", default=True),
    "explore": st.Page(guarded(explore), title="Explore", icon=":material/scatter_plot:", url_path="explore"),
    "star": st.Page(guarded(star), title="Star", icon=":material/star:", url_path="star"),
    "anomalies": st.Page(guarded(anomalies), title="Anomalies", icon=":material/flag:", url_path="anomalies"),
    "sql": st.Page(guarded(sql_page), title="SQL", icon=":material/table:", url_path="sql"),
    "parameters": st.Page(guarded(parameters), title="Parameters", icon=":material/tune:", url_path="parameters"),
    "database": st.Page(guarded(database_page), title="Database", icon=":material/database:", url_path="database"),
}
st.session_state["pages"] = PAGES
st.navigation(list(PAGES.values()), position="top").run()
