"""How figures look: on paper as well as on a screen, and for people who do not tell red from green."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specdb.errors import InputError
from specdb.store.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "FORMATS", "MARKERS", "new_figure", "save_figure"]

#: The colour-blind-safe palette of Okabe & Ito (2008), darkest first, without the yellow that paper swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
#: Markers in the same order, so that series differ without colour, too.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
FORMATS = (".png", ".pdf", ".svg")


def new_figure(width: float = 6.4, height: float = 4.0, rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """Return a figure and its axes: one, or an array of them as matplotlib's `subplots` gives it.

    No window system and no global state of matplotlib takes part.

    Parameters
    ----------
    width, height : float
        Inches.
    rows, columns : int
    **options
        For `Figure.subplots`.
    """
    from specdb.plots.figure import PlainFigure

    figure = PlainFigure(figsize=(width, height), layout="constrained", dpi=150)
    axes = figure.subplots(rows, columns, **options)
    for axis in axes.flat if hasattr(axes, "flat") else [axes]:
        axis.tick_params(direction="in", top=True, right=True)
        axis.grid(alpha=0.25, linewidth=0.5)
        axis.set_axisbelow(True)
    return figure, axes


def save_figure(figure: Figure, path: str | Path, formats: Sequence[str] = ()) -> list[Path]:
    """Write a figure in the format of its name, or with each of the given endings; atomically.

    Raises
    ------
    InputError
        For an unknown ending.
    """
    path = Path(path)
    paths = [path.with_suffix(ending) for ending in formats] or [path]
    for target in paths:
        if target.suffix.lower() not in FORMATS:
            raise InputError(f"{target.name}: figures are written as {', '.join(FORMATS)}")
        dated = {"Date": None} if target.suffix.lower() == ".svg" else {}
        with atomic_path(target) as temporary:
            figure.savefig(temporary, format=target.suffix[1:].lower(), metadata=dated)
    return paths
