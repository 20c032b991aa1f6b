"""HATS catalogues in: cell by cell, only the cells in question, across their edges; and against lsdb."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.coordinates import SkyCoord
from astropy_healpix import boundaries_lonlat, healpix_to_lonlat, lonlat_to_healpix

from specdb.catalog import add_labels, run_sql
from specdb.catalog.files import open_catalogue
from specdb.catalog.hats import Cell, cell_radius_rad
from specdb.catalog.matches import PositionKey, Positions
from specdb.catalog.nearby import NearbyRows
from specdb.catalog.sphere import best, within
from specdb.errors import InputError
from specdb.export.hats import save_hats
from specdb.store import Store
from tests.catalog.small_store import N, commit, rows, sky

DEG = {"unit": "deg"}


def write_hats(folder: Path, table: pa.Table, order: int = 2) -> Path:
    """Write a HATS catalogue of one order by hand, in a collection; one cell is a folder of two files."""
    cells = lonlat_to_healpix(table["ra"].to_numpy() * u.deg, table["dec"].to_numpy() * u.deg, 1 << order, order="nested")
    dataset = folder / "main" / "dataset"
    for number, cell in enumerate(np.unique(cells)):
        path = dataset / f"Norder={order}" / "Dir=0" / f"Npix={cell}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = table.filter(pa.array(cells == cell))
        plain = part.replace_schema_metadata(None).append_column("_healpix_29", pa.array(np.zeros(len(part), np.int64)))
        if number == 0:
            path = path.with_suffix("")
            path.mkdir()
            pq.write_table(plain.slice(0, 1), path / "part0.parquet")
            pq.write_table(plain.slice(1), path / "part1.parquet")
        else:
            pq.write_table(plain, path)
    pq.write_metadata(table.schema, dataset / "_common_metadata")
    (folder / "collection.properties").write_text("#HATS Collection\nobs_collection=x\nhats_primary_table_url=main\n")
    facts = "dataproduct_type=object\nhats_col_ra=ra\nhats_col_dec=dec\nhats_version=v1.0\n"
    (folder / "main" / "hats.properties").write_text(facts)
    return folder


def stars(n: int = 3000, seed: int = 1) -> pa.Table:
    """Return the small database's stars 0.5 arcsec to the north, and others all over the sky."""
    rng = np.random.default_rng(seed)
    ra, dec = sky()
    north = np.where(dec + 0.5 / 3600 > 90, -1, 1) * 0.5 / 3600
    ra = np.concatenate([ra, rng.uniform(0, 360, n)])
    dec = np.concatenate([dec + north, np.degrees(np.arcsin(rng.uniform(-1, 1, n)))])
    schema = pa.schema([
        pa.field("source_id", pa.int64()), pa.field("ra", pa.float64(), metadata=DEG),
        pa.field("dec", pa.float64(), metadata=DEG),
        pa.field("g", pa.float32(), metadata={"unit": "mag", "ucd": "phot.mag;em.opt"}),
    ])  # fmt: skip
    values = [2**60 + np.arange(n + N), ra, dec, rng.normal(15, 1, n + N).astype(np.float32)]
    return pa.Table.from_arrays([pa.array(v) for v in values], schema=schema)


@pytest.mark.parametrize("nearby", [False, True])
def test_a_hats_catalogue_matches_by_its_own_positions(fresh: Store, tmp_path: Path, nearby: bool) -> None:
    folder = write_hats(tmp_path / "gaia", stars())
    report = add_labels(fresh, folder, "gaia", nearby=nearby)
    assert (report.matched.rows, report.matched.spectra, report.ambiguous) == (N, 2 * N, 4)  # two stars at RA 0
    assert report.card.rows == 3000 + N == report.card.stored + report.card.far
    assert (report.card.far > 2900) is nearby
    assert report.expected_false == 0
    assert report.separation_arcsec["max"] == pytest.approx(0.5, abs=1e-3)
    found = run_sql(fresh, "SELECT spectrum_id, source_id, g FROM gaia WHERE spectrum_id < 2000 ORDER BY 1")
    assert found["source_id"].to_pylist() == [2**60 + i for i in range(N)]
    assert found.schema.field("g").metadata[b"ucd"] == b"phot.mag;em.opt"


