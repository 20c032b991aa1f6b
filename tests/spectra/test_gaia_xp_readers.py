"""Readers of Gaia XP: every container and layout gives the same spectra; every damage gives a reason."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.table import MaskedColumn, Table
from pyarrow import parquet

from specdb.errors import FormatError, ReadError
from specdb.spectra import Source, expand_sources
from specdb.spectra.readers import OpenSource, find_reader, read_source
from specdb.spectra.readers.gaia_xp import SUFFIXES, XP_COLUMNS, GaiaXpSampled, source_id_position
from specdb.spectra.readers.gaia_xp_tables import BATCH_ROWS, matrix
from specdb.spectra.xp_sampling import XpArm, load_xp_sampling

READERS = ("gaia_xp_continuous", "gaia_xp_sampled")
IDS = np.array([4295806720, 5853498713190525696, 34361129088])  # the second has digits that a float64 would lose
N = len(IDS)


def arms(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{arm}_{what}": rng.standard_normal((n, width)) * scale
        for arm in ("bp", "rp")
        for what, width, scale in (
            ("coefficients", 55, 1e3),
            ("coefficient_errors", 55, 1),
            ("coefficient_correlations", 1485, 0.01),
        )
    }


ARMS = {name: np.abs(value) if "errors" in name else value for name, value in arms().items()}


def expected(with_bp=(True, True, True)):
    """Flux and inverse variance of `ARMS`."""
    bp, rp = (XpArm(*(ARMS[f"{a}_coefficient{e}"] for e in ("s", "_errors", "_correlations"))) for a in ("bp", "rp"))
    bp = XpArm(np.where(np.array(with_bp)[:, None], bp.coefficients, np.nan), bp.errors, bp.correlations)
    sampling = load_xp_sampling()
    return sampling.flux(bp, rp), sampling.ivar(bp, rp)


def read(path, names=READERS):
    """All spectra of a file, as one batch."""
    batches = list(read_source(Source(Path(path)), names))
    assert len(batches) == 1
    return batches[0]


def fault(path, names=READERS):
    with pytest.raises(ReadError) as caught:
        list(read_source(Source(Path(path)), names))
    return caught.value


def as_text(row, style):
    numbers = [repr(float(value)) for value in row]
    return "(" + ", ".join(numbers) + ")" if style == "archive" else "[" + ",".join(numbers) + "]"


def csv_text(columns, style="archive", missing="", header=""):
    """A CSV table; vectors as quoted text, None as the text for a missing value."""

    def cell(value):
        if value is None:
            return missing
        return f'"{as_text(value, style)}"' if np.ndim(value) else str(value)

    rows = [",".join(columns), *(",".join(cell(v[i]) for v in columns.values()) for i in range(len(columns["source_id"])))]
    return header + "\n".join(rows) + "\n"


ECSV = "# %ECSV 1.0\n# ---\n# delimiter: ','\n# datatype:\n# - {name: source_id, datatype: int64}\n# schema: astropy-2.0\n"


def write(path, kind, columns):
    """Write vector columns in one of the containers."""
    columns = {"source_id": IDS} | columns
    if kind == "csv":
        path.write_text(csv_text(columns))
    elif kind == "csv.gz":  # as on the download site
        path.write_bytes(gzip.compress(csv_text(columns, "list", "null", ECSV).encode()))
    elif kind == "ecsv":
        path.write_text(csv_text(columns, "list", "", ECSV))
    elif kind == "fits":
        Table(columns).write(path)
    elif kind == "vot":
        from_table(Table(columns)).to_xml(str(path), tabledata_format="binary2")
    elif kind == "xml":
        from_table(Table(columns)).to_xml(str(path))
    elif kind == "parquet":
        parquet.write_table(pa.table({name: list(value) for name, value in columns.items()}), path)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            for name, value in columns.items():
                file[name] = value
    else:
        np.savez(path, **columns)
    return path


KINDS = ["csv", "csv.gz", "ecsv", "fits", "vot", "xml", "parquet", "h5", "npz"]


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_from_every_container(tmp_path, kind):
    path = write(tmp_path / f"x.{kind}", kind, ARMS | {"bp_n_relevant_bases": np.array([3, 50, 7])})
    opened = OpenSource(Source(path))
    assert find_reader(opened, READERS).name == "gaia_xp_continuous"
    spectra = read(path)
    flux, ivar = expected()
    np.testing.assert_allclose(spectra.flux, flux, rtol=1e-12)
    np.testing.assert_allclose(spectra.ivar, ivar, rtol=1e-9)
    np.testing.assert_array_equal(spectra.wavelength, np.arange(3360.0, 10201.0, 20.0))
    table = spectra.metadata
    assert table["spectrum_id"].to_pylist() == table["gaia_source_id"].to_pylist() == IDS.tolist()
    assert table["bp_n_relevant_bases"].to_pylist() == [3, 50, 7] and table["rp_n_relevant_bases"].null_count == N
    assert set(table["survey"].to_pylist()) == {"Gaia"} and set(table["release"].to_pylist()) == {"Gaia DR3"}
    assert table["object_name"][0].as_py() == "Gaia DR3 4295806720" and set(table["epoch"].to_pylist()) == {2016.0}
    assert table["source_file"][0].as_py().endswith(path.name)
    assert set(XP_COLUMNS.names) <= set(table.column_names)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_from_every_container(tmp_path, kind):
    flux, _ = expected()
    columns = {
        "ra": np.array([1.0, 2.0, 3.0]),
        "dec": np.array([-1.0, 0.0, 1.0]),
        "flux": flux,
        "flux_error": np.abs(flux) / 10,
    }
    path = write(tmp_path / f"x.{kind}", kind, columns)
    assert find_reader(OpenSource(Source(path)), READERS).name == "gaia_xp_sampled"
    spectra = read(path)
    np.testing.assert_allclose(spectra.flux, flux, rtol=1e-12)
    np.testing.assert_allclose(spectra.ivar, 100 / flux**2, rtol=1e-9)
    assert spectra.metadata["ra"].to_pylist() == [1, 2, 3] and not any(
        spectra.metadata["position_from_source_id"].to_pylist()
    )


@pytest.mark.parametrize("missing", ["", "null", "NaN", '"[]"', '"()"', '"[NaN]"', '"(nan)"'])
def test_missing_arm_in_text_tables(tmp_path, missing):
    columns = {"source_id": IDS} | {
        name: [None if row == 1 and name.startswith("bp") else value[row] for row in range(N)]
        for name, value in ARMS.items()
    }
    path = tmp_path / "x.csv"
    path.write_text(csv_text(columns, missing=missing))
    flux, ivar = expected((True, False, True))
    spectra = read(path)
    np.testing.assert_allclose(spectra.flux, flux, rtol=1e-12)
    np.testing.assert_allclose(spectra.ivar, ivar, rtol=1e-9)
    assert np.isnan(spectra.flux[1, :150]).all() and np.isfinite(spectra.flux[1, 150:]).all()


def test_missing_arm_in_fits_vectors_of_varying_length(tmp_path):
    def varying(name, value):
        rows = [np.array([]) if row == 1 and name.startswith("bp") else value[row] for row in range(N)]
        objects = np.empty(N, object)
        objects[:] = rows
        return fits.Column(name, f"PD({value.shape[1]})", array=objects)

    columns = [varying(name, value) for name, value in ARMS.items()]
    columns += [
        fits.Column("source_id", "K", array=IDS),
        fits.Column("bp_n_relevant_bases", "I", null=-32768, array=[5, -32768, 6]),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "x.fits")
    spectra = read(tmp_path / "x.fits")
    np.testing.assert_allclose(spectra.flux, expected((True, False, True))[0], rtol=1e-12)
    assert spectra.metadata["bp_n_relevant_bases"].to_pylist() == [5, None, 6]


def test_missing_arm_in_votables(tmp_path):
    columns = {
        name: MaskedColumn(value, mask=np.repeat([[False], [name.startswith("bp")], [False]], value.shape[1], axis=1))
        for name, value in ARMS.items()
    }
    from_table(Table({"source_id": IDS} | columns)).to_xml(str(tmp_path / "x.vot"))
    np.testing.assert_allclose(read(tmp_path / "x.vot").flux, expected((True, False, True))[0], rtol=1e-12)


def test_missing_arm_in_parquet(tmp_path):
    columns = {
        name: [None if row == 1 and name.startswith("bp") else list(value[row]) for row in range(N)]
        for name, value in ARMS.items()
    }
    parquet.write_table(pa.table({"source_id": IDS} | columns), tmp_path / "x.parquet")
    np.testing.assert_allclose(read(tmp_path / "x.parquet").flux, expected((True, False, True))[0], rtol=1e-12)


def test_one_column_per_coefficient(tmp_path):
    columns = {f"{arm}_coeff_{i}": ARMS[f"{arm}_coefficients"][:, i] for arm in ("bp", "rp") for i in range(55)}
    columns |= {f"e_{arm}_coeff_{i}": ARMS[f"{arm}_coefficient_errors"][:, i] for arm in ("bp", "rp") for i in range(55)}
    write(tmp_path / "x.csv", "csv", columns)
    write(tmp_path / "x.fits", "fits", columns)
    first, second = read(tmp_path / "x.csv"), read(tmp_path / "x.fits")
    np.testing.assert_allclose(first.flux, expected()[0], rtol=1e-12)
    np.testing.assert_allclose(second.ivar, first.ivar, rtol=1e-12)


def test_one_vector_of_110_without_errors(tmp_path):
    both = np.concatenate([ARMS["bp_coefficients"], ARMS["rp_coefficients"]], axis=1)
    spectra = read(write(tmp_path / "x.npz", "npz", {"coefficients": both}))
    np.testing.assert_allclose(spectra.flux, expected()[0], rtol=1e-12)
    assert spectra.ivar is None


def test_long_tables_come_in_bounded_batches_in_order(tmp_path):
    n = BATCH_ROWS + 10
    both = np.random.default_rng(0).standard_normal((n, 110)).astype(np.float32)
    ids = np.arange(n) + 2**60
    np.savez(tmp_path / "x.npz", source_id=ids, coefficients=both)
    parquet.write_table(pa.table({"source_id": ids, "coefficients": list(both)}), tmp_path / "x.parquet")
    for name in ("x.npz", "x.parquet"):
        batches = list(read_source(Source(tmp_path / name), READERS))
        assert [len(batch) for batch in batches] == [BATCH_ROWS, 10]
        assert pa.concat_tables([b.metadata for b in batches])["spectrum_id"].to_pylist() == ids.tolist()


def test_positions_come_from_the_source_id_where_the_file_has_none(tmp_path):
    flux, _ = expected()
    path = tmp_path / "x.csv"
    path.write_text(csv_text({"source_id": IDS, "ra": [None, 217.4, None], "dec": [None, -62.7, None], "flux": flux}))
    table = read(path).metadata
    assert table["position_from_source_id"].to_pylist() == [True, False, True]
    assert table["ra"].to_pylist() == pytest.approx([45.0, 217.4, 45.0], abs=0.05)


def test_source_id_position():
    # The first pixel of the sky touches the point (45, 0); the second id is a star of Gaia DR3 at 217.39232, -62.67608.
    ra, dec = source_id_position(np.array([0, 5853498713190525696, -1, 2**62 + 2**61 + 2**60]))
    assert (ra[0], dec[0]) == pytest.approx((45, 0.00932548), abs=1e-7)
    assert np.hypot((ra[1] - 217.39232) * np.cos(np.radians(dec[1])), dec[1] + 62.67608) * 3600 < 36
    assert np.isnan(ra[2:]).all() and np.isnan(dec[2:]).all()


def test_one_column_per_source(tmp_path):
    flux, _ = expected()
    path = tmp_path / "stars.csv"
    header = "wavelength_nm," + ",".join(f"flux_{number}" for number in IDS)
    rows = [
        f"{wavelength}," + ",".join(map(repr, map(float, values)))
        for wavelength, values in zip(range(336, 1021, 2), flux.T, strict=True)
    ]
    path.write_text("\n".join([header, *rows]))
    spectra = read(path)
    np.testing.assert_allclose(spectra.flux, flux, rtol=1e-12)
    assert spectra.metadata["spectrum_id"].to_pylist() == IDS.tolist() and spectra.ivar is None


def test_one_row_per_wavelength(tmp_path):
    flux = expected()[0][1]
    lines = [
        "wavelength,flux,flux_error",
        *(f"{w},{float(f)!r},{abs(float(f)) / 5!r}" for w, f in zip(range(336, 1021, 2), flux, strict=True)),
    ]
    path = tmp_path / "XP_SAMPLED-Gaia DR3 5853498713190525696.csv"
    path.write_text("\n".join(lines))
    spectra = read(path)
    np.testing.assert_allclose(spectra.flux[0], flux, rtol=1e-12)
    assert spectra.metadata["gaia_source_id"].to_pylist() == [IDS[1]]
    nameless = tmp_path / "spectrum.csv"
    nameless.write_text("\n".join(lines))
    error = fault(nameless)
    assert isinstance(error, FormatError) and "neither as a column nor in the file name" in error.detail


def test_rows_with_grids_of_their_own_are_kept_apart(tmp_path):
    grids = [np.arange(400.0, 900.0, 2.0), np.arange(400.0, 900.0, 2.0), np.arange(336.0, 1021.0, 5.0)]
    table = pa.table(
        {"star_name": ["a", "b", "c"], "wavelength": grids, "gaia_spectrum": [np.sin(grid / 100) + 2 for grid in grids]}
    )
    parquet.write_table(table, tmp_path / "x.parquet")
    batches = list(read_source(Source(tmp_path / "x.parquet"), READERS))
    assert [batch.flux.shape for batch in batches] == [(2, 250), (1, 137)]
    assert (
        batches[0].metadata["object_name"].to_pylist() == ["a", "b"]
        and batches[0].metadata["gaia_source_id"].null_count == 2
    )
    again = list(read_source(Source(tmp_path / "x.parquet"), READERS))
    assert [b.metadata["spectrum_id"].to_pylist() for b in batches] == [b.metadata["spectrum_id"].to_pylist() for b in again]


def test_hdf5_with_one_group_per_star(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        group = file.create_group(f"HD1_{IDS[1]}")
        group["WAVELENGTH"], group["FLUX"], group["STATERROR"] = (
            np.arange(336.0, 1021, 2),
            np.full(343, 2.0),
            np.full(343, 0.5),
        )
    spectra = read(tmp_path / "x.hdf5")
    assert spectra.metadata["spectrum_id"].to_pylist() == [IDS[1]] and spectra.metadata["object_name"][0].as_py() == "HD1"
    assert (spectra.flux == 2).all() and (spectra.ivar == 4).all()


def test_scaled_fluxes(tmp_path):
    norm, scale = np.full((N, 343), 2.0, np.float16), np.array([1e-17, 2e-17, 3e-17])
    np.savez(tmp_path / "x.npz", source_id=IDS, wavelength_nm=np.arange(336.0, 1021, 2), flux_norm=norm, flux_scale=scale)
    np.testing.assert_allclose(read(tmp_path / "x.npz").flux[:, 0], 2 * scale)


def test_errors_that_are_no_errors_give_zero_weight(tmp_path):
    error = np.full((N, 343), 0.1)
    error[0, 0], error[1, 1] = 0, np.nan
    spectra = read(write(tmp_path / "x.npz", "npz", {"flux": np.ones((N, 343)), "flux_error": error}))
    assert spectra.ivar[0, 0] == 0 and spectra.ivar[1, 1] == 0 and spectra.ivar[2, 2] == pytest.approx(100)


def test_member_of_an_archive(tmp_path):
    data = csv_text({"source_id": IDS} | ARMS).encode()
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        info = tarfile.TarInfo("xp/bulk.csv")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    (source,) = expand_sources([tmp_path / "x.tar"], SUFFIXES)
    (spectra,) = read_source(source, READERS)
    assert len(spectra) == N and spectra.metadata["source_file"][0].as_py().endswith("x.tar::xp/bulk.csv")


# Damage


def continuous_csv(tmp_path, **changes):
    path = tmp_path / "x.csv"
    path.write_text(csv_text({"source_id": IDS} | ARMS | changes))
    return path


def test_ragged_vectors(tmp_path):
    ragged = [ARMS["bp_coefficients"][0], ARMS["bp_coefficients"][1][:54], ARMS["bp_coefficients"][2]]
    error = fault(continuous_csv(tmp_path, bp_coefficients=ragged))
    assert (
        error.reason == "corrupt"
        and "bp_coefficients has 54 values in row 1 of its batch; expected 55 or none" in error.detail
    )


def test_vectors_that_are_no_numbers(tmp_path):
    path = continuous_csv(tmp_path)
    path.write_text(path.read_text().replace('"(', '"(abc, ', 1))
    assert fault(path).reason == "corrupt"


def test_single_numbers_where_vectors_belong(tmp_path):
    path = write(tmp_path / "x.npz", "npz", ARMS | {"bp_coefficients": np.ones(N)})
    error = fault(path)
    assert error.reason == "corrupt" and "bp_coefficients holds single values" in error.detail


def test_missing_columns(tmp_path):
    without_id = tmp_path / "a.npz"
    np.savez(without_id, **ARMS)
    error = fault(without_id)
    assert error.reason == "missing_column" and "no column source_id" in error.detail
    bp_only = write(tmp_path / "b.npz", "npz", {name: value for name, value in ARMS.items() if name.startswith("bp")})
    error = fault(bp_only)
    assert error.reason == "missing_column" and "no complete set of rp coefficients" in error.detail
    with pytest.raises(ReadError, match="missing_column: there is no flux"):
        list(GaiaXpSampled().read(OpenSource(Source(bp_only))))


@pytest.mark.parametrize(
    ("ids", "detail"),
    [
        (IDS.astype(float), "cannot hold its 19 digits"),
        (np.array(["a", "b", "c"]), "source_id is not an integer"),
    ],
)
def test_source_ids_that_lost_their_digits(tmp_path, ids, detail):
    np.savez(tmp_path / "x.npz", **(ARMS | {"source_id": ids}))
    error = fault(tmp_path / "x.npz")
    assert error.reason == "corrupt" and detail in error.detail


def test_missing_source_id(tmp_path):
    error = fault(continuous_csv(tmp_path, source_id=[1, None, 3]))
    assert error.reason == "corrupt" and "source_id is missing in 1 of 3 rows" in error.detail


def test_empty_files_and_tables(tmp_path):
    (tmp_path / "nothing.csv").write_bytes(b"")
    assert fault(tmp_path / "nothing.csv").reason == "empty_file"
    (tmp_path / "comments.ecsv").write_text(ECSV)
    assert fault(tmp_path / "comments.ecsv").reason == "empty_file"
    (tmp_path / "header.csv").write_text(",".join(["source_id", *ARMS]) + "\n")
    error = fault(tmp_path / "header.csv")
    assert error.reason == "empty_file" and "no rows" in error.detail


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.97])
def test_truncated_files(tmp_path, kind, kept):
    whole = write(tmp_path / f"x.{kind}", kind, ARMS).read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole[: int(len(whole) * kept)])
    error = fault(path)
    assert error.reason in ("truncated", "corrupt", "missing_column", "unknown_format", "empty_file")


def test_truncation_is_called_so_where_the_container_tells(tmp_path):
    for kind in ("csv.gz", "fits", "vot", "parquet"):
        whole = write(tmp_path / f"x.{kind}", kind, ARMS).read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(whole[: len(whole) * 2 // 3])
        assert fault(tmp_path / f"cut.{kind}").reason == "truncated", kind


def test_random_bytes_are_declined(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        (tmp_path / "x.csv").write_bytes(rng.bytes(int(rng.integers(1, 3000))))
        assert fault(tmp_path / "x.csv").reason, number


def test_files_of_other_instruments_are_declined_with_a_clause(tmp_path):
    lamost = fits.PrimaryHDU(np.ones((5, 3909), np.float32))
    lamost.header["TELESCOP"] = "LAMOST"
    lamost.writeto(tmp_path / "spec.fits")
    error = fault(tmp_path / "spec.fits")
    assert error.reason == "other_instrument" and "telescope LAMOST" in error.detail
    np.savez(tmp_path / "desi.npz", source_id=IDS, wavelength=np.linspace(3600, 9800, 343), flux=np.ones((N, 343)))
    error = fault(tmp_path / "desi.npz")
    assert error.reason == "other_instrument" and "wavelengths run from 3600 to 9800" in error.detail
    (tmp_path / "labels.csv").write_text("source_id,teff\n1,5000\n")
    error = fault(tmp_path / "labels.csv")
    assert error.reason == "unknown_format" and "the CSV file has source_id, teff" in error.detail


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", source_id=IDS, coefficients=np.array([{}, {}, {}], dtype=object))
    error = fault(tmp_path / "x.npz")
    assert error.reason == "corrupt" and "allow_pickle=False" in error.detail


def test_matrix_of_text_with_missing_elements():
    column = pa.chunked_array([["[1, null, 3]", None, "(1E1,nan, -2.5e-3)"]])
    np.testing.assert_array_equal(matrix(column, 3, "v"), [[1, np.nan, 3], [np.nan] * 3, [10, np.nan, -0.0025]])


# Real files


@pytest.mark.shared
def test_archive_formats_agree_with_each_other(shared):
    folder = shared / "gaia_xp_formats"
    first = read(folder / "XP_CONTINUOUS_RAW.csv")
    for name in ("XP_CONTINUOUS_RAW.ecsv", "XP_CONTINUOUS_RAW.fits", "XP_CONTINUOUS_RAW.xml"):
        other = read(folder / name)
        np.testing.assert_allclose(other.flux, first.flux, rtol=1e-10)
        np.testing.assert_allclose(other.ivar, first.ivar, rtol=1e-5)  # correlations are float32 there
        assert other.metadata.drop_columns("source_file").equals(first.metadata.drop_columns("source_file"))
    for ending in ("dr3int6.csv", "dr3int6.ecsv", "dr3int6.fits", "votable_dr3int6.xml"):
        sampled = read(folder / f"XP_SAMPLED_RAW_{ending}")
        np.testing.assert_allclose(sampled.flux[0], first.flux[0], rtol=0, atol=3e-6 * first.flux[0].max())  # the same star
        np.testing.assert_allclose(sampled.ivar[0], first.ivar[0], rtol=2e-4)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "n", "reader"),
    [
        ("gaia_xp_formats/18Sco-XP-spectra.csv", 1, "gaia_xp_continuous"),
        ("gaia_xp_formats/XP_CONTINUOUS_RAW_with_missing_BP.csv", 3, "gaia_xp_continuous"),
        ("gaia_xp_formats/ten_sources_xp_continuous.csv.gz", 10, "gaia_xp_continuous"),
        ("gaia_xp_formats/weiler2023_examples.vot", 4, "gaia_xp_continuous"),
        ("gaia_xp_field2000/xp_continuous.fits", 2000, "gaia_xp_continuous"),
        ("gaia_xp_field2000/xp_sampled.npz", 2000, "gaia_xp_sampled"),
        ("gaia_xp_vosa2815/xp_coefficients.npz", 2815, "gaia_xp_continuous"),
        ("gaia_xp_pn_symbiotic/planetary_nebula.npz", 212, "gaia_xp_continuous"),
        ("gaia_xp_pn_symbiotic/symbiotic.npz", 97, "gaia_xp_continuous"),
        ("gaia_xp_calspec/calspec41_xp_sampled.hdf5", 41, "gaia_xp_sampled"),
        ("gaia_xp_calspec/calspec91_xp_vs_calspec.parquet", 91, "gaia_xp_sampled"),
        ("gaia_xp_calspec/lsst_ddf30_xp_continuous.parquet", 30, "gaia_xp_continuous"),
        ("pairs/xp_sampled_three_stars.csv", 3, "gaia_xp_sampled"),
    ],
)
def test_real_files_are_read(shared, name, n, reader):
    opened = OpenSource(Source(shared / name))
    assert find_reader(opened, READERS).name == reader
    assert sum(len(batch) for batch in read_source(Source(shared / name), READERS)) == n


@pytest.mark.shared
def test_our_samples_equal_those_computed_with_gaiaxpy(shared):
    nebulae = shared / "gaia_xp_pn_symbiotic" / "planetary_nebula.npz"
    ours, theirs = read(nebulae), read(nebulae, ("gaia_xp_sampled",))
    scale = np.abs(theirs.flux).max(axis=1, keepdims=True)
    assert np.nanmax(np.abs(ours.flux - theirs.flux) / scale) < 1e-5  # coefficients stored as float32


@pytest.mark.shared
@pytest.mark.parametrize("name", ["lamost_misc/mrs", "sdss_stellar", "desi_edr_format", "lamost_dr8_repeat"])
def test_other_surveys_are_declined(shared, name):
    path = next(p for p in sorted((shared / name).rglob("*.fits*")))
    error = fault(path)
    assert isinstance(error, FormatError) and error.reason in ("other_instrument", "unknown_format")
    assert json.dumps(error.detail)  # one line of text
