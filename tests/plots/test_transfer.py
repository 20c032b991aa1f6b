"""Figures of a transfer."""

from __future__ import annotations

import numpy as np
import pytest

from specdb.errors import InputError
from specdb.heads.transfer.landscape import Landscape
from specdb.heads.transfer.sensitivity import Sensitivity
from specdb.plots.transfer import plot_landscapes, plot_learning_curves, plot_plane, plot_predictions, plot_sensitivity

PARTS = ("full", "poor", "rich")
ROWS = [
    {"inputs": inputs, "strategy": strategy, "stars": n, "seed": seed, "label": "feh", "part": part, "n": 30, "r2": r2}
    for inputs in ("pixels", "both")
    for strategy, r2 in (("full", 0.9), ("scratch", -30.0))
    for n in (50, 500)
    for seed in (0, 1)
    for part in PARTS
]


def test_learning_curves_have_a_row_per_input_and_a_column_per_part() -> None:
    figure = plot_learning_curves(ROWS, "feh")

    axes = figure.get_axes()
    assert len(axes) == 6
    assert [axis.get_title() for axis in axes[:3]] == ["all stars", "[Fe/H] < -1", "[Fe/H] > -1"]
    low, high = axes[0].get_ylim()
    assert low < 0.9 < high <= 1
    figure.canvas.draw()
    with pytest.raises(InputError, match="no row has the figure 'r2' of label 'teff'"):
        plot_learning_curves(ROWS, "teff")


def test_learning_curves_of_strategies_that_all_fail_are_upright() -> None:
    low, high = plot_learning_curves([row | {"r2": -5.0} for row in ROWS], "feh").get_axes()[0].get_ylim()
    assert low < -5 < high


def test_planes_and_notes() -> None:
    stars = np.random.default_rng(0).normal(size=(200, 2))
    figure = plot_plane({"truth": stars, "a": stars, "b": stars, "c": stars}, {"a": "MMD2 = 0"})
    assert [axis.get_visible() for axis in figure.get_axes()] == [True] * 4 + [False] * 2
    figure.canvas.draw()


def test_landscapes_share_their_levels() -> None:
    step = np.linspace(-1, 1, 5)
    bowl = 0.1 + step[:, None] ** 2 + step**2
    figure = plot_landscapes({"source": Landscape(step, bowl), "scratch": Landscape(step, 3 * bowl)})
    assert [axis.get_title() for axis in figure.get_axes()[:2]] == ["source: 0.100", "scratch: 0.300"]
    figure.canvas.draw()


def test_sensitivities_name_the_lines_of_stars() -> None:
    wavelength = np.linspace(4000, 5600, 300)
    one = Sensitivity(("feh",), np.zeros((1, 300)), np.ones((1, 300)))
    figure = plot_sensitivity(wavelength, {"source": one, "full": one}, "feh")

    named = {text.get_text() for text in figure.get_axes()[0].texts}
    assert {"H-beta", "Mg b / MgH", "Fe I 5270"} <= named
    assert not {"H-alpha", "[O III] 5007", "Hg 4358 (lamps)"} & named
    with pytest.raises(InputError, match="source has no label 'teff'; it has feh"):
        plot_sensitivity(wavelength, {"source": one}, "teff")


def test_predictions_of_a_handful_of_spectra() -> None:
    values = np.ones((3, 2))
    figure = plot_predictions(["a", "b", "c"], ["teff", "feh"], {"pixels": (values, values), "both": (values, values)})
    assert [axis.get_ylabel() for axis in figure.get_axes()] == ["Teff", "[Fe/H]"]
    figure.canvas.draw()
