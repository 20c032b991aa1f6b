"""DESI files: arms, masks, blank fibres, resolution, redshifts beside them, large ones, and damaged ones."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from specdb.errors import FormatError, ReadError
from specdb.spectra import Source, Spectra, get_modality
from specdb.spectra.readers import OpenSource, find_reader, opened, read_source
from specdb.spectra.readers.desi import band_width

DESI = get_modality("desi")
N = 6
ARMS = {"B": 3600 + 0.8 * np.arange(2751), "R": 5760 + 0.8 * np.arange(200)}
KINDS = ["TGT", "TGT", "SKY", "", "TGT", "TGT"]
FIBERMAP: dict[str, tuple[str, Any]] = {
    "TARGETID": ("K", [39627000000000001, 39627000000000002, -5, -6, 39627000000000005, 39627000000000006]),
    "COADD_FIBERSTATUS": ("J", [0, 8, 0, 1, 512, 0]),
    "TARGET_RA": ("D", 10.0 + np.arange(N)),
    "TARGET_DEC": ("D", np.linspace(-5, 5, N)),
    "REF_EPOCH": ("E", [2015.5, 2016, 0, 0, 2015.5, 2015.5]),
    "REF_ID": ("K", [1234567890123456789, 2345678901234567890, 0, 0, 77, 1111]),
    "REF_CAT": ("2A", ["G2", "GE", "", "", "T2", "G2"]),
    "OBJTYPE": ("3A", KINDS),
    "GAIA_PHOT_G_MEAN_MAG": ("E", [16.5, 17.0, 0, 0, 18, 0]),
}
SPREAD = 1.1  # pixels


def bands(n: int, n_pix: int, spread: float = SPREAD) -> np.ndarray:
    """Resolution matrices of discrete Gaussians; without light in the first and the last row."""
    from scipy.special import ive

    kernel = ive(np.abs(np.arange(-5, 6)), spread**2)
    return np.broadcast_to((kernel / kernel.sum())[None, :, None], (n, 11, n_pix)).astype(np.float32)


def coadd(change: Callable[[fits.HDUList], None] | None = None, table: dict[str, tuple[str, Any]] = FIBERMAP) -> bytes:
    """The bytes of a coadd file."""
    rng = np.random.default_rng(5)
    primary = fits.PrimaryHDU()
    primary.header["DEPNAM18"], primary.header["DEPVER18"] = "SPECPROD", "iron"
    columns = [fits.Column(name, form, array=np.array(values)) for name, (form, values) in table.items()]
    hdus = fits.HDUList([primary, fits.BinTableHDU.from_columns(columns, name="FIBERMAP")])
    for arm, wavelength in ARMS.items():
        flux = 5 + np.sin(wavelength / 40) + 0.05 * rng.standard_normal((N, len(wavelength)))
        ivar = np.full(flux.shape, 400.0, np.float32)
        ivar[3:5] = 0  # nothing on the fibre; a target without a good exposure
        mask = np.zeros(flux.shape, np.uint32)
        images = {"WAVELENGTH": wavelength.copy(), "FLUX": flux.astype(np.float32), "IVAR": ivar, "MASK": mask}
        images["RESOLUTION"] = bands(N, len(wavelength))
        for name, values in images.items():
            hdus.append(fits.ImageHDU(values, name=f"{arm}_{name}"))
        hdus[f"{arm}_WAVELENGTH"].header["BUNIT"] = "Angstrom"
    exposures = {"TARGETID": ("K", [39627000000000001] * 2 + [39627000000000002]), "MJD": ("D", [59000.0, 59010.0, 59020.0])}
    columns = [fits.Column(name, form, array=np.array(values)) for name, (form, values) in exposures.items()]
    hdus.append(fits.BinTableHDU.from_columns(columns, name="EXP_FIBERMAP"))
    hdus.append(
        fits.BinTableHDU.from_columns([fits.Column("MEDIAN_COADD_SNR_B", "E", array=np.full(N, 9.5))], name="SCORES")
    )
    if change:
        change(hdus)
    out = io.BytesIO()
    hdus.writeto(out)
    return out.getvalue()


def read(content: bytes | None = None, path: Path = Path("coadd-x.fits")) -> list[Spectra]:
    return list(read_source(Source(path, content=content), DESI.readers))


def test_rows_state_what_the_tables_say() -> None:
    (spectra,) = read(coadd())
    rows = spectra.metadata.to_pylist()
    assert [row["spectrum_id"] for row in rows] == FIBERMAP["TARGETID"][1] == [row["target_id"] for row in rows]
    assert [row["fiber_type"] for row in rows] == ["TGT", "TGT", "SKY", "BLANK", "BLANK", "TGT"]
    assert [row["gaia_source_id"] for row in rows] == [None, 2345678901234567890, None, None, None, None]
    assert [row["gaia_dr2_source_id"] for row in rows] == [1234567890123456789, None, None, None, None, 1111]
    assert [row["epoch"] for row in rows] == [2015.5, 2016, None, None, 2015.5, 2015.5]
    assert [row["mjd"] for row in rows][:3] == [59005, 59020, None]
    assert rows[0]["phot_g_mean_mag"] == 16.5
    assert rows[5]["phot_g_mean_mag"] is None
    assert (rows[1]["ra"], rows[1]["fiber_status"], rows[1]["snr_arm_b"]) == (11, 8, 9.5)
    assert (rows[0]["release"], rows[0]["survey"], rows[0]["object_name"]) == ("DESI DR1", "DESI", "DESI 39627000000000001")
    assert rows[0]["class"] is None


def test_blank_fibres_are_skipped_and_counted() -> None:
    (spectra,) = read(coadd())
    prepared = DESI.preparation([spectra])
    assert prepared.rows.tolist() == [0, 1, 5]
    assert [(r.row, r.reason) for r in prepared.rejections] == [(row, "blank_fibre") for row in (2, 3, 4)]
    assert "on the sky" in prepared.rejections[0].detail
    assert "no target on the fibre" in prepared.rejections[1].detail
    assert prepared.quality.tolist() == [0, 0, 0]


def test_arms_are_combined_where_they_overlap() -> None:
    def differ(hdus: fits.HDUList) -> None:
        hdus["B_FLUX"].data[0, -51:], hdus["R_FLUX"].data[0, :51] = 2, 8
        hdus["B_IVAR"].data[0, -51:], hdus["R_IVAR"].data[0, :51] = 3, 1
        hdus["B_MASK"].data[0, -20] = 2
        hdus["R_RESOLUTION"].data[:] = bands(N, 200, 0.7)

    (spectra,) = read(coadd(differ))
    overlap = (spectra.wavelength > 5759.9) & (spectra.wavelength < 5800.1)
    assert overlap.sum() == 51
    assert len(spectra.wavelength) == 2751 + 200 - 51
    masked = np.arange(51) == 31
    np.testing.assert_allclose(spectra.flux[0, overlap], np.where(masked, 8, 3.5))
    np.testing.assert_allclose(spectra.ivar[0, overlap], np.where(masked, 1, 4))
    wanted = np.sqrt((3 * SPREAD**2 + 0.7**2) / 4) * 0.8
    np.testing.assert_allclose(spectra.lsf_sigma[0, overlap][~masked], wanted, rtol=2e-3)
    assert (spectra.and_mask[0, overlap] == 0).all()
    assert spectra.or_mask[0, overlap][31] == 2


def test_masked_pixels_have_no_weight_and_the_matrix_gives_the_width() -> None:
    def spoil(hdus: fits.HDUList) -> None:
        hdus["B_FLUX"].data[0, 1000], hdus["B_MASK"].data[0, 1000] = 1e5, 1 << 31
        hdus["B_FLUX"].data[1, 1200] = np.nan

    (spectra,) = read(coadd(spoil))
    assert spectra.ivar[0, 1000] == spectra.ivar[1, 1200] == 0
    assert spectra.and_mask[0, 1000] != 0
    np.testing.assert_allclose(np.median(spectra.lsf_sigma[0]), SPREAD * 0.8, rtol=2e-3)
    prepared = DESI.preparation([spectra])
    assert (prepared.n_repaired[:2] > 0).all()
    assert (prepared.n_repaired[:2] < 9).all()
    assert prepared.flux.max() < 2


def test_width_of_a_band_is_its_second_moment() -> None:
    matrix = np.zeros((2, 5, 3), np.float32)
    matrix[0, 2] = 1  # a delta function
    matrix[0, [1, 3], 1] = 1
    assert band_width(matrix).tolist() == [[0, pytest.approx(np.sqrt(2 / 3)), 0], [0, 0, 0]]


def test_single_exposures_of_one_target_stay_apart() -> None:
    table = FIBERMAP | {
        "EXPID": ("J", np.arange(N)),
        "TARGETID": ("K", [7, 7, -5, -6, 7, 7]),
        "MJD": ("D", 59000.0 + np.arange(N)),
    }
    (spectra,) = read(coadd(table=table))
    rows = spectra.metadata.to_pylist()
    assert rows[1]["target_id"] == 7
    assert (rows[1]["exposure_id"], rows[1]["mjd"]) == (1, 59001)
    assert len({row["spectrum_id"] for row in rows if row["fiber_type"] == "TGT"}) == 3
    assert min(row["spectrum_id"] for row in rows) >= 2**62


def test_redshifts_come_from_the_file_beside(tmp_path: Path) -> None:
    path = tmp_path / "coadd-main-bright-7.fits"
    path.write_bytes(coadd())
    columns = {
        "TARGETID": ("K", [39627000000000002, 39627000000000001]),
        "SPECTYPE": ("6A", ["GALAXY", "STAR"]),
        "SUBTYPE": ("6A", ["", "G"]),
        "Z": ("D", [0.1, -1e-4]),
        "ZERR": ("D", [1e-5, 1e-6]),
        "ZWARN": ("K", [4, 0]),
    }
    beside = tmp_path / "redrock-main-bright-7.fits"
    table = [fits.Column(name, form, array=np.array(values)) for name, (form, values) in columns.items()]
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(table, name="REDSHIFTS")]).writeto(beside)
    rows = read(path=path)[0].metadata.to_pylist()
    assert [(row["class"], row["subclass"], row["z"], row["zwarning"]) for row in rows[:3]] == [
        ("STAR", "G", -1e-4, 0),
        ("GALAXY", None, 0.1, 4),
        (None, None, None, None),
    ]
    beside.write_bytes(b"no table")
    with pytest.raises(ReadError, match=r"redrock-main-bright-7.fits beside it cannot be read .* move it away"):
        read(path=path)


@pytest.mark.parametrize("zipped", [False, True])
def test_large_files_are_read_piece_by_piece(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"coadd-x.fits{'.gz' if zipped else ''}"
    path.write_bytes(gzip.compress(coadd(), 1) if zipped else coadd())
    (small,) = read(path=path)
    monkeypatch.setattr(opened, "_IN_MEMORY", 1000)
    monkeypatch.setattr("specdb.spectra.readers.desi._ROWS", 4)
    source = OpenSource(Source(path))
    pieces = list(find_reader(source, DESI.readers).read(source))
    assert [len(piece) for piece in pieces] == [4, 2]
    assert "data" not in source.__dict__  # never held as a whole
    np.testing.assert_array_equal(np.concatenate([piece.flux for piece in pieces]), small.flux)
    assert pieces[1].metadata["target_id"].to_pylist() == small.metadata["target_id"].to_pylist()[4:]
    with pytest.raises(FormatError, match="this is a DESI file"):
        find_reader(OpenSource(Source(path, named=False)), ("lamost", "sdss"))
    if not zipped:
        path.write_bytes(coadd()[:-300000])
        with pytest.raises(ReadError, match="truncated"):
            read(path=path)


def without(*names: str) -> Callable[[fits.HDUList], None]:
    def change(hdus: fits.HDUList) -> None:
        for name in names:
            del hdus[name]

    return change


def test_masks_resolution_and_scores_are_not_needed() -> None:
    (spectra,) = read(coadd(without("B_MASK", "R_MASK", "B_RESOLUTION", "R_RESOLUTION", "SCORES", "EXP_FIBERMAP")))
    assert spectra.lsf_sigma is None
    assert len(DESI.preparation([spectra])) == 3
    assert spectra.metadata["mjd"].null_count == N


def compressed(hdus: fits.HDUList) -> None:
    mask = hdus["B_MASK"].data.astype(np.int32)
    mask[0, 100] = 4
    hdus["B_MASK"] = fits.CompImageHDU(mask, name="B_MASK")


def test_masks_may_be_compressed() -> None:
    (spectra,) = read(coadd(compressed))
    assert spectra.ivar[0, 100] == 0
    assert spectra.ivar[0, 101] > 0


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        (without("FIBERMAP"), "missing_column", "no FIBERMAP"),
        (without("R_IVAR"), "missing_column", "R_FLUX but no R_IVAR"),
        (lambda hdus: hdus["B_WAVELENGTH"].header.set("BUNIT", "nm"), "bad_wavelength", "B_WAVELENGTH is in nm in vacuum"),
        (lambda hdus: hdus["R_WAVELENGTH"].header.set("AIRORVAC", "air"), "bad_wavelength", "in Angstrom in air"),
        (lambda hdus: hdus["R_WAVELENGTH"].data.__iadd__(0.3), "bad_wavelength", "not those of the arm beside it"),
        (lambda hdus: hdus["B_WAVELENGTH"].data.__imul__(-1), "bad_wavelength", "are not increasing"),
        (lambda hdus: setattr(hdus["B_IVAR"], "data", np.ones((N, 9), np.float32)), "corrupt", "arm B has fluxes"),
        (lambda hdus: hdus["FIBERMAP"].columns.change_name("TARGETID", "ID"), "missing_column", "no TARGETID"),
    ],
)
def test_damage_has_a_reason(change: Callable[[fits.HDUList], None], reason: str, text: str) -> None:
    with pytest.raises(ReadError, match=text) as caught:
        read(coadd(change))
    assert caught.value.reason == reason


def test_cut_and_foreign_files() -> None:
    with pytest.raises(ReadError, match="truncated"):
        read(coadd()[:200000])
    with pytest.raises(ReadError, match="truncated"):
        read(gzip.compress(coadd(), 1)[:50000])
    out = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("loglam", "E", array=np.ones(9))])]).writeto(
        out
    )
    with pytest.raises(FormatError, match="this is an SDSS spectrum") as caught:
        find_reader(OpenSource(Source(Path("x.fits"), content=out.getvalue(), named=False)), DESI.readers)
    assert caught.value.reason == "other_instrument"
    with pytest.raises(FormatError, match="begins with 'SIMPLE"):
        find_reader(OpenSource(Source(Path("x.fits"), content=b"nothing", named=False)), DESI.readers)


@pytest.mark.shared
def test_a_real_coadd(shared: Path) -> None:
    (path,) = (shared / "desi_edr_format").glob("*.fits.gz")
    (spectra,) = read(path=path)
    assert spectra.flux.shape == (5, 7781)
    rows = spectra.metadata.to_pylist()
    assert [row["fiber_type"] for row in rows] == ["BLANK"] * 4 + ["TGT"]
    assert (rows[4]["release"], rows[4]["tile_id"], rows[4]["n_exposures"]) == ("DESI EDR", 169, 2)
    at = np.searchsorted(spectra.wavelength, [4000, 5000, 7000, 9500])
    resolution = spectra.wavelength[at] / (2.3548 * spectra.lsf_sigma[4, at])
    np.testing.assert_allclose(resolution, [2490, 3210, 4650, 5510], rtol=0.02)
    prepared = DESI.preparation([spectra])
    assert [r.reason for r in prepared.rejections] == ["blank_fibre"] * 4 + ["low_snr"]
