"""What all pages share: the open database, errors in plain words, the token, addresses of views."""

from __future__ import annotations

import functools
import hmac
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import streamlit as st

from specdb.database import Database
from specdb.errors import DatabaseError
from specdb.export.samp import SampError, SampLink
from specdb.store import Store
from ui.model import safe_message, stamp

__all__ = [
    "admitted",
    "choose_modality",
    "database",
    "fingerprint",
    "go_to",
    "guarded",
    "is_dark",
    "parameter",
    "remember",
    "samp_button",
]


def _root() -> Path:
    return Path(os.environ.get("SPECDB_UI_DB", "mydb"))


@st.cache_resource(show_spinner="opening the database")
def _open(root: str) -> Database:
    return Database(Store.open(Path(root)))


def database() -> Database:
    """Return the database, opened once for all users."""
    return _open(str(_root()))


def fingerprint() -> int:
    """Return a number that changes with the database: part of the key of every cached answer."""
    return stamp(database())


def guarded(page: Callable[[], None]) -> Callable[[], None]:
    """Show errors in words that tell nothing of the server."""

    @functools.wraps(page)
    def run() -> None:
        try:
            page()
        except Exception as error:  # nothing may reach the browser as it is
            # What has not been made yet is no fault: the message names the command that makes it.
            show = st.info if type(error) is DatabaseError else st.error
            show(safe_message(error, _root()))

    return run


def admitted() -> bool:
    """Whether this visitor may come in: always without ``--share``, else with the token in the address."""
    token = os.environ.get("SPECDB_UI_TOKEN", "")
    given = st.query_params.get("token", "")
    if not token or st.session_state.get("admitted"):
        return True
    st.session_state["admitted"] = hmac.compare_digest(given.encode(), token.encode())
    return bool(st.session_state["admitted"])


def parameter(name: str, default: str = "") -> str:
    """Return a value of the view's address."""
    return st.query_params.get(name, default)


def remember(**facts: object) -> None:
    """Write what is shown into the address, so that it can be shared."""
    for name, value in facts.items():
        if value in (None, "", False):
            st.query_params.pop(name, None)
        elif st.query_params.get(name) != str(value):
            st.query_params[name] = str(value)


def go_to(page: str, **facts: object) -> None:
    """Open another page on something."""
    kept = {"token": st.query_params["token"]} if "token" in st.query_params else {}
    known = {name: str(value) for name, value in facts.items() if value not in (None, "")}
    st.switch_page(st.session_state["pages"][page], query_params=kept | known)


def choose_modality(*, key: str = "modality") -> str | None:
    """Let the user choose one of the modalities; None in an empty database, which is said."""
    known = database().modalities
    if not known:
        st.info(
            "The database is empty. `specdb build-index lamost FOLDER --db DB` fills it; `specdb demo` makes an example."
        )
        return None
    asked = parameter("modality")
    chosen = st.selectbox("modality", known, index=known.index(asked) if asked in known else 0, key=key)
    remember(modality=chosen)
    return chosen


def is_dark() -> bool:
    """Whether the browser shows the dark theme."""
    theme = getattr(st.context, "theme", None)
    return getattr(theme, "type", None) == "dark"


def samp_button(table: pa.Table, name: str, key: str) -> None:
    """Offer to hand a table to TOPCAT on the machine where the explorer runs."""
    if st.button("send to TOPCAT", key=f"samp-{key}", help="over SAMP, on the machine where the explorer runs"):
        try:
            with SampLink() as link:
                receivers = link.send(table, name, "topcat")
        except SampError as error:
            st.warning(str(error))
        else:
            st.success(f"sent to {', '.join(receivers)}")
