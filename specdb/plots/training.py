"""Loss curves of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from specdb.plots.style import COLOURS, MARKERS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["loss_figure"]

_HELD_OUT = "validation/"
_SHARES = "recall"


def loss_figure(steps: Sequence[float] | np.ndarray, curves: Mapping[str, Sequence[float]], title: str = "") -> Figure:
    """Show losses against steps: training as lines, held-out data dashed with markers, recall in its own panel.

    Parameters
    ----------
    steps : sequence (n,)
    curves : mapping of name to sequence (n,)
        Names of held-out figures begin with ``validation/``; those that go on with ``recall`` are shares.
    title : str
    """
    losses = [name for name in curves if not name.startswith(_HELD_OUT)]
    recalls = [name for name in curves if name.removeprefix(_HELD_OUT).startswith(_SHARES)]
    figure, axes = new_figure(6.4, 4.0 if not recalls else 6.0, rows=1 + bool(recalls), sharex=True, squeeze=False)
    top = axes[0, 0]
    for i, name in enumerate(losses):
        colour = COLOURS[i % len(COLOURS)]
        top.plot(steps, curves[name], color=colour, label=name)
        if (held := _HELD_OUT + name) in curves:
            style = {"ls": "--", "marker": MARKERS[i % len(MARKERS)], "ms": 3.5}
            top.plot(steps, curves[held], color=colour, label=f"{name}, held out", **style)
    values = np.concatenate([np.asarray(curves[name], float) for name in losses])
    if (values > 0).all():
        top.set_yscale("log")
    top.set_ylabel("loss")
    top.legend(fontsize=7, ncols=2)
    for i, name in enumerate(recalls):
        axes[1, 0].plot(steps, curves[name], color=COLOURS[i], marker=MARKERS[i], ms=3.5, label=name.removeprefix(_HELD_OUT))
    if recalls:
        axes[1, 0].set_ylim(0, 1)
        axes[1, 0].set_ylabel("cross-modal recall, held-out pairs")
        axes[1, 0].legend(fontsize=7)
    axes[-1, 0].set_xlabel("step")
    top.set_title(title, fontsize=9)
    return figure
