"""Modalities are found by their own name and by their survey's."""

import numpy as np
import pytest

from specdb.errors import InputError
from specdb.spectra.modalities import GAIA_XP, get_modality, modality_for_survey, modality_names
from specdb.spectra.readers import reader_names


def test_gaia_xp_is_found_by_both_names():
    assert get_modality("gaia_xp") is modality_for_survey("gaia-xp") is GAIA_XP
    assert "gaia_xp" in modality_names()


def test_every_modality_is_complete():
    for name in modality_names():
        modality = get_modality(name)
        assert set(modality.readers) <= set(reader_names())
        assert (np.diff(modality.wavelength) > 0).all() and modality.title


def test_unknown_names_list_the_known_ones():
    with pytest.raises(InputError, match=r"no modality is called 'x'; known modalities: .*gaia_xp"):
        get_modality("x")
    with pytest.raises(InputError, match=r"no survey is called 'x'; known surveys: .*gaia-xp"):
        modality_for_survey("x")
