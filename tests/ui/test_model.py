"""Uploads within limits, errors without paths, maps reduced for the screen, the command's safety."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("streamlit")

from specdb.cli.ui import server_command
from specdb.errors import InputError, QueryError
from ui.maps import MapPoints, bin_points
from ui.model import plain_condition, safe_message, search_command, view_url
from ui.uploads import MOST_UNPACKED, check_upload


def _fits(**cards: int) -> bytes:
    facts = {"SIMPLE": "T", "BITPIX": 8, "NAXIS": 0} | cards
    text = "".join(f"{name:<8}= {value:>20}".ljust(80) for name, value in facts.items()) + "END".ljust(80)
    return text.ljust(2880).encode()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.exe", b"x", "not read here"),
        ("a.pkl", b"x", "not read here"),
        ("a.csv", b"", "empty"),
        ("a.csv", b"1" * (20 << 20) + b"1", "up to 20 MB"),
        ("a.fits.gz", b"\x1f\x8b" + b"junk" * 20, "damaged"),
        ("a.fits", b"junk" * 1000, "no end"),
        ("a.fits", _fits(NAXIS=1, NAXIS1=10**9), "promises"),
        ("a.fits", _fits(NAXIS=2, NAXIS1=10**9, NAXIS2=10**9), "promises"),
        ("a.fits", _fits(NAXIS=1, NAXIS1=-5), "absurd"),
        ("a.fits", _fits(NAXIS=10**6), "absurd"),
        ("a.npz", b"junk", "no npz"),
        ("a.parquet", b"junk", "Parquet"),
        ("a.h5", b"junk", "HDF5"),
    ],
)
def test_uploads_outside_the_limits(name: str, content: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_upload(name, content)


def test_bombs_are_not_unpacked() -> None:
    zeros = gzip.compress(bytes(MOST_UNPACKED + 1), compresslevel=9)
    with pytest.raises(InputError, match="unpacked"):
        check_upload("a.fits.gz", zeros)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flux.npy", bytes(MOST_UNPACKED + 1))
    with pytest.raises(InputError, match="unpacked"):
        check_upload("a.npz", held.getvalue())
    with pytest.raises(InputError, match="cut off"):
        check_upload("a.fits.gz", gzip.compress(_fits())[:-9])


def test_files_that_point_at_others_are_declined(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_group("deep")["flux"] = h5py.ExternalLink("/etc/hostname", "/")
    with pytest.raises(InputError, match="stands alone"):
        check_upload("a.h5", path.read_bytes())


def test_a_sound_file_passes() -> None:
    assert check_upload("x.FITS", _fits()) == ".fits"
    assert check_upload("x.csv", b"wavelength,flux\n4000,1\n") == ".csv"


def test_errors_tell_nothing_of_the_server(tmp_path: Path) -> None:
    root = tmp_path / "db"
    assert str(tmp_path) not in safe_message(QueryError(f"{root}/spectra is gone"), root)
    assert "/srv/secret" not in safe_message(QueryError("see /srv/secret/file.fits"), root)
    shown = safe_message(ValueError("/srv/secret"), root)
    assert "secret" not in shown
    assert "number" in shown


def test_conditions_hold_comparisons_only() -> None:
    assert plain_condition("  ") is None
    assert plain_condition("teff < 4500 AND class = 'STAR'") == "teff < 4500 AND class = 'STAR'"
    for bad in ("f(x) > 1", "1; DROP TABLE x", '"a" > 1', "1 -- x", "1 /* x"):
        with pytest.raises(InputError, match="comparisons"):
            plain_condition(bad)


def test_a_million_points_become_a_screenful() -> None:
    rng = np.random.default_rng(0)
    n = 1_000_000
    points = MapPoints(np.arange(n), rng.normal(size=n).astype("f4"), rng.normal(size=n).astype("f4"), {})
    cells = bin_points(points)
    assert not cells.single
    assert cells.count.sum() == cells.total == n
    assert len(cells.x) <= 128 * 128
    inside = bin_points(points, (0.0, 0.02, 0.0, 0.5), np.ones(n))
    assert inside.single
    assert (inside.x >= 0).all() and (inside.x <= 0.02).all()
    mean = bin_points(points, None, points.x.astype("f8"))
    assert mean.value is not None
    assert np.corrcoef(mean.value, mean.x)[0, 1] > 0.99


def test_addresses_and_commands() -> None:
    assert view_url("star", id=5, where=None, k=3) == "star?id=5&k=3"
    assert "--exclude-same-star" in search_command("5", "lamost_lrs", 3, None, True)


def test_the_server_listens_here_unless_told() -> None:
    here = server_command(Path("app.py"), 8501, share=False, headless=True)
    assert "--server.address=127.0.0.1" in here
    for safe in ("browser.gatherUsageStats=false", "server.enableXsrfProtection=true", "server.fileWatcherType=none"):
        assert f"--{safe}" in here
    assert "--server.address=0.0.0.0" in server_command(Path("app.py"), 8501, share=True, headless=True)
