"""LAMOST LRS: three layouts give the same kind of spectra; everything else is declined with the right reason."""

from __future__ import annotations

import csv
import gzip
import io
import os
import warnings
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from specdb.errors import FormatError, ReadError
from specdb.spectra import METADATA, REASONS, Source, Spectra, expand_sources
from specdb.spectra.readers import LAMOST_COLUMNS, OpenSource, read_source
from specdb.spectra.readers.fits_scan import header_values, table_columns

from .lamost_files import COEFF0, COEFF1, LAYOUTS, lamost_arrays, lamost_bytes, write_lamost


def read(content: bytes | Path, named: bool = True) -> Spectra:
    path = content if isinstance(content, Path) else Path("x.fits")
    source = Source(path, named=named, content=None if isinstance(content, Path) else content)
    (spectra,) = read_source(source, ["lamost"])
    return spectra


def row(spectra: Spectra) -> dict:
    (found,) = spectra.metadata.to_pylist()
    return found


def reason(content: bytes | Path, named: bool = True) -> str:
    with pytest.raises(ReadError) as caught:
        read(content, named)
    return caught.value.reason


@cache
def small_file(layout: str) -> bytes:
    return lamost_bytes(layout, lamost_arrays(30))


def hdus_bytes(*hdus) -> bytes:
    buffer = io.BytesIO()
    fits.HDUList(list(hdus)).writeto(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["x.fits", "x.fits.gz"])
def test_a_layout_is_read_bit_by_bit(tmp_path: Path, layout: str, name: str) -> None:
    arrays = lamost_arrays()
    arrays["ivar"][10], arrays["and_mask"][10], arrays["or_mask"][10:12] = 0, 4, 68
    spectra = read(write_lamost(tmp_path / name, layout, arrays))
    assert len(spectra) == 1 and spectra.flux.dtype == np.float32 and spectra.flux.dtype.isnative
    np.testing.assert_array_equal(spectra.flux[0], arrays["flux"])
    np.testing.assert_array_equal(spectra.ivar[0], arrays["ivar"])
    np.testing.assert_array_equal(spectra.and_mask[0], arrays["and_mask"])
    np.testing.assert_array_equal(spectra.or_mask[0], arrays["or_mask"])
    assert spectra.and_mask.dtype == spectra.or_mask.dtype == np.int32
    assert spectra.log10_grid == (COEFF0, COEFF1)
    np.testing.assert_array_equal(spectra.wavelength, 10 ** (COEFF0 + COEFF1 * np.arange(3909)))
    assert spectra.metadata.schema.names == [*METADATA.names, *LAMOST_COLUMNS.names]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_users_query_has_one_set_of_names(layout: str) -> None:
    facts = row(read(lamost_bytes(layout)))
    assert facts["survey"] == "LAMOST" and facts["source_file"].endswith("/x.fits")
    assert (facts["class"], facts["subclass"], facts["z"], facts["z_err"]) == ("STAR", "F4", 3.402e-05, 2.565e-05)
    assert [round(facts[f"snr_{b}"], 2) for b in "ugriz"] == [22.59, 94.11, 118.57, 155.86, 104.23]
    assert (facts["ra"], facts["dec"], facts["epoch"]) == (330.909453, -0.17471, 2000.0)
    assert facts["object_name"] == "LAMOST J220338.26-001028.9" and facts["input_name"] == "1237663543146381408"
    assert (facts["plan_id"], facts["spectrograph"], facts["fiber"], facts["lmjd"]) == ("F5902", 3, 232, 55859)
    assert facts["mjd"] == pytest.approx(55858 + 12 / 24 + 32 / 1440)
    assert facts["input_catalogue"] == "PILOT" and facts["n_exposures"] == 3 and facts["exposure_s"] == 5400
    assert facts["gaia_source_id"] is None
    assert facts["release"] == {"A": "LAMOST DR1", "B": "LAMOST DR8", "C": "LAMOST DR10"}[layout]
    assert facts["fiber_type"] == {"A": "Obj", "B": "F-Std", "C": "Obj"}[layout]
    assert facts["fiber_mask"] == {"A": None, "B": 0, "C": 64}[layout]
    if layout == "C":
        assert facts["mag_ps_g"] == pytest.approx(15.32) and facts["mag_ps_r"] is None and facts["mag_g"] is None
    else:
        assert facts["mag_u"] == pytest.approx(16.2) and facts["mag_z"] == pytest.approx(14.62) and facts["mag_j"] is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gri", {"g": 1.0, "r": 2.0, "i": 3.0}),
        ("ugrijhk", {"u": 1.0, "g": 2.0, "r": 3.0, "i": 4.0, "j": 5.0, "h": 6.0, "k": 7.0}),
        ("grizyjh", {"g": 1.0, "r": 2.0, "i": 3.0, "z": 4.0, "y": 5.0, "j": 6.0, "h": 7.0}),
        ("MODugriz", {"u": 1.0, "g": 2.0, "r": 3.0, "i": 4.0, "z": 5.0}),
        ("fibermagr", {}),
        ("BR1R2I", {}),
        ("v", {}),
    ],
)
def test_magnitudes_are_named_only_where_the_bands_are_plain(kind: str, expected: dict[str, float]) -> None:
    facts = row(read(lamost_bytes("B", MAGTYPE=kind, **{f"MAG{i}": float(i) for i in range(1, 8)})))
    found = {name[4:]: v for name, v in facts.items() if name.startswith("mag_") and len(name) == 5 and v is not None}
    assert found == expected and facts["mag_type"] == kind


