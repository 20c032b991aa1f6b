"""Planes of two labels."""

from __future__ import annotations

import numpy as np
import pytest

from specdb.errors import InputError
from specdb.plots.plane import plot_plane

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [50, 5000])
@pytest.mark.parametrize("coloured", [False, True])
def test_points_for_few_and_cells_for_many(n: int, coloured: bool) -> None:
    x, y = RNG.normal(size=(2, n))
    x[0] = np.nan
    figure = plot_plane(x, y, ("[Fe/H]", "[alpha/Fe]"), x + y if coloured else None, "age", "title")
    assert f"{n - 1:,} stars" in figure.axes[0].get_title()
    assert len(figure.axes) == 1 + (coloured or n > 2000)


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(InputError, match="no star has both a and b"):
        plot_plane(np.array([np.nan]), np.array([1.0]), ("a", "b"))