def test_only_cells_near_spectra_are_read(fresh: Store, tmp_path: Path) -> None:
    folder = write_hats(tmp_path / "gaia", stars(800), order=3)
    for path in (folder / "main" / "dataset").rglob("*.parquet"):
        table = pq.read_table(path)
        distance = SkyCoord(table["ra"], table["dec"], unit="deg")[:, None].separation(SkyCoord(*sky(), unit="deg"))
        if distance.deg.min() > 15:  # twice the size of a cell
            pq.write_table(table.drop_columns("g"), path)  # reading it is an error now
    with pytest.raises(InputError, match="has no column g"):
        add_labels(fresh, folder, "gaia")
    report = add_labels(fresh, folder, "gaia", nearby=True)
    assert (report.matched.spectra, report.card.rows) == (2 * N, 800 + N)


def test_ids_tie_a_hats_catalogue_too(fresh: Store, tmp_path: Path) -> None:
    table = stars()
    ids = np.concatenate([1001 + np.arange(N), 10**6 + np.arange(3000)])
    folder = write_hats(tmp_path / "lasp", table.append_column("obsid", pa.array(ids)))
    report = add_labels(fresh, folder, "lasp", id="obsid")
    assert report.matched.spectra == N
    with pytest.raises(InputError, match="--nearby goes with --position"):
        add_labels(fresh, folder, "other", id="obsid", nearby=True)


def test_spectra_that_come_later_make_it_outdated(fresh: Store, tmp_path: Path) -> None:
    from specdb.catalog import describe_labels
    from specdb.spectra import get_modality

    add_labels(fresh, write_hats(tmp_path / "gaia", stars()), "gaia", nearby=True)
    assert describe_labels(fresh, "gaia")[0].outdated is False
    commit(fresh, get_modality("lamost_lrs"), rows(get_modality("lamost_lrs"), np.array([5000]), ra=[1.0], dec=[2.0]), 9)
    assert describe_labels(fresh, "gaia")[0].facts()["outdated"] is True


def test_nearby_works_on_files_and_says_when_nothing_is_near(fresh: Store, tmp_path: Path) -> None:
    pq.write_table(stars(), tmp_path / "gaia.parquet")
    report = add_labels(fresh, tmp_path / "gaia.parquet", "gaia", position=("ra", "dec"), nearby=True)
    assert report.matched.spectra == 2 * N
    assert report.card.stored < N + 10
    far = stars().slice(N)
    far = far.set_column(1, "ra", pa.array(np.full(3000, 90.0))).set_column(2, "dec", pa.array(np.full(3000, 1.0)))
    pq.write_table(far, tmp_path / "far.parquet")
    with pytest.raises(
        InputError, match=r"far.parquet has 3000 rows, but none near a spectrum; are its positions in degrees"
    ):
        add_labels(fresh, tmp_path / "far.parquet", "far", position=("ra", "dec"), nearby=True)


@pytest.mark.parametrize("order", [0, 1, 3, 6])
def test_no_corner_of_a_cell_is_farther_than_its_radius(order: int) -> None:
    nside = 1 << order
    pixels = np.unique(np.random.default_rng(0).integers(0, 12 * nside**2, 500))
    centre = SkyCoord(*healpix_to_lonlat(pixels, nside, order="nested"))
    edge = SkyCoord(*boundaries_lonlat(pixels, 8, nside, order="nested"))
    largest = centre[:, None].separation(edge).rad.max()
    assert 0.9 * cell_radius_rad(order) < largest <= cell_radius_rad(order) * (1 + 1e-12)


@pytest.mark.parametrize("moving", [False, True])
def test_partners_across_the_edges_of_cells_are_found(tmp_path: Path, moving: bool) -> None:
    # Stars on the edges of cells, and their partners beyond: moved there in 16 years, or scattered.
    rng = np.random.default_rng(3)
    nside, pixels = 8, rng.integers(0, 768, 100)
    edge = SkyCoord(*boundaries_lonlat(pixels, 1, nside, order="nested")).ravel()
    angles = rng.uniform(0, 360, len(edge)) * u.deg
    partner = edge.directional_offset_by(angles, (160.0 if moving else 1.9) * u.arcsec)
    n = len(edge)
    # From the partner's position, at epoch 2000, the star moves back to the edge until 2016.
    back = partner.position_angle(edge).rad
    pm = 160_000 / 16
    table = pa.table(
        {
            "ra": partner.ra.deg,
            "dec": partner.dec.deg,
            "pmra": pm * np.sin(back),
            "pmdec": pm * np.cos(back),
            "star": range(n),
        }
    )
    source = open_catalogue(write_hats(tmp_path / "hats", table, order=3))
    spectra = Positions(np.arange(n), edge.ra.deg, edge.dec.deg, np.full(n, 2016.0), np.ones(n))
    key = PositionKey("ra", "dec", 2.0, 2000.0, ("pmra", "pmdec")) if moving else PositionKey("ra", "dec", 2.0)
    near = NearbyRows(source, spectra, key)
    found = pa.Table.from_batches(near.source.batches(), near.source.schema)
    assert sorted(found["star"].to_pylist()) == list(range(n))