def test_sentinels_become_null() -> None:
    facts = row(
        read(lamost_bytes("B", Z=-9999.0, Z_ERR=-9999.0, SNRR=-9999.0, SEEING="", MAG1=99.0, TSOURCE="-", SUBCLASS="Non"))
    )
    for name in ("z", "z_err", "snr_r", "seeing_arcsec", "mag_u", "input_catalogue"):
        assert facts[name] is None, name
    assert facts["subclass"] == "Non"


@pytest.mark.parametrize("spelling", ["SNR{}", "SN_{}", "S_N_{}", "SNR_{}"])
def test_every_spelling_of_the_signal_to_noise(spelling: str) -> None:
    none = dict.fromkeys([f"SNR{b}" for b in "UGRIZ"])
    values = {spelling.format(b): float(i) for i, b in enumerate("UGRIZ", 1)}
    facts = row(read(lamost_bytes("B", **none | values)))
    assert [facts[f"snr_{b}"] for b in "ugriz"] == [1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    ("text", "mjd"),
    [
        ("2021-11-09T19:57:0.000", 59527.83125),
        ("2014-04-21T19:52:51.43", 56768.82837303),
        ("2014-04-21 19:52:51.43", 56768.82837303),
        ("2014-13-41T00:00:00", 56770.0),
        ("yesterday", 56770.0),
    ],
)
def test_dates_as_the_releases_write_them(text: str, mjd: float) -> None:
    assert row(read(lamost_bytes("B", **{"DATE-OBS": text, "MJD": 56770})))["mjd"] == pytest.approx(mjd, abs=1e-7)


def test_gaia_ids_are_believed_only_for_dr3() -> None:
    gaia = "3372559989004324096"
    assert row(read(lamost_bytes("C", OBJNAME=gaia, TFROM="GAIA")))["gaia_source_id"] is None
    assert row(read(lamost_bytes("C", OBJNAME=gaia, TFROM="GAIA_DR2")))["gaia_source_id"] is None
    assert row(read(lamost_bytes("C", OBJNAME=gaia, TFROM="Gaia DR3")))["gaia_source_id"] == int(gaia)
    assert row(read(lamost_bytes("C", OBJNAME="S1022-004284", TFROM="Gaia DR3")))["gaia_source_id"] is None


def test_the_id_is_the_obsid_else_a_hash_of_the_content() -> None:
    assert row(read(lamost_bytes("B", OBSID=103232)))["spectrum_id"] == 103232
    made = [
        row(read(lamost_bytes(layout, OBSID=None, CLASS=word)))["spectrum_id"]
        for layout in "ABC"
        for word in ("STAR", "QSO")
    ]
    assert len(set(made)) == 1 and made[0] >= 2**62
    other = lamost_arrays()
    other["flux"][7] += 1
    assert row(read(lamost_bytes("A", other)))["spectrum_id"] not in made
    assert (
        row(read(lamost_bytes("B", OBSID=0)))["spectrum_id"]
        == row(read(lamost_bytes("B", OBSID=-1)))["spectrum_id"]
        == made[0]
    )


