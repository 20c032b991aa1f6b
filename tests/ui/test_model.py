"""Errors without paths, maps reduced for the screen, the sky, reports side by side, the command's safety."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("streamlit")

from specdb.cli.ui import server_command
from specdb.errors import InputError, QueryError
from specdb.plots.sky import sky_map
from specdb.store import Store
from ui.maps import MapPoints, bin_points
from ui.model import plain_condition, safe_message, search_command, view_url
from ui.reports import compare_reports, read_report, stored_reports
from ui.sky import footprint, mollweide, sky_chart


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
    assert len(cells.x) <= 100 * 100
    inside = bin_points(points, (0.0, 0.02, 0.0, 0.5), np.ones(n))
    assert inside.single
    assert (inside.x >= 0).all() and (inside.x <= 0.02).all()
    mean = bin_points(points, None, points.x.astype("f8"))
    assert mean.value is not None
    assert np.corrcoef(mean.value, mean.x)[0, 1] > 0.99


def test_points_among_ids_and_their_places() -> None:
    points = MapPoints(np.array([3, 5, 9]), np.array([0.0, 1.0, 2.0], "f4"), np.array([0.0, 1.0, 4.0], "f4"), {})
    assert points.among(np.array([9, 4, 3, 100])).tolist() == [True, False, True]
    assert points.place(9) == (2.0, 4.0)
    assert points.place(4) is None
    some = bin_points(points, mask=np.array([True, False, True]))
    assert some.ids.tolist() == [3, 9]
    n = 10_000
    many = MapPoints(np.arange(n), np.linspace(0, 100, n, dtype="f4"), np.linspace(0, 100, n, dtype="f4"), {})
    cells = bin_points(many)
    x0, x1, y0, y1 = cells.window(5, widths=2)
    assert x1 - x0 == pytest.approx(2.0)
    assert y0 < cells.y[5] < y1


def test_the_whole_sky_is_projected_with_equal_areas() -> None:
    x, y = mollweide(np.array([0.0, 180 - 1e-9, 90, 0, 0]), np.array([0.0, 0, 0, 90, -90]))
    assert x == pytest.approx([0, -2, -1, 0, 0], abs=1e-6)  # longitude grows to the left
    assert y == pytest.approx([0, 0, 0, 1, -1], abs=1e-6)
    # Half of each hemisphere lies below 30 degrees, and so half of the area of its half of the ellipse.
    edge = float(mollweide(np.array([0.0]), np.array([30.0]))[1][0])
    assert 2 / np.pi * (edge * np.sqrt(1 - edge**2) + np.arcsin(edge)) == pytest.approx(0.5, abs=1e-6)


def test_the_footprint_and_a_star_are_drawn_in_both_frames() -> None:
    cells = sky_map(np.array([10.0, 10.1, 200.0]), np.array([5.0, 5.1, -40.0]), level=4, statistic="count")
    for frame in ("galactic", "icrs"):
        where = footprint(cells, frame)
        assert sorted(where.count.tolist()) == [1, 2]
        chart = sky_chart(where, {"mine": (266.405, -28.936)})
        assert chart.data[-1].name == "mine"
        if frame == "galactic":  # the centre of the Galaxy
            assert np.hypot(chart.data[-1].x[0], chart.data[-1].y[0]) < 0.01
    with pytest.raises(InputError, match="no frame"):
        footprint(cells, "ecliptic")


REPORT = {
    "encoder": "mini", "weight_hash": "ab" * 32, "judged_stars": "some",
    "sections": {
        "retrieval": {"mini": {"recall": [{"k": 1, "value": 0.9}]}, "pixels": {"recall": [{"k": 1, "value": 0.5}]}},
        "labels": {"real": {"pixels": {"teff": {"sigma": 200}}, "mini": {"teff": {"sigma": 100, "bins": [1, 2]}}}},
    },
}  # fmt: skip


def test_reports_stand_side_by_side() -> None:
    first = read_report(json.dumps(REPORT).encode())
    other = json.loads(json.dumps(REPORT).replace('"mini"', '"large"').replace("0.9", "0.95"))
    tables = compare_reports({"a": first, "b": read_report(json.dumps(other).encode())})
    assert tables["retrieval"] == [{"figure": "recall@1", "a": 0.9, "b": 0.95, "pixels": 0.5}]
    assert tables["labels"] == [{"figure": "real · teff · sigma", "a": 100, "b": 100, "pixels": 200}]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"encoder": 1, "sections": 5}', b"[" * 100_000])
def test_what_is_no_report_is_said(content: bytes) -> None:
    with pytest.raises(InputError, match="no report"):
        read_report(content)


def test_reports_of_a_database_are_found_and_large_ones_declined(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "db", "mini")
    assert stored_reports(store) == {}
    for name, text in (("good", json.dumps(REPORT)), ("bad", "{")):
        folder = store.root / "evaluations" / name
        folder.mkdir(parents=True)
        (folder / "evaluation.json").write_text(text)
    assert list(stored_reports(store)) == ["good"]
    with pytest.raises(InputError, match="up to 2 MB"):
        read_report(b" " * ((2 << 20) + 1))


def test_addresses_and_commands() -> None:
    assert view_url("star", id=5, where=None, k=3) == "star?id=5&k=3"
    assert "--exclude-same-star" in search_command("5", "lamost_lrs", 3, None, True)


def test_the_server_listens_here_unless_told() -> None:
    here = server_command(Path("app.py"), 8501, share=False, headless=True)
    assert "--server.address=127.0.0.1" in here
    for safe in ("browser.gatherUsageStats=false", "server.enableXsrfProtection=true", "server.fileWatcherType=none"):
        assert f"--{safe}" in here
    assert "--server.address=0.0.0.0" in server_command(Path("app.py"), 8501, share=True, headless=True)
