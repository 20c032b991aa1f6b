"""Single spectra as `specutils.Spectrum`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from specdb.database import Database
from specdb.errors import DependencyError, QueryError
from specdb.spectra import get_modality
from specdb.store import Store
from tests.catalog.small_store import commit, rows


@pytest.fixture
def db(tmp_path: Path) -> Database:
    store = Store.create(tmp_path / "db", "toy-encoder")
    modality = get_modality("lamost_lrs")
    table = rows(modality, np.array([11, 12]), ra=[10.0, 20.0], dec=[1.0, 2.0], subclass=["G5", None])
    ivar = np.full((2, len(modality.wavelength)), 4.0, np.float32)
    ivar[:, 3] = 0
    place = table.schema.get_field_index("ivar")
    from specdb.store.tables import fixed_size_lists

    commit(store, modality, table.set_column(place, table.schema.field("ivar"), fixed_size_lists(ivar)), 1)
    return Database(store)


def test_a_spectrum_for_specutils(db: Database) -> None:
    u = pytest.importorskip("astropy.units")
    specutils = pytest.importorskip("specutils")
    spectrum = db.spectrum(12)
    assert isinstance(spectrum, specutils.Spectrum)
    np.testing.assert_allclose(spectrum.spectral_axis.to_value(u.AA), get_modality("lamost_lrs").wavelength, rtol=1e-12)
    assert spectrum.flux.unit == u.dimensionless_unscaled
    assert np.flatnonzero(spectrum.mask).tolist() == [3]
    assert spectrum.uncertainty.array[0] == 4.0
    assert spectrum.meta["spectrum_id"] == 12 and spectrum.meta["ra"] == 20.0
    assert "subclass" not in spectrum.meta
    with pytest.raises(QueryError, match="no spectrum"):
        db.spectrum(13)


def test_the_missing_package_is_named(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "specutils", None)
    with pytest.raises(DependencyError, match=r'pip install "specdb\[vo\]"'):
        db.spectrum(11)