def test_layouts_are_told_by_content_where_the_keyword_is_missing() -> None:
    assert read(lamost_bytes("A", EXTEN0=None)).log10_grid == (COEFF0, COEFF1)
    shifted = lamost_arrays(coeff0=3.56821)
    spectra = read(lamost_bytes("B", shifted, EXTEN0=None))
    assert spectra.log10_grid is None
    np.testing.assert_array_equal(spectra.wavelength, shifted["wavelength"].astype("f8"))


def test_wavelength_keywords_are_optional_where_the_wavelength_is_stored() -> None:
    arrays = lamost_arrays()
    for layout in "BC":
        spectra = read(lamost_bytes(layout, arrays, COEFF0=None, COEFF1=None))
        assert spectra.log10_grid is None
        np.testing.assert_array_equal(spectra.wavelength, arrays["wavelength"].astype("f8"))
    assert read(lamost_bytes("A", COEFF0=None, COEFF1=None, CRVAL1=COEFF0, CD1_1=COEFF1)).log10_grid == (COEFF0, COEFF1)
    with pytest.raises(ReadError, match="missing_column: no wavelength: COEFF0 = None"):
        read(lamost_bytes("A", COEFF0=None))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_the_essential_is_needed(layout: str) -> None:
    bare = {key: None for key in fits.Header.fromstring(lamost_bytes(layout)[:11520]) if key not in ("", "COMMENT")}
    kept = {"EXTEN0", "COEFF0", "COEFF1", "SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND"}
    facts = row(read(lamost_bytes(layout, **{key: value for key, value in bare.items() if key not in kept})))
    assert facts["ra"] is None and facts["class"] is None and facts["spectrum_id"] >= 2**62


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_repaired_here(layout: str) -> None:
    arrays = lamost_arrays()
    arrays["flux"][[1, 2]], arrays["ivar"][:], arrays["and_mask"][3] = (np.nan, np.inf), 0, np.nan
    spectra = read(lamost_bytes(layout, arrays))
    np.testing.assert_array_equal(spectra.flux[0], arrays["flux"])
    assert not spectra.ivar.any() and spectra.and_mask[0, 3] == -1


def test_a_table_may_lack_masks_but_not_the_errors() -> None:
    arrays = lamost_arrays()
    for key in ("and_mask", "or_mask"):
        del arrays[key]
    assert not read(lamost_bytes("C", arrays)).or_mask.any()
    del arrays["ivar"]
    with pytest.raises(ReadError, match=r"missing_column: the table COADD has .* it lacks \['IVAR'\]"):
        read(lamost_bytes("C", arrays))


def test_a_table_with_scaled_columns_is_left_to_astropy() -> None:
    arrays = lamost_arrays(100)
    columns = [
        fits.Column(n, "100E", array=arrays[k][None])
        for n, k in (("FLUX", "flux"), ("IVAR", "ivar"), ("WAVELENGTH", "wavelength"))
    ]
    columns.append(fits.Column("ANDMASK", "100J", bzero=2**31, array=np.full((1, 100), 3, np.uint32)))
    spectra = read(hdus_bytes(fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="COADD")))
    assert (spectra.and_mask == 3).all() and not spectra.or_mask.any()
    np.testing.assert_array_equal(spectra.flux[0], arrays["flux"])


def test_double_precision_is_kept() -> None:
    arrays = {key: value.astype("f8") for key, value in lamost_arrays().items()}
    assert read(lamost_bytes("B", arrays)).flux.dtype == np.float64


