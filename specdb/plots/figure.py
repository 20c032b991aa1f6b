"""A figure that looks the same whatever other packages have done to matplotlib's settings."""

from __future__ import annotations

from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

__all__ = ["PlainFigure"]


class PlainFigure(Figure):
    """Never asks for LaTeX: some packages switch it on for the whole process when they are imported."""

    def draw(self, renderer: Any) -> None:
        """Draw all texts with matplotlib's own fonts."""
        with rc_context({"text.usetex": False}):
            for text in self.findobj(Text):
                text.set_usetex(False)
            super().draw(renderer)
