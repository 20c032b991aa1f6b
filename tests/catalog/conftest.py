"""A small database of two modalities."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from specdb.database import Database
from specdb.spectra import get_modality
from specdb.store import Store
from tests.catalog.small_store import ENCODER, N, commit, gaia_id, index_all, lamost, rows, sky


@pytest.fixture(scope="session")
def db(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """40 LAMOST spectra (ids from 1001), and Gaia XP spectra 0.5 arcsec from each, the first three with ids; read only."""
    tmp_path = tmp_path_factory.mktemp("catalog")
    store = Store.create(tmp_path / "db", ENCODER)
    commit(store, get_modality("lamost_lrs"), lamost(), 1)
    ra, dec = sky()
    north = np.where(dec + 0.5 / 3600 > 90, -1, 1) * 0.5 / 3600
    ids = np.array([gaia_id(i) for i in range(N)])
    gaia = rows(get_modality("gaia_xp"), ids, ra=ra, dec=dec + north, epoch=np.full(N, 2016.0), gaia_source_id=ids)
    commit(store, get_modality("gaia_xp"), gaia, 2)
    index_all(store)
    return Database(store)


@pytest.fixture(scope="session")
def store(db: Database) -> Store:
    """The same, for reading."""
    return db.store


@pytest.fixture
def fresh(db: Database, tmp_path: Path) -> Store:
    """A copy to write to."""
    shutil.copytree(db.store.root, tmp_path / "db")
    return Store.open(tmp_path / "db")


@pytest.fixture
def more_spectra() -> Callable[[Store, int], None]:
    """Add another 40 LAMOST spectra, at the same positions."""

    def add(store: Store, first: int) -> None:
        commit(store, get_modality("lamost_lrs"), lamost(first), first)

    return add