def test_gzip_data_wrongly_named_fits(tmp_path: Path) -> None:
    path = tmp_path / "wrong.fits"
    path.write_bytes(gzip.compress(lamost_bytes("B")))
    assert row(read(path))["spectrum_id"] == 103232


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_files_say_how(tmp_path: Path, layout: str) -> None:
    whole = small_file(layout)
    zipped = gzip.compress(whole)
    assert reason(zipped[: len(zipped) // 2]) == "truncated"
    assert reason(whole[: len(whole) // 2]) == "truncated"
    for blocks in range(1, len(whole) // 2880):
        assert reason(whole[: 2880 * blocks]) == "truncated", blocks
    for size in range(1000, len(whole) - 2880, 500):
        assert reason(whole[:size]) == "truncated", size
    assert reason(b"") == "empty_file"
    assert reason(b"garbage" * 1000) == reason(b"garbage" * 1000, named=False) == "unknown_format"
    assert reason(b"SIMPLE  =" + os.urandom(5760)) in ("corrupt", "truncated")
    assert reason(tmp_path / "missing.fits") == "unreadable"


def test_files_of_other_instruments_are_named() -> None:
    empty, pixel = fits.PrimaryHDU(), np.ones((5, 100), "f4")
    table = fits.BinTableHDU.from_columns
    flux = [fits.Column("flux", "E", array=np.ones(9))]
    others = {
        "LAMOST medium-resolution": [empty, table(flux, name="COADD_B"), table(flux, name="COADD_R")],
        "an SDSS spectrum": [empty, table([*flux, fits.Column("loglam", "E", array=np.ones(9))], name="COADD")],
        "a DESI file": [empty, fits.ImageHDU(np.ones(9), name="B_WAVELENGTH"), fits.ImageHDU(np.ones(9), name="B_FLUX")],
        "a file of SDSS 2.5-M": [fits.PrimaryHDU(pixel, header=fits.Header({"TELESCOP": "SDSS 2.5-M"}))],
        "a table of Gaia XP": [
            empty,
            table([fits.Column("source_id", "K", array=[1]), fits.Column("flux", "9E", array=[[1.0] * 9])]),
        ],
        "a table with columns ra, dec": [empty, table([fits.Column(n, "D", array=[1.0]) for n in ("ra", "dec")])],
        "an image of Hubble of shape \\(7, 9\\)": [
            fits.PrimaryHDU(np.ones((7, 9)), header=fits.Header({"TELESCOP": "Hubble"}))
        ],
        "a FITS file without data": [empty],
    }
    for text, hdus in others.items():
        with pytest.raises(FormatError, match=f"other_instrument: .*LAMOST LRS spectrum expected, this is .*{text}"):
            read(hdus_bytes(*[hdu.copy() for hdu in hdus]))
    with pytest.raises(ReadError, match="unknown_format: not a LAMOST LRS file but an SDSS"):
        next(read_source(Source(Path("x"), content=hdus_bytes(*others["an SDSS spectrum"])), (), file_format="lamost"))


def test_no_warnings_leak(recwarn: pytest.WarningsRecorder) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        content = lamost_bytes("B").replace(b"SUBCLASS= 'F4      '", b"SUBCLASS= 'F4\x00     '")
        read(content)
        reason(content[: len(content) // 2])
        filters = list(warnings.filters)
        read(content)
        assert filters == list(warnings.filters)
    assert not caught


def test_the_shortcuts_agree_with_astropy() -> None:
    content = lamost_bytes("C", DESIG="it's", EXPTIME=1e-5, OFFSET=True, EMPTY=fits.card.Undefined())
    opened = OpenSource(Source(Path("x"), content=content))
    values = header_values(opened, opened.hdus[0])
    expected = {k: v for k, v in opened.hdus[0].header.items() if v is not None}
    assert {k: v for k, v in values.items() if v is not None} == expected
    for name, column in table_columns(opened, opened.hdus[1]).items():
        np.testing.assert_array_equal(column, opened.hdus[1].data[name].ravel())


def test_a_table_whose_columns_do_not_fit_its_rows_is_corrupt() -> None:
    content = lamost_bytes("C").replace(b"TFORM2  = '3909E", b"TFORM2  = '3908E")
    assert reason(content) == "corrupt"


@settings(max_examples=25, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    obsid=st.integers(1, 2**62),
    ra=st.floats(0, 360).map(lambda v: round(v, 6)),
    dec=st.floats(-90, 90).map(lambda v: round(v, 6)),
    z=st.floats(-0.01, 6).map(lambda v: round(v, 8)),
    name=st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60),
    n_pix=st.integers(2, 40),
)
def test_header_facts_survive(layout: str, obsid: int, ra: float, dec: float, z: float, name: str, n_pix: int) -> None:
    content = lamost_bytes(layout, lamost_arrays(n_pix), OBSID=obsid, RA=ra, DEC=dec, Z=z, OBJNAME=name)
    facts = row(read(content))
    assert (facts["spectrum_id"], facts["ra"], facts["dec"], facts["z"]) == (obsid, ra, dec, z)
    assert facts["input_name"] == (name.strip() if name.strip() not in ("", "-", ".", "NULL", "null") else None)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_the_bytes_only_read_errors_come(data) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    content = bytearray(small_file(layout))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    prefix = data.draw(st.sampled_from([b"", b"SIMPLE  =", b"\x1f\x8b\x08"]))
    content = data.draw(st.sampled_from([bytes(content), prefix + data.draw(st.binary(max_size=300))]))
    cut = data.draw(st.integers(0, len(content)))
    try:
        spectra = list(read_source(Source(Path("x.fits"), content=content[:cut]), ["lamost"]))
        assert len(spectra) == 1 and spectra[0].metadata.num_rows == 1
    except ReadError as error:
        assert error.reason in REASONS


@pytest.mark.shared
def test_all_real_files_are_read(shared: Path) -> None:
    with (shared / "manifest.csv").open() as file:
        manifest = {entry["path"]: entry for entry in csv.DictReader(file)}
    folders: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    ids, log_grids = [], 0
    for source in expand_sources(sorted(shared.glob("lamost_*"))):
        path = source.path.relative_to(shared)
        try:
            (spectra,) = read_source(source, ["lamost"])
        except ReadError as error:
            reasons[error.reason] += 1
            continue
        folders[path.parts[0]] += 1
        facts, said = row(spectra), manifest[path.as_posix()]
        assert spectra.metadata.schema == pa.schema([*METADATA, *LAMOST_COLUMNS])
        ids.append(facts["spectrum_id"])
        if said["obsid"]:
            assert facts["spectrum_id"] == int(said["obsid"])
        for column in ("ra", "dec", "snr_g", "z"):
            if said[column] and float(said[column]) > -999:
                assert facts[column] == pytest.approx(float(said[column]), rel=1e-4, abs=1e-6), (path, column)
        assert spectra.log10_grid in (None, (3.5682, 1e-4), (3.584, 1e-4))
        log_grids += spectra.log10_grid is not None
        assert 3690 < spectra.wavelength[0] < 3850 and 8800 < spectra.wavelength[-1] < 9110
        assert (np.diff(spectra.wavelength) > 0).all() and spectra.flux.shape[1] >= 3751
        assert abs(facts["mjd"] - facts["lmjd"]) < 2
        assert facts["snr_r"] is None or facts["snr_r"] >= 0
    expected = {"dr1_classes": 132, "misc": 27, "dr7_plate": 72, "dr8_repeat": 168, "dr10_afg": 90}
    assert folders == {f"lamost_{name}": n for name, n in expected.items()}
    assert reasons == {"not_a_spectrum": 5, "other_instrument": 1}
    assert len(set(ids)) == len(ids) == 489
    assert log_grids == 487  # two files store a wavelength that differs from their rounded COEFF0 by 4e-6


@pytest.mark.shared
def test_real_spectra_of_other_surveys_are_declined(shared: Path) -> None:
    for folder, n, text in (("sdss_stellar", 12, "SDSS"), ("desi_edr_format", 1, "DESI")):
        sources = list(expand_sources([shared / folder]))
        assert len(sources) == n
        for source in sources:
            with pytest.raises(FormatError, match=f"other_instrument: .*{text}"):
                list(read_source(source, ["lamost"]))


@pytest.mark.shared
def test_flux_and_grid_are_those_of_the_reference(shared: Path, golden: Path) -> None:
    reference = np.load(golden / "preprocess_lrs.npz")
    paths = {path.name: path for path in shared.glob("lamost_*/**/*.fits.gz")}
    assert sum(f"{name}.gz" in paths for name in reference["files"]) > 20
    for i, name in enumerate(reference["files"]):
        if f"{name}.gz" not in paths:
            continue
        spectra = read(paths[f"{name}.gz"])
        n = spectra.flux.shape[1]
        np.testing.assert_array_equal(spectra.flux[0], reference["flux_raw"][i, :n])
        assert spectra.log10_grid == (reference["coeff0"][i], reference["coeff1"][i])
        np.testing.assert_allclose(spectra.wavelength[[0, -1]], reference["wavelength_first_last"][i], rtol=1e-12)


@pytest.mark.shared
def test_keywords_of_all_real_headers_agree_with_astropy(shared: Path) -> None:
    for path in sorted(shared.glob("lamost_*/**/*.fits.gz"))[::7]:
        opened = OpenSource(Source(path))
        values = header_values(opened, opened.hdus[0])
        for key, value in opened.hdus[0].header.items():
            if key not in ("", "COMMENT", "HISTORY") and not isinstance(value, fits.card.Undefined):
                assert values[key] == value, (path, key)
