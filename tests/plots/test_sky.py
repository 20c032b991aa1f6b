"""Maps of the sky."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from specdb.cli import cli
from specdb.errors import DependencyError, InputError
from specdb.export.moc import save_moc
from specdb.plots.sky import plot_sky, sky_map
from tests.heads.conftest import make_database, make_stars

RNG = np.random.default_rng(0)
RA, DEC = RNG.uniform(0, 360, 5000), np.degrees(np.arcsin(RNG.uniform(-1, 1, 5000)))
VALUE = RNG.normal(size=5000)


@pytest.mark.parametrize(
    ("statistic", "function"),
    [
        ("median", np.median),
        ("mean", np.mean),
        ("min", np.min),
        ("max", np.max),
        ("count", len),
        ("scatter", lambda v: 1.4826 * np.median(np.abs(v - np.median(v)))),
    ],
)
def test_statistics_are_those_of_each_cell(statistic: str, function) -> None:
    from astropy import units as u
    from astropy_healpix import HEALPix

    sky = sky_map(RA, DEC, VALUE, level=2, statistic=statistic)
    cells = HEALPix(4, "nested").lonlat_to_healpix(RA * u.deg, DEC * u.deg)
    assert sky.count.sum() == 5000
    expected = [function(VALUE[cells == c]) for c in sky.cell]
    np.testing.assert_allclose(sky.value, expected)


def test_rows_without_position_or_value_and_thin_cells_are_left_out() -> None:
    ra, value = RA.copy(), VALUE.copy()
    ra[:10], value[10:30] = np.nan, np.nan
    assert sky_map(ra, DEC, value, level=1).count.sum() == 4970
    thin = sky_map(RA[:60], DEC[:60], VALUE[:60], level=2, least=2)
    assert (thin.count >= 2).all()
    density = sky_map(RA, DEC, level=0, statistic="density")
    assert density.value.mean() == pytest.approx(5000 / 41252.96, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistic": "mode"}, "no statistic is called 'mode'; there are count, density"),
        ({"level": 12}, "the HEALPix level is 12; give one from 0 to 11"),
        ({"value": None}, "the median of what"),
        ({"value": np.full(5000, np.nan)}, "no star has both a position and a value"),
    ],
)
def test_questions_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sky_map(RA, DEC, **({"value": VALUE} | options))


@pytest.mark.parametrize("frame", ["galactic", "icrs"])
def test_colours_lie_where_the_stars_are(frame: str) -> None:
    from astropy.coordinates import SkyCoord

    north = SkyCoord(RA, DEC, unit="deg").galactic.b.deg > 0 if frame == "galactic" else DEC > 0
    figure = plot_sky(sky_map(RA[north], DEC[north], VALUE[north], level=2), "x", frame=frame)
    image = np.ma.filled(figure.axes[0].collections[0].get_array(), np.nan).reshape(720, 1440)
    assert np.isfinite(image[480:]).mean() > 0.95  # the upper third
    assert np.isfinite(image[:240]).mean() < 0.05
    with pytest.raises(InputError, match="no frame is called 'ecliptic'"):
        plot_sky(sky_map(RA, DEC, VALUE), "x", frame="ecliptic")


def test_coverage_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mocpy import MOC

    sky = sky_map(RA[:50], DEC[:50], level=4, statistic="count")
    save_moc(sky.cell, sky.level, tmp_path / "c.fits")
    moc = MOC.from_fits(tmp_path / "c.fits")
    assert moc.sky_fraction == pytest.approx(len(sky.cell) / (12 * 4**4))
    monkeypatch.setitem(sys.modules, "mocpy", None)
    with pytest.raises(DependencyError, match="need mocpy"):
        save_moc(sky.cell, sky.level, tmp_path / "d.fits")


def test_the_verb_maps_metadata_with_a_condition(tmp_path: Path) -> None:
    make_database(tmp_path / "db", make_stars(60))
    arguments = ["map", "--db", str(tmp_path / "db"), "-o", str(tmp_path / "m.png"), "--modality", "toy"]
    done = CliRunner().invoke(cli, [*arguments, "--value", "snr", "--where", "ra > 2", "--moc", str(tmp_path / "m.fits")])
    assert done.exit_code == 0, done.output
    assert "stars in" in done.output and (tmp_path / "m.png").stat().st_size > 10_000
    assert (tmp_path / "m.fits").exists()
    plane = ["map", "plane", "snr", "ra", "--value", "dec", "--modality", "toy", "--db", str(tmp_path / "db")]
    done = CliRunner().invoke(cli, [*plane, "-o", str(tmp_path / "p.svg")])
    assert done.exit_code == 0, done.output
    assert b"<svg" in (tmp_path / "p.svg").read_bytes()[:500]
    assert "no column 'feh'" in CliRunner().invoke(cli, [*arguments, "--value", "feh"]).output
    assert "--modality" in CliRunner().invoke(cli, [*arguments[:-1], "nowhere"]).output
