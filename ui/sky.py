"""The whole sky on one small figure, without asking any map server: where a star is, and where its survey looked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from specdb.errors import InputError
from specdb.plots.sky import FRAMES, SkyMap
from specdb.plots.style import COLOURS
from ui.charts import ON_DARK

__all__ = ["Footprint", "footprint", "mollweide", "sky_chart"]

_AXES = {"galactic": ("l", "b"), "icrs": ("RA", "Dec")}


@dataclass(frozen=True)
class Footprint:
    """Cells of the sky that hold spectra: `lon`, `lat` (n,) in degrees in `frame`, and their number `count` (n,)."""

    lon: np.ndarray
    lat: np.ndarray
    count: np.ndarray
    frame: str


def mollweide(lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project the sphere onto an ellipse of half axes 2 and 1, longitude growing to the left, 0 in the middle.

    Equal-area: 2t + sin 2t = pi sin(lat), x = -(2 / pi) lon cos t, y = sin t (Snyder 1987, USGS Professional Paper 1395,
    eq. 31-1 to 31-4), solved by Newton's method.

    Parameters
    ----------
    lon, lat : ndarray (n,), degrees

    Returns
    -------
    x, y : ndarray (n,)
    """
    wrapped = np.radians((np.asarray(lon, np.float64) + 180) % 360 - 180)
    b = np.radians(np.clip(np.asarray(lat, np.float64), -90, 90))
    t = b.copy()
    for _ in range(12):
        slope = 2 + 2 * np.cos(2 * t)
        step = (2 * t + np.sin(2 * t) - np.pi * np.sin(b)) / np.maximum(slope, 1e-9)
        t = np.clip(t - step, -np.pi / 2, np.pi / 2)
    t = np.where(np.abs(b) > np.pi / 2 - 1e-6, np.sign(b) * np.pi / 2, t)
    return -2 / np.pi * wrapped * np.cos(t), np.sin(t)


def footprint(sky: SkyMap, frame: str = "galactic") -> Footprint:
    """Return the centres of a map's cells in a frame.

    Raises
    ------
    InputError
        For an unknown frame.
    """
    from astropy_healpix import HEALPix

    lon, lat = HEALPix(nside=2**sky.level, order="nested").healpix_to_lonlat(sky.cell)
    where = _in_frame(np.degrees(lon.value), np.degrees(lat.value), frame)
    return Footprint(*where, sky.count, frame)


def _in_frame(ra: np.ndarray, dec: np.ndarray, frame: str) -> tuple[np.ndarray, np.ndarray]:
    if frame not in FRAMES:
        raise InputError(f"no frame is called {frame!r}; there are {', '.join(FRAMES)}")
    if frame == "icrs":
        return np.asarray(ra), np.asarray(dec)
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    galactic = SkyCoord(ra * u.deg, dec * u.deg, frame="icrs").galactic
    return np.asarray(galactic.l.deg), np.asarray(galactic.b.deg)


def sky_chart(
    survey: Footprint, stars: dict[str, tuple[float, float]] | None = None, *, dark: bool = False, height: int = 420
) -> go.Figure:
    """Draw where a survey looked, and some stars.

    Parameters
    ----------
    survey : Footprint
    stars : dict of str to (float, float), optional
        Name -> right ascension and declination (degrees, ICRS).
    dark : bool
        For a dark page.
    height : int
        Pixels.
    """
    lon_name, lat_name = _AXES[survey.frame]
    ink = "#AAAAAA" if dark else "#777777"
    figure = go.Figure()
    for lines in (_meridians(), _parallels()):
        figure.add_scatter(
            x=lines[0], y=lines[1], mode="lines", line={"color": ink, "width": 0.5}, hoverinfo="skip", showlegend=False
        )
    x, y = mollweide(survey.lon, survey.lat)
    number = np.log10(survey.count)
    most = max(float(number.max(initial=0.0)), 0.5)
    figure.add_scatter(
        x=x, y=y, mode="markers", name="spectra in the database",
        marker={
            "size": 5, "symbol": "square", "color": number, "cmin": 0, "cmax": most,
            "colorscale": ON_DARK if dark else "Cividis", "opacity": 0.85,
            "colorbar": {"title": {"text": "spectra per cell (log10)", "side": "right"}, "len": 0.8, "thickness": 12},
        },
        customdata=np.stack([survey.lon, survey.lat, survey.count], axis=1),
        hovertemplate=f"{lon_name} %{{customdata[0]:.1f}}°, {lat_name} %{{customdata[1]:.1f}}°<br>"
        "%{customdata[2]} spectra<extra></extra>",
    )  # fmt: skip
    for i, (name, (ra, dec)) in enumerate((stars or {}).items()):
        lon, lat = _in_frame(np.array([ra]), np.array([dec]), survey.frame)
        at_x, at_y = mollweide(lon, lat)
        figure.add_scatter(
            x=at_x, y=at_y, mode="markers", name=name,
            marker={
                "size": 16, "symbol": "star", "color": COLOURS[1 + i % 3],
                "line": {"color": "#FFFFFF" if dark else "#000000", "width": 1.2},
            },
            hovertemplate=f"{name}<br>{lon_name} {lon[0]:.4f}°, {lat_name} {lat[0]:+.4f}°<extra></extra>",
        )  # fmt: skip
    for degrees in (-120, -60, 0, 60, 120):
        at_x, at_y = mollweide(np.array([degrees]), np.array([0.0]))
        label = {"text": f"{degrees % 360}°", "showarrow": False, "font": {"size": 10, "color": ink}, "yshift": -8}
        figure.add_annotation(x=float(at_x[0]), y=float(at_y[0]), **label)
    for degrees in (-60, -30, 30, 60):
        at_x, at_y = mollweide(np.array([180.0 - 1e-6]), np.array([float(degrees)]))
        label = {"text": f"{degrees:+d}°", "showarrow": False, "font": {"size": 10, "color": ink}, "xshift": -16}
        figure.add_annotation(x=float(at_x[0]), y=float(at_y[0]), **label)
    names = {"galactic": "Galactic longitude l, latitude b", "icrs": "right ascension, declination (ICRS)"}
    figure.update_xaxes(visible=False, range=[-2.25, 2.1])
    figure.update_yaxes(visible=False, range=[-1.08, 1.08], scaleanchor="x")
    figure.update_layout(
        height=height, margin={"l": 5, "r": 5, "t": 30, "b": 5}, dragmode=False,
        title={"text": f"{names[survey.frame]} (degrees, Mollweide)", "font": {"size": 13}},
        legend={"orientation": "h", "y": 0.0, "yanchor": "top"},
    )  # fmt: skip
    return figure


def _meridians() -> tuple[np.ndarray, np.ndarray]:
    lat = np.concatenate([np.linspace(-90, 90, 61), [np.nan]])
    lines = [mollweide(np.full(62, lon), lat) for lon in (-180 + 1e-6, -120, -60, 0, 60, 120, 180 - 1e-6)]
    return np.concatenate([x for x, _ in lines]), np.concatenate([y for _, y in lines])


def _parallels() -> tuple[np.ndarray, np.ndarray]:
    lon = np.concatenate([np.linspace(-180 + 1e-6, 180 - 1e-6, 61), [np.nan]])
    lines = [mollweide(lon, np.full(62, lat)) for lat in (-60, -30, 0, 30, 60)]
    return np.concatenate([x for x, _ in lines]), np.concatenate([y for _, y in lines])
