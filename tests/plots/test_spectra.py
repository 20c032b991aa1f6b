"""Figures of spectra from plain arrays, and the commands that draw them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from specdb.cli import cli
from specdb.errors import InputError
from specdb.plots.spectra import LINE_MARKS, Curve, card_figure, overlay_figure, residuals, spectrum_figure

WAVELENGTH = np.linspace(4000.0, 5600.0, 200)


def _curve(name: str, level: float = 1.0) -> Curve:
    flux = np.full(200, level)
    flux[40:45] = np.nan
    return Curve(name, WAVELENGTH, flux, np.full(200, 0.1), np.isnan(flux))


def test_residuals_are_on_the_reference_grid_and_unknown_outside() -> None:
    reference = Curve("a", WAVELENGTH, np.ones(200))
    other = Curve("b", np.linspace(4500.0, 5000.0, 50), np.full(50, 1.5))
    (rest,) = residuals(reference, [other])
    inside = (WAVELENGTH >= 4500) & (WAVELENGTH <= 5000)
    assert np.allclose(rest[inside], 0.5)
    assert np.isnan(rest[~inside]).all()


def test_figures_name_units_and_mark_only_lines_in_range() -> None:
    figure = overlay_figure(_curve("a"), [_curve("b", 1.1)], "flux / continuum", "two")
    top, below = figure.axes
    assert "Å" in below.get_xlabel()
    assert top.get_ylabel() == "flux / continuum"
    named = {text.get_text() for text in top.texts}
    assert {"Hβ", "Mg b"} <= named
    assert "Hα" not in named
    assert all(4000 < LINE_MARKS[name] < 5600 for name in named)
    assert "repaired pixels" in [t.get_text() for t in spectrum_figure(_curve("a"), "flux").axes[0].get_legend().texts]


def test_a_card_has_a_pair_of_panels_for_each_modality(tmp_path: Path) -> None:
    panel = (_curve("a"), [_curve("b")], "flux", "title")
    figure = card_figure([panel, panel], "star", ["facts"])
    assert len(figure.axes) == 4
    figure.savefig(tmp_path / "card.png")
    assert (tmp_path / "card.png").stat().st_size > 1000


def test_arrays_of_other_lengths_are_refused() -> None:
    with pytest.raises(InputError, match=r"flux has shape \(3,\)"):
        Curve("a", WAVELENGTH, np.ones(3))


def test_compare_needs_two_to_seven_ids(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["compare", "1", "--db", str(tmp_path)])
    assert result.exit_code == 2
    assert "two to seven spectra" in result.output
