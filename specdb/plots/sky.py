"""Maps of the sky: a statistic of a value in HEALPix cells, in Mollweide projection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specdb.errors import InputError
from specdb.plots.style import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FRAMES", "STATISTICS", "SkyMap", "plot_sky", "sky_map"]

FRAMES = ("galactic", "icrs")

#: Statistic -> what it makes of the values of one cell, and its words on the colour bar.
STATISTICS = {
    "count": "number of stars",
    "density": "stars per square degree",
    "median": "median",
    "mean": "mean",
    "scatter": "scatter (1.4826 MAD)",
    "min": "minimum",
    "max": "maximum",
}

_RASTER = (1440, 720)  # a quarter of a degree


@dataclass(frozen=True)
class SkyMap:
    """A statistic in HEALPix cells (nested, ICRS).

    Attributes
    ----------
    level : int
        HEALPix order: 12 * 4**level cells.
    cell : ndarray (n,), int64
        Cells that hold a star, ascending.
    count : ndarray (n,), int64
    value : ndarray (n,), float64
        The statistic; NaN where a cell has stars but no value.
    statistic : str
    """

    level: int
    cell: np.ndarray
    count: np.ndarray
    value: np.ndarray
    statistic: str

    @property
    def cell_area_deg2(self) -> float:
        """Area of a cell in square degrees."""
        return 4 * np.pi * (180 / np.pi) ** 2 / (12 * 4**self.level)


def sky_map(
    ra: np.ndarray,
    dec: np.ndarray,
    value: np.ndarray | None = None,
    *,
    level: int = 5,
    statistic: str = "median",
    least: int = 1,
) -> SkyMap:
    """Gather stars into HEALPix cells.

    Parameters
    ----------
    ra, dec : ndarray (n,), degrees, ICRS
        Rows without a finite position are left out.
    value : ndarray (n,), optional
        Needed for all statistics but ``count`` and ``density``; NaN does not count.
    level : int
        HEALPix order, 0 to 11; 5 has cells of 1.8 degrees.
    statistic : str
        One of `STATISTICS`.
    least : int
        Cells with fewer values are left out.

    Raises
    ------
    InputError
        For an unknown statistic, a level out of range, a missing value, or no star at all.
    """
    from astropy import units as u
    from astropy_healpix import HEALPix

    if statistic not in STATISTICS:
        raise InputError(f"no statistic is called {statistic!r}; there are {', '.join(STATISTICS)}")
    if not 0 <= level <= 11:
        raise InputError(f"the HEALPix level is {level}; give one from 0 to 11 (5 has cells of 1.8 degrees)")
    counting = statistic in ("count", "density")
    if value is None and not counting:
        raise InputError(f"the {statistic} of what? Give a value, or ask for the count or the density")
    good = np.isfinite(ra) & np.isfinite(dec)
    if value is not None:
        good &= np.isfinite(value)
    if not good.any():
        raise InputError("no star has both a position and a value; there is nothing to map")
    grid = HEALPix(nside=2**level, order="nested")
    cells = np.asarray(grid.lonlat_to_healpix(ra[good] * u.deg, dec[good] * u.deg))
    order = np.argsort(cells, kind="stable")
    cell, start, count = np.unique(cells[order], return_index=True, return_counts=True)
    area = 4 * np.pi * (180 / np.pi) ** 2 / (12 * 4**level)
    if value is None or counting:
        found = count / (area if statistic == "density" else 1.0)
    else:
        sorted_values = np.asarray(value, np.float64)[good][order]
        found = _grouped(sorted_values, start, count, statistic)
    enough = count >= least
    return SkyMap(level, cell[enough], count[enough], np.asarray(found, np.float64)[enough], statistic)


def _grouped(values: np.ndarray, start: np.ndarray, count: np.ndarray, statistic: str) -> np.ndarray:
    """Return a statistic of consecutive groups of `values`."""
    if statistic == "mean":
        return np.add.reduceat(values, start) / count
    if statistic in ("min", "max"):
        return (np.minimum if statistic == "min" else np.maximum).reduceat(values, start)
    centre = _medians(values, start, count)
    if statistic == "median":
        return centre
    return 1.4826 * _medians(np.abs(values - np.repeat(centre, count)), start, count)


def _medians(values: np.ndarray, start: np.ndarray, count: np.ndarray) -> np.ndarray:
    group = np.repeat(np.arange(len(start)), count)
    ordered = values[np.lexsort((values, group))]
    return (ordered[start + (count - 1) // 2] + ordered[start + count // 2]) / 2


def plot_sky(sky: SkyMap, label: str, *, frame: str = "galactic", title: str = "", log: bool = False) -> Figure:
    """Draw a map in Mollweide projection, longitude growing to the left.

    Parameters
    ----------
    sky : SkyMap
    label : str
        Of the value, with its unit.
    frame : {'galactic', 'icrs'}
    title : str
    log : bool
        Logarithmic colours.

    Raises
    ------
    InputError
        For an unknown frame.
    """
    from astropy import units as u
    from astropy.coordinates import Galactic, SkyCoord
    from astropy_healpix import HEALPix
    from matplotlib.colors import LogNorm, Normalize

    if frame not in FRAMES:
        raise InputError(f"no frame is called {frame!r}; there are {', '.join(FRAMES)}")
    n_lon, n_lat = _RASTER
    lon = np.linspace(-180, 180, n_lon + 1)
    lat = np.linspace(-90, 90, n_lat + 1)
    centre_lon, centre_lat = np.meshgrid((lon[1:] + lon[:-1]) / 2, (lat[1:] + lat[:-1]) / 2)
    sky_frame = Galactic() if frame == "galactic" else "icrs"
    # Longitude grows to the left, as one sees the sky: the raster's longitude is minus that of the frame.
    where = SkyCoord(-centre_lon.ravel() * u.deg, centre_lat.ravel() * u.deg, frame=sky_frame).icrs
    cells = np.asarray(HEALPix(nside=2**sky.level, order="nested").lonlat_to_healpix(where.ra, where.dec))
    at = np.minimum(np.searchsorted(sky.cell, cells), len(sky.cell) - 1)
    image = np.where(sky.cell[at] == cells, sky.value[at], np.nan).reshape(n_lat, n_lon)
    finite = sky.value[np.isfinite(sky.value)]
    low, high = np.quantile(finite, [0.02, 0.98]) if finite.size else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    norm = LogNorm(max(low, 1e-12), max(high, 1e-11)) if log else Normalize(low, high)

    figure, axes = new_figure(10, 5.6, subplot_kw={"projection": "mollweide"})
    drawn = axes.pcolormesh(np.radians(lon), np.radians(lat), image, norm=norm, cmap="cividis", rasterized=True)
    ticks = np.arange(-120, 121, 60)
    axes.set_xticks(np.radians(ticks), [f"{-t % 360:g}°" for t in ticks])
    axes.grid(alpha=0.35, lw=0.5)
    axes.set_xlabel("Galactic longitude l" if frame == "galactic" else "right ascension (ICRS)")
    axes.set_ylabel("Galactic latitude b" if frame == "galactic" else "declination (ICRS)")
    words = STATISTICS[sky.statistic]
    named = words if sky.statistic in ("count", "density") else f"{words} of {label}"
    figure.colorbar(drawn, ax=axes, orientation="horizontal", label=named, shrink=0.6, extend="both")
    note = f"{int(sky.count.sum()):,} stars in {len(sky.cell):,} HEALPix cells of {np.sqrt(sky.cell_area_deg2):.2g}°"
    axes.set_title(f"{title}\n{note}" if title else note, fontsize=10)
    return figure
