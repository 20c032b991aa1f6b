"""Saved questions: kept, replaced, forgotten, limited."""

from __future__ import annotations

from pathlib import Path

import pytest

from specdb.catalog.saved import forget_query, save_query, saved_queries
from specdb.errors import InputError
from specdb.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "db", "specclip-mini")


def test_questions_are_kept_and_the_latest_counts(store: Store) -> None:
    assert saved_queries(store) == {}
    save_query(store, "odd ones", "SELECT 1")
    save_query(store, "all", "SELECT 2")
    save_query(store, "odd ones", "SELECT 3")
    save_query(store, "odd ones", "SELECT 3")
    assert list(saved_queries(Store.open(store.root)).items()) == [("all", "SELECT 2"), ("odd ones", "SELECT 3")]
    assert len(store.tables("queries")) == 3  # nothing is overwritten, and nothing kept twice
    forget_query(store, "odd ones")
    assert list(saved_queries(store)) == ["all"]


@pytest.mark.parametrize(("name", "sql"), [("", "SELECT 1"), ("x" * 81, "SELECT 1"), ("a<b>", "SELECT 1")])
def test_names_have_limits(store: Store, name: str, sql: str) -> None:
    with pytest.raises(InputError, match="1 to 80"):
        save_query(store, name, sql)


def test_texts_and_numbers_have_limits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for sql in ("  ", "x" * 5001):
        with pytest.raises(InputError, match="1 to 5000"):
            save_query(store, "a", sql)
    monkeypatch.setattr("specdb.catalog.saved._MOST", 1)
    save_query(store, "a", "SELECT 1")
    with pytest.raises(InputError, match="forget some"):
        save_query(store, "b", "SELECT 1")
    with pytest.raises(InputError, match="no question is called 'b'; there are a"):
        forget_query(store, "b")
