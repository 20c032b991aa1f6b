"""Figures of translated spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specdb.plots.style import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["translation_figure"]


def translation_figure(
    wavelength: np.ndarray,
    flux: np.ndarray,
    sigma: np.ndarray,
    half_95: np.ndarray,
    unit: str,
    title: str = "",
    observed: np.ndarray | None = None,
) -> Figure:
    """Show a predicted spectrum with its intervals, and the observed one where there is one.

    Parameters
    ----------
    wavelength : ndarray (n_grid,), vacuum Angstrom
    flux, sigma, half_95 : ndarray (n_grid,)
        Prediction, half-widths of its 68 % and 95 % intervals.
    unit : str
        Of the flux.
    title : str
    observed : ndarray (n_grid,), optional
        In the same unit; adds a panel with the difference.
    """
    panels = 1 if observed is None else 2
    ratios = {"height_ratios": [3, 1][:panels]}
    figure, axes = new_figure(7.2, 3.2 + panels, panels, 1, sharex=True, squeeze=False, gridspec_kw=ratios)
    top = axes[0, 0]
    top.fill_between(wavelength, flux - half_95, flux + half_95, color=COLOURS[4], alpha=0.35, lw=0, label="95 %")
    top.fill_between(wavelength, flux - sigma, flux + sigma, color=COLOURS[0], alpha=0.35, lw=0, label="68 %")
    top.plot(wavelength, flux, color=COLOURS[0], lw=1.2, label="predicted")
    if observed is not None:
        top.plot(wavelength, observed, color=COLOURS[1], lw=1, ls="--", label="observed")
        below = axes[1, 0]
        below.fill_between(wavelength, -half_95, half_95, color=COLOURS[4], alpha=0.35, lw=0)
        below.fill_between(wavelength, -sigma, sigma, color=COLOURS[0], alpha=0.35, lw=0)
        below.plot(wavelength, observed - flux, color=COLOURS[1], lw=0.9)
        below.set_ylabel("obs. − pred.")
    spread = np.ptp(flux)
    top.set_ylim(min(flux.min(), 0) - 0.05 * spread, flux.max() + 0.25 * spread)
    top.set_ylabel(unit)
    top.set_title(title, fontsize=10)
    top.legend(frameon=False, ncols=4, fontsize=8)
    axes[-1, 0].set_xlabel("vacuum wavelength (Å)")
    axes[-1, 0].set_xlim(wavelength[0], wavelength[-1])
    return figure
