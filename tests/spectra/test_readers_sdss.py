"""SDSS spec files: the layouts of SDSS, BOSS and SDSS-V, what they state, and what is wrong with damaged ones."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from specdb.errors import FormatError, ReadError
from specdb.spectra import Source, Spectra, get_modality
from specdb.spectra.readers import OpenSource, find_reader, read_source
from specdb.spectra.readers.sdss import specobjid

SDSS = get_modality("sdss")
N = 3850
FACTS: dict[str, tuple[str, Any]] = {
    "SURVEY": ("6A", "boss"),
    "RUN2D": ("8A", "v5_7_0"),
    "SPECOBJID": ("22A", " 4238154523191472128"),
    "PLATE": ("J", 3764),
    "MJD": ("J", 55514),
    "FIBERID": ("J", 972),
    "FLAG": ("X", [True]),
    "LOGICAL": ("L", True),
    "OBJTYPE": ("8A", "NA"),
    "PLUG_RA": ("D", 130.5),
    "PLUG_DEC": ("D", -1.25),
    "CLASS": ("6A", "STAR"),
    "SUBCLASS": ("12A", "G2"),
    "Z": ("E", 1e-4),
    "Z_ERR": ("E", 1e-5),
    "SN_MEDIAN": ("5E", [3, 20, 30, 25, 15]),
    "SN_MEDIAN_ALL": ("E", 22.0),
    "ZWARNING": ("J", 4),
}


def spec_file(
    facts: dict[str, tuple[str, Any]] | None = FACTS,
    *,
    start: int = 35798,
    upper: bool = False,
    header: dict[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    change: dict[str, np.ndarray] | None = None,
    name: str = "SPALL",
) -> bytes:
    """The bytes of a spec file."""
    rng = np.random.default_rng(start)
    loglam = 1e-4 * (start + np.arange(N))
    columns = {
        "flux": 10 + np.sin(loglam * 400) + 0.1 * rng.standard_normal(N),
        "loglam": loglam,
        "ivar": np.full(N, 100.0),
        "and_mask": np.zeros(N, int),
        "or_mask": np.zeros(N, int),
        "wdisp": np.full(N, 0.9),
        "model": np.full(N, 10.0),
    } | (change or {})
    forms = {"and_mask": "J", "or_mask": "J"}
    table = [
        fits.Column(key.upper() if upper else key, forms.get(key, "E"), array=values)
        for key, values in columns.items()
        if key not in leave_out
    ]
    primary = fits.PrimaryHDU()
    basic = {
        "TELESCOP": "SDSS 2.5-M",
        "COEFF0": 3.55,
        "VACUUM": True,
        "HELIO_RV": 12.5,
        "RA": 200.0,
        "DEC": 20.0,
        "EXPTIME": 2700.0,
    }
    for key, value in (basic | (header or {})).items():
        primary.header[key] = value
    hdus = [primary, fits.BinTableHDU.from_columns(table, name="COADD")]
    if facts is not None:
        described = [fits.Column(key, form, array=np.array([value])) for key, (form, value) in facts.items()]
        hdus.append(fits.BinTableHDU.from_columns(described, name=name))
        hdus.append(fits.BinTableHDU.from_columns([fits.Column("LINEZ", "E", array=np.zeros(3))], name="SPZLINE"))
    out = io.BytesIO()
    fits.HDUList(hdus).writeto(out)
    return out.getvalue()


def read(content: bytes) -> tuple[Spectra, dict[str, Any]]:
    (spectra,) = read_source(Source(Path("spec-x.fits"), content=content), SDSS.readers)
    return spectra, spectra.metadata.to_pylist()[0]


def test_what_a_file_states_is_in_its_row() -> None:
    spectra, row = read(spec_file())
    assert row["spectrum_id"] == 4238154523191472128
    assert row["object_name"] == "spec-3764-55514-0972"
    assert (row["ra"], row["dec"], row["epoch"]) == (130.5, -1.25, 2000.0)
    assert (row["class"], row["subclass"], row["zwarning"]) == ("STAR", "G2", 4)
    assert row["z"] == pytest.approx(1e-4)
    assert [row[f"snr_{band}"] for band in "ugriz"] == [3, 20, 30, 25, 15]
    assert (row["survey"], row["sub_survey"], row["run2d"], row["fiber_type"]) == ("SDSS", "boss", "v5_7_0", "NA")
    assert (row["helio_rv_kms"], row["exposure_s"], row["snr_all"]) == (12.5, 2700, 22)
    assert row["gaia_source_id"] is None
    assert spectra.log10_grid == pytest.approx((3.5798, 1e-4))
    np.testing.assert_allclose(spectra.wavelength, 10 ** (1e-4 * (35798 + np.arange(N))), rtol=1e-12)
    np.testing.assert_allclose(spectra.lsf_sigma[0], 0.9 * spectra.wavelength * np.log(10) * 1e-4, rtol=1e-6)
    prepared = SDSS.preparation([spectra])
    assert (len(prepared), prepared.n_repaired[0], prepared.quality[0]) == (1, 0, 0)
    assert 95 < prepared.snr[0] < 160


def test_gzip_and_capitals_make_no_difference() -> None:
    plain, row = read(spec_file())
    for content in (gzip.compress(spec_file()), spec_file(upper=True), gzip.compress(spec_file(upper=True))):
        other, same = read(content)
        np.testing.assert_array_equal(other.flux, plain.flux)
        assert same == row


def test_sdss_v_has_fields_and_catalogids() -> None:
    facts = {key: value for key, value in FACTS.items() if key not in ("SPECOBJID", "PLATE", "PLUG_RA", "PLUG_DEC")} | {
        "FIELD": ("J", 15000),
        "CATALOGID": ("K", 27021597785384113),
        "SDSS_ID": ("K", 67834521),
        "RUN2D": ("8A", "v6_1_3"),
        "RACAT": ("D", 34.6853),
        "DECCAT": ("D", -4.8069),
        "COORD_EPOCH": ("E", 2015.5),
        "FIRSTCARTON": ("20A", "mwm_snc_100pc_boss"),
        "GAIA_G": ("E", 14.5),
        "GAIA_ID": ("K", 2489000000000000001),
        "OBJTYPE": ("10A", "science"),
    }
    _, row = read(spec_file(facts, upper=True))
    assert row["object_name"] == "spec-015000-55514-27021597785384113"
    assert (row["catalogid"], row["sdss_id"], row["field"]) == (27021597785384113, 67834521, 15000)
    assert (row["ra"], row["dec"], row["epoch"]) == (34.6853, -4.8069, 2015.5)
    assert row["program"] == "mwm_snc_100pc_boss"
    assert row["gaia_id"] == 2489000000000000001
    assert row["gaia_source_id"] is None  # nothing says whether it is of DR2 or DR3
    assert row["specobjid"] is None
    assert row["spectrum_id"] >= 2**62  # made of the content
    assert row["spectrum_id"] == read(spec_file(facts))[1]["spectrum_id"]


def test_ids_are_those_of_the_archive_where_they_fit() -> None:
    assert specobjid(266, 51602, 31, "26") == 299497923312379904
    assert specobjid(3586, 55181, 500, "v5_10_0") == 4037614591814901760
    assert specobjid(266, 51602, 31, "master") is None
    assert specobjid(20000, 51602, 31, "26") is None
    stated = dict(FACTS)
    del stated["SPECOBJID"]
    assert read(spec_file(stated))[1]["spectrum_id"] == 4238154523191472128
    unsigned = FACTS | {"SPECOBJID": ("K", 4238154523191472128)}
    assert read(spec_file(unsigned))[1]["spectrum_id"] == 4238154523191472128
    late = FACTS | {"SPECOBJID": ("22A", "11258999068426240000"), "PLATE": ("J", 10000)}
    row = read(spec_file(late))[1]
    assert row["specobjid"] == "11258999068426240000"
    assert 2**62 <= row["spectrum_id"] < 2**63


def test_a_file_without_facts_is_read_with_those_of_its_header() -> None:
    header = {"PLATEID": 266, "MJD": 51602, "FIBERID": 31, "PLUG_RA": 147.3, "PLUG_DEC": -0.0066, "RUN2D": "26"}
    _, row = read(spec_file(None, header=header))
    assert row["spectrum_id"] == 299497923312379904
    assert (row["ra"], row["dec"], row["mjd"]) == (147.3, -0.0066, 51602)
    assert row["class"] is None
    _, bare = read(spec_file(None))
    assert bare["ra"] is None  # the header's RA is where the telescope pointed
    assert bare["spectrum_id"] >= 2**62


def test_masked_pixels_are_repaired() -> None:
    mask = np.zeros(N, int)
    mask[1000:1003] = 1 << 18  # FULLREJECT
    mask[1100:1110] = 1 << 23  # BRIGHTSKY: large, honest errors
    spectra, _ = read(spec_file(change={"and_mask": mask}))
    prepared = SDSS.preparation([spectra])
    bad = np.flatnonzero(prepared.ivar[0] == 0)
    assert 3 <= len(bad) <= 7
    assert np.abs(SDSS.wavelength[bad] / spectra.wavelength[1001] - 1).max() < 2e-3


def test_sky_fibres_are_skipped_and_dark_ones_fail() -> None:
    sky, _ = read(spec_file(FACTS | {"OBJTYPE": ("8A", "SKY")}))
    dark, _ = read(spec_file(change={"ivar": np.zeros(N)}))
    star, _ = read(spec_file())
    short, _ = read(spec_file(start=37600))
    prepared = SDSS.preparation([sky, dark, star, short])
    assert prepared.rows.tolist() == [2]
    assert [(r.row, r.reason) for r in prepared.rejections] == [
        (0, "blank_fibre"),
        (1, "no_valid_pixels"),
        (3, "low_coverage"),
    ]
    assert "on the sky" in prepared.rejections[0].detail


def test_part_of_the_range_is_enough() -> None:
    """The first spectrograph begins at 3800 Angstrom, where the continuum of LAMOST is fitted from 3700 on."""
    early, _ = read(spec_file(start=35600))
    flux = early.flux[:, 198:]
    late = Spectra(
        early.wavelength[198:], flux, early.ivar[:, 198:], log10_grid=(3.5798, 1e-4), lsf_sigma=early.lsf_sigma[:, 198:]
    )
    prepared = SDSS.preparation([early, late])
    assert prepared.quality.tolist() == [0, 0]
    assert np.abs(prepared.flux[0] - prepared.flux[1])[300:].max() < 0.02


@pytest.mark.parametrize(
    ("content", "reason", "text"),
    [
        (lambda: spec_file(header={"VACUUM": False}), "bad_wavelength", "VACUUM = F: wavelengths in air"),
        (lambda: spec_file(change={"loglam": np.linspace(3800, 9200, N)}), "bad_wavelength", "expected log10 of Angstrom"),
        (lambda: spec_file(change={"loglam": np.full(N, np.nan)}), "bad_wavelength", "expected log10 of Angstrom"),
        (lambda: spec_file(leave_out=("ivar",)), "missing_column", "it lacks IVAR"),
        (lambda: spec_file()[: 2880 * 3], "truncated", "HDU COADD needs"),
        (lambda: spec_file()[:2880], "truncated", "the table COADD is missing"),
        (lambda: gzip.compress(spec_file())[:20000], "truncated", "gzip: the data end early"),
    ],
)
def test_damage_has_a_reason(content: Any, reason: str, text: str) -> None:
    with pytest.raises(ReadError, match=text) as caught:
        read(content())
    assert caught.value.reason == reason


def test_wavelengths_off_the_usual_pixels_are_kept() -> None:
    spectra, _ = read(spec_file(change={"loglam": 3.5798 + 1.00007e-4 * np.arange(N) + 3.3e-5}))
    assert spectra.log10_grid is None
    assert len(SDSS.preparation([spectra])) == 1
    backwards, _ = read(spec_file(change={"loglam": 3.95 - 1e-4 * np.arange(N)}))
    (rejection,) = SDSS.preparation([backwards]).rejections
    assert rejection.reason == "bad_wavelength"
    assert "must increase strictly" in rejection.detail


def test_other_files_are_declined_by_name() -> None:
    def declined(hdus: list[Any], **more: Any) -> str:
        out = io.BytesIO()
        fits.HDUList(hdus).writeto(out)
        with pytest.raises(FormatError) as caught:
            find_reader(OpenSource(Source(Path("x.fits"), content=out.getvalue(), **more)), SDSS.readers)
        assert caught.value.reason == "other_instrument"
        return caught.value.detail

    old = fits.PrimaryHDU(np.ones((5, 3850), np.float32), header=fits.Header({"TELESCOP": "SDSS 2.5-M"}))
    assert "fetch spec-PLATE-MJD-FIBER.fits" in declined([old])
    desi = [fits.PrimaryHDU(), fits.ImageHDU(np.ones(9), name="B_WAVELENGTH")]
    assert "this is a DESI file" in declined(desi)
    lamost = fits.PrimaryHDU(np.ones((5, 3909), np.float32), header=fits.Header({"TELESCOP": "LAMOST"}))
    assert "an image of LAMOST" in declined([lamost], named=False)
    with pytest.raises(FormatError, match="begins with 'SIMPLE"):
        find_reader(OpenSource(Source(Path("x.fits"), content=b"nothing of the kind", named=False)), SDSS.readers)
    with pytest.raises(ReadError, match="unknown_format: not an SDSS spec file but an image of LAMOST"):
        out = io.BytesIO()
        fits.HDUList([lamost]).writeto(out)
        next(read_source(Source(Path("x"), content=out.getvalue()), (), file_format="sdss"))


@pytest.mark.shared
def test_real_files_are_read_and_prepared(shared: Path) -> None:
    files = sorted((shared / "sdss_stellar").glob("*.fits.gz"))
    spectra = [next(read_source(Source(path), SDSS.readers)) for path in files]
    rows = [part.metadata.to_pylist()[0] for part in spectra]
    for path, row in zip(files, rows, strict=True):
        assert row["object_name"] == path.name.removesuffix(".fits.gz")
        assert row["spectrum_id"] == specobjid(row["plate"], int(row["mjd"]), row["fiber"], row["run2d"])
        assert None not in (row["ra"], row["dec"], row["class"], row["z"], row["snr_g"])
    prepared = SDSS.preparation(spectra)
    assert len(prepared) == 11
    (rejection,) = prepared.rejections
    assert rejection.reason == "low_snr"
    assert rows[rejection.row]["snr_g"] < 0.3
    assert np.median(prepared.flux) == pytest.approx(1, abs=0.1)
    assert (prepared.n_repaired < 5).all()
