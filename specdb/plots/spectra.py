"""Figures of spectra: one with its errors, several on one another with residuals, and cards of a star.

Everything here takes plain arrays; wavelengths are vacuum Angstrom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specdb.errors import InputError
from specdb.plots.style import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LINE_MARKS", "Curve", "card_figure", "draw_lines", "overlay_figure", "residuals", "spectrum_figure"]

#: Lines that are marked: name -> vacuum wavelength in Angstrom (NIST ASD; molecular heads after Pearse & Gaydon 1976).
LINE_MARKS = {
    "Ca II K": 3934.8,
    "Ca II H": 3969.6,
    "Hδ": 4102.9,
    "Ca I": 4227.9,
    "G band": 4306.0,
    "Hγ": 4341.7,
    "He I": 4472.7,
    "He II": 4687.0,
    "Hβ": 4862.7,
    "Mg b": 5178.0,
    "Fe I": 5271.0,
    "Na D": 5894.6,
    "Hα": 6564.6,
    "TiO": 7056.0,
    "K I": 7701.1,
    "Ca II triplet": 8544.4,
}


@dataclass(frozen=True)
class Curve:
    """One spectrum to draw.

    Attributes
    ----------
    name : str
        For the legend.
    wavelength : ndarray (n,), float64
        Vacuum Angstrom, ascending.
    flux : ndarray (n,)
    sigma : ndarray (n,), optional
        Errors of the flux; NaN where they are unknown.
    repaired : ndarray (n,), bool, optional
        Pixels that were filled in.
    """

    name: str
    wavelength: np.ndarray
    flux: np.ndarray
    sigma: np.ndarray | None = None
    repaired: np.ndarray | None = None

    def __post_init__(self) -> None:
        for part in ("flux", "sigma", "repaired"):
            values = getattr(self, part)
            if values is not None and values.shape != self.wavelength.shape:
                raise InputError(
                    f"{self.name}: {part} has shape {values.shape}, the wavelengths {self.wavelength.shape}; "
                    "they must be equal"
                )


def residuals(reference: Curve, others: Sequence[Curve]) -> list[np.ndarray]:
    """Return ``other - reference`` on the reference's wavelengths, NaN outside the other's range."""
    return [
        np.interp(reference.wavelength, o.wavelength, o.flux, left=np.nan, right=np.nan) - reference.flux for o in others
    ]


def draw_lines(axes: Axes, low: float, high: float, *, named: bool = True) -> None:
    """Mark the known lines between two wavelengths; names stand at the top, in two heights, where there is room."""
    inside = [(name, at) for name, at in LINE_MARKS.items() if low < at < high]
    least = 0.06 * (high - low)
    last = {0.985: -np.inf, 0.915: -np.inf}
    for name, at in inside:
        axes.axvline(at, color="#888888", lw=0.6, ls=":", zorder=0)
        height = next((h for h, before in last.items() if at - before > least), None)
        if named and height is not None:
            last[height] = at
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6}
            place = axes.get_xaxis_transform()
            axes.text(at, height, name, transform=place, fontsize=7, ha="center", va="top", color="#444444", bbox=box)


def _draw(axes: Axes, curve: Curve, colour: str, **style: Any) -> None:
    axes.plot(curve.wavelength, curve.flux, color=colour, label=curve.name, **style)


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    values = np.concatenate([c.flux[np.isfinite(c.flux)] for c in curves] or [np.zeros(1)])
    low, high = np.quantile(values, [0.0003, 0.999]) if values.size else (0.0, 1.0)
    room = max(high - low, 1e-12)
    return float(low - 0.25 * room), float(high + 0.3 * room)


def _errors_and_repairs(axes: Axes, curve: Curve) -> None:
    if curve.sigma is not None and np.isfinite(curve.sigma).any():
        band = curve.flux - curve.sigma, curve.flux + curve.sigma
        axes.fill_between(curve.wavelength, *band, color=COLOURS[4], alpha=0.4, lw=0, label="±1σ", zorder=1)
    if curve.repaired is not None and curve.repaired.any():
        at = curve.wavelength[curve.repaired]
        axes.plot(at, curve.flux[curve.repaired], ls="", marker=".", ms=3, color=COLOURS[1], label="repaired pixels")


def spectrum_figure(curve: Curve, flux_label: str, title: str = "") -> Figure:
    """Show one spectrum with its errors, repaired pixels and line marks.

    Parameters
    ----------
    curve : Curve
    flux_label : str
        Of the vertical axis, with the unit.
    title : str
    """
    figure, axes = new_figure(8.5, 3.2)
    _errors_and_repairs(axes, curve)
    _draw(axes, curve, COLOURS[0], lw=0.9)
    _finish(axes, curve, [curve], flux_label, title)
    axes.set_xlabel("vacuum wavelength (Å)")
    return figure


def overlay_figure(reference: Curve, others: Sequence[Curve], flux_label: str, title: str = "") -> Figure:
    """Show spectra on one another, and below what is left when the first is taken off, with its errors.

    Parameters
    ----------
    reference : Curve
        Drawn in black; what the others are compared with.
    others : sequence of Curve
    flux_label, title : str
    """
    figure, axes = new_figure(8.5, 5.0, 2, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 1]})
    _overlay(axes[0], axes[1], reference, others, flux_label, title)
    return figure


def _overlay(top: Axes, below: Axes, reference: Curve, others: Sequence[Curve], flux_label: str, title: str) -> None:
    for i, (other, rest) in enumerate(zip(others, residuals(reference, others), strict=True)):
        colour = COLOURS[i % (len(COLOURS) - 1)]  # the last one, black, is the reference's
        _draw(top, other, colour, lw=0.8, alpha=0.9)
        below.plot(reference.wavelength, rest, color=colour, lw=0.6)
    _draw(top, reference, COLOURS[-1], lw=1.1)
    if reference.sigma is not None and np.isfinite(reference.sigma).any():
        edges = reference.wavelength, -reference.sigma, reference.sigma
        below.fill_between(*edges, color="#999999", alpha=0.4, lw=0, label="±1σ")
    _finish(top, reference, [reference, *others], flux_label, title)
    draw_lines(below, reference.wavelength[0], reference.wavelength[-1], named=False)
    below.axhline(0, color="k", lw=0.6)
    spread = [r[np.isfinite(r)] for r in residuals(reference, others)]
    if spread and (some := np.concatenate(spread)).size:
        most = max(1.3 * float(np.quantile(np.abs(some), 0.995)), 1e-9)
        below.set_ylim(-most, most)
    below.set_ylabel("other − this")
    below.set_xlabel("vacuum wavelength (Å)")


def _finish(axes: Axes, reference: Curve, curves: Sequence[Curve], flux_label: str, title: str) -> None:
    low, high = float(reference.wavelength[0]), float(reference.wavelength[-1])
    axes.set(xlim=(low, high), ylim=_limits(curves), ylabel=flux_label)
    axes.set_title(title, fontsize=10)
    draw_lines(axes, low, high)
    axes.legend(fontsize=7, ncols=4, loc="lower left", framealpha=0.85)


def card_figure(panels: Sequence[tuple[Curve, Sequence[Curve], str, str]], title: str, facts: Sequence[str] = ()) -> Figure:
    """Make a page about one spectrum: facts on top, below an overlay with residuals for each modality.

    Parameters
    ----------
    panels : sequence of (reference, others, flux label, title)
    title : str
    facts : sequence of str
        Lines of text.
    """
    heights = [h for _ in panels for h in (2.2, 1.0)]
    figure, axes = new_figure(
        9.0, 1.1 + 4.0 * len(panels), 2 * len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": heights}
    )
    for i, (reference, others, flux_label, words) in enumerate(panels):
        top, below = axes[2 * i, 0], axes[2 * i + 1, 0]
        below.sharex(top)
        top.tick_params(labelbottom=False)
        _overlay(top, below, reference, others, flux_label, words)
    figure.suptitle("\n".join([title, *facts]), fontsize=9, x=0.02, ha="left")
    return figure
