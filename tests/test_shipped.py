"""Files that ship with specdb."""

from __future__ import annotations

import pytest

from specdb.errors import InputError
from specdb.shipped import data_folder, shipped_file


def test_what_ships_is_found() -> None:
    assert shipped_file("encoders/specclip-mini/card.json").is_relative_to(data_folder())


def test_what_is_missing_is_named() -> None:
    with pytest.raises(InputError, match=r"the file 'moon\.fits' that ships with specdb is not in .*; install specdb again"):
        shipped_file("moon.fits")
