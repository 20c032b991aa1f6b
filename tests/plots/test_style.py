"""Figures that do not depend on what else has been imported."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest

from specdb.errors import InputError
from specdb.plots.style import new_figure, save_figure


def test_no_latex_is_asked_for_even_where_another_package_wants_it(tmp_path: Path) -> None:
    with matplotlib.rc_context({"text.usetex": True}):
        figure, axes = new_figure(rows=1, columns=2)
        axes[0].plot([1, 2], label="a line")
        axes[0].legend()
        axes[0].set_title("T_eff & more")
        for ending in (".png", ".svg"):
            assert save_figure(figure, tmp_path / f"f{ending}")[0].stat().st_size > 1000


def test_unknown_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="figures are written as"):
        save_figure(new_figure()[0], tmp_path / "f.bmp")