def test_folders_that_are_no_catalogue(fresh: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder without collection.properties or hats.properties"):
        add_labels(fresh, tmp_path, "x", id="a")
    folder = write_hats(tmp_path / "gaia", stars())
    properties = folder / "main" / "hats.properties"
    good = properties.read_text()
    properties.write_text(good.replace("object", "margin"))
    with pytest.raises(InputError, match="is a HATS margin, not a catalogue; name the folder of the catalogue"):
        add_labels(fresh, folder, "x")
    properties.write_text(good)
    victim = next((folder / "main" / "dataset").rglob("Npix=*.parquet"))
    pq.write_table(pq.read_table(victim).drop_columns("g"), victim)
    with pytest.raises(InputError, match="has no column g, which the catalogue's schema names"):
        add_labels(fresh, folder, "x")
    victim.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"cannot be read: .*; the catalogue is damaged or incomplete"):
        add_labels(fresh, folder, "x")
    (folder / "main" / "dataset" / "_common_metadata").write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read"):
        add_labels(fresh, folder, "x")
    for path in (folder / "main" / "dataset").glob("Norder*"):
        path.rename(path.with_name("elsewhere"))
    with pytest.raises(InputError, match="is a HATS catalogue without rows"):
        add_labels(fresh, folder, "x")


def test_cells_hold_their_files(tmp_path: Path) -> None:
    source = open_catalogue(write_hats(tmp_path / "gaia", stars(200)))
    assert source.narrowed is not None
    seen: list[Cell] = []

    def first(cells: tuple[Cell, ...]) -> np.ndarray:
        seen.extend(cells)
        return np.arange(len(cells)) == 0

    narrow = source.narrowed(first)
    assert [path.name for path in narrow.files] == ["part0.parquet", "part1.parquet"]
    assert seen[0].order == 2
    assert narrow.fingerprint() != source.fingerprint()


@pytest.mark.slow
def test_what_we_export_comes_back_in_with_units(fresh: Store, tmp_path: Path) -> None:
    pytest.importorskip("lsdb")
    save_hats(stars(), tmp_path / "hats", "gaia", partition_rows=1500)
    report = add_labels(fresh, tmp_path / "hats", "gaia", nearby=True)
    assert (report.matched.rows, report.card.rows) == (N, 3000 + N)
    schema = run_sql(fresh, "SELECT g FROM gaia").schema
    assert schema.field("g").metadata == {b"unit": b"mag", b"ucd": b"phot.mag;em.opt"}


@pytest.mark.slow
def test_matches_are_those_of_lsdb(tmp_path: Path) -> None:
    # Crowded at a pole, around RA 0 and at edges of cells, with a margin in lsdb that exceeds the radius.
    lsdb = pytest.importorskip("lsdb")
    rng = np.random.default_rng(7)
    n = 2000
    ra, dec = rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))
    dec[:300] = 90 - rng.exponential(0.003, 300)
    ra[300:600], dec[300:600] = rng.normal(0, 0.003, 300) % 360, rng.normal(0, 0.003, 300)
    corner = SkyCoord(*boundaries_lonlat(rng.integers(0, 48, 75), 1, 2, order="nested")).ravel()
    ra[600:900], dec[600:900] = corner.ra.deg, corner.dec.deg
    moved = SkyCoord(ra, dec, unit="deg").directional_offset_by(
        rng.uniform(0, 360, n) * u.deg, np.abs(rng.normal(0, 1.5, n)) * u.arcsec
    )
    left = pa.table({"ra": ra, "dec": dec, "one": np.arange(n)})
    right = pa.table({"ra": moved.ra.deg, "dec": moved.dec.deg, "other": np.arange(n)})
    for name, table in (("left", left), ("right", right)):
        save_hats(table, tmp_path / name, name, partition_rows=800)
    catalogues = [lsdb.open_catalog(tmp_path / name) for name in ("left", "right")]
    both = catalogues[0].crossmatch(catalogues[1], radius_arcsec=3.0, n_neighbors=1, suffixes=("_1", "_2")).compute()
    theirs = dict(zip(both.filter(regex="^one").iloc[:, 0], both.filter(regex="^other").iloc[:, 0], strict=True))
    pairs = best(within(ra, dec, moved.ra.deg, moved.dec.deg, 3.0))
    assert dict(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == theirs
