"""Generic formats and arrays: text, Parquet, HDF5, npz, SpecCLIP's HDF5, and what a user hands over in Python."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from specdb.errors import InputError, ReadError
from specdb.spectra import REASONS, Source, Spectra
from specdb.spectra.readers import content_ids, from_arrays, read_source
from specdb.spectra.readers.columns import column_role, ivar_from_error, vacuum_angstrom

WAVE = 4000.0 + np.arange(50)
FLUX = 1.0 + np.sin(np.arange(50) / 5)


def read(content: bytes | str | Path, reader: str = "text", name: str = "star.txt") -> list[Spectra]:
    if isinstance(content, Path):
        return list(read_source(Source(content), [reader]))
    data = content.encode() if isinstance(content, str) else content
    return list(read_source(Source(Path(name), content=data), [reader]))


def error(content: bytes | str | Path, reader: str = "text") -> ReadError:
    with pytest.raises(ReadError) as caught:
        read(content, reader)
    return caught.value


def table(*columns: np.ndarray, separator: str = " ", head: str = "") -> str:
    return head + "\n".join(separator.join(f"{v:.8g}" for v in line) for line in zip(*columns, strict=True)) + "\n"


# text


@pytest.mark.parametrize("separator", [" ", ",", "\t", ";", "   "])
@pytest.mark.parametrize("head", ["", "# a comment\n", "# wavelength flux\n", "% any\n! thing\n\n"])
def test_two_columns(separator: str, head: str) -> None:
    (spectra,) = read(table(WAVE, FLUX, separator=separator, head=head))
    np.testing.assert_allclose(spectra.wavelength, WAVE)
    np.testing.assert_allclose(spectra.flux, FLUX[None], rtol=1e-7)
    assert spectra.ivar is None
    (facts,) = spectra.metadata.to_pylist()
    assert facts["object_name"] == "star" and facts["spectrum_id"] >= 2**62


def test_a_third_column_without_name_is_the_error() -> None:
    (spectra,) = read(table(WAVE, FLUX, np.full(50, 0.5)))
    np.testing.assert_allclose(spectra.ivar, 4)


@pytest.mark.parametrize(
    ("head", "columns", "ivar"),
    [
        ("wavelength,flux,error\n", (WAVE, FLUX, np.full(50, 0.5)), 4.0),
        ("flux,ivar,wave\n", (FLUX, np.full(50, 3.0), WAVE), 3.0),
        ("Wavelength [nm],Flux\n", (WAVE / 10, FLUX), None),
        ("wave_um,flux\n", (WAVE / 1e4, FLUX), None),
        ('"loglam","flux","other"\n', (np.log10(WAVE), FLUX, WAVE * 0), None),
        ("lambda(A),spectrum,sigma\n", (WAVE, FLUX, np.full(50, 0.5)), 4.0),
    ],
)
def test_columns_are_found_by_name(head: str, columns: tuple, ivar: float | None) -> None:
    (spectra,) = read(table(*columns, separator=",", head=head))
    np.testing.assert_allclose(spectra.wavelength, WAVE, rtol=1e-6)
    np.testing.assert_allclose(spectra.flux[0], FLUX, rtol=1e-6)
    assert (spectra.ivar is None) if ivar is None else np.allclose(spectra.ivar, ivar)


def test_rows_instead_of_columns() -> None:
    (spectra,) = read("\n".join(",".join(f"{v:.8g}" for v in line) for line in (WAVE, FLUX, np.full(50, 0.5))))
    np.testing.assert_allclose(spectra.wavelength, WAVE)
    np.testing.assert_allclose(spectra.ivar, 4)


def test_ecsv_brings_units_and_facts() -> None:
    made = Table({"wave": (WAVE / 10) * u.nm, "flux": FLUX, "error": np.ma.masked_equal(np.arange(50.0), 7)})
    made.meta = {"ra": 10.5, "dec": -3.0, "object_name": "HD 1", "comment": "x"}
    text = io.StringIO()
    made.write(text, format="ascii.ecsv")
    (spectra,) = read(text.getvalue())
    np.testing.assert_allclose(spectra.wavelength, WAVE)
    assert spectra.ivar[0, 7] == spectra.ivar[0, 0] == 0 and spectra.ivar[0, 2] == 0.25
    (facts,) = spectra.metadata.to_pylist()
    assert (facts["ra"], facts["dec"], facts["object_name"]) == (10.5, -3.0, "HD 1")


def test_empty_fields_are_missing_values() -> None:
    (spectra,) = read("wavelength,flux,error\n4000,,1\n4001,2,3\n")
    assert np.isnan(spectra.flux[0, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("obsid,teff\n1,5000\n", "no flux among the columns"),
        ("id,flux\n1,2\n2,3\n", "expected wavelength and flux"),
        ("1 2 3 4\n5 6 7 8\n9 1 2 3\n5 5 5 5\n", "4 columns without names"),
        ("4000 1\n4001\n", r"lines of \[1, 2\] fields"),
        ("4000 1\n4001 x\n", "expected numbers only below the names"),
        ("4000 1\n", "1 pixels"),
        ("wavelength_air,flux\n4000,1\n4001,1\n", "wavelengths are in air"),
        ("wavelength [parsec],flux\n4000,1\n4001,1\n", "wavelength in 'parsec'; expected Angstrom, nm or micron"),
        ("wavelength,flux,error\n4000,1\n4001,1\n", "3 names for 2 columns"),
        (b"\xff\xfe text", "not UTF-8 text"),
        (b"\0\0", "found binary data"),
        ("# %ECSV 1.0\n# ---\n# nonsense\n", "ECSV"),
    ],
)
def test_text_that_is_no_spectrum_is_explained(text: str | bytes, message: str) -> None:
    declined = error(text)
    assert declined.reason == "unknown_format"
    assert re.search(message, declined.detail), declined.detail


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.binary(max_size=200), st.text(alphabet="0123456789.,eE+- \n#wavlengthfux", max_size=200).map(str.encode))
)
def test_any_text_gives_a_spectrum_or_a_read_error(content: bytes) -> None:
    for reader in ("text", "columnar", "specclip_hdf5_lrs"):
        try:
            for spectra in read(content, reader):
                assert len(spectra) == 1
        except ReadError as caught:
            assert caught.reason in REASONS


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e30, 1e30)), st.sampled_from([",", " ", "\t"]))
def test_text_round_trip(flux: np.ndarray, separator: str) -> None:
    wavelength = 4000.0 + np.arange(flux.size)
    lines = [f"{float(w)!r}{separator}{float(f)!r}" for w, f in zip(wavelength, flux, strict=True)]
    (spectra,) = read("wavelength" + separator + "flux\n" + "\n".join(lines))
    np.testing.assert_array_equal(spectra.flux[0], flux)
    np.testing.assert_array_equal(spectra.wavelength, wavelength)


def test_ranges_decide_where_no_unit_is_given() -> None:
    for factor in (1.0, 0.1, 1e-4):
        np.testing.assert_allclose(vacuum_angstrom(WAVE * factor, "wavelength"), WAVE)
    np.testing.assert_allclose(vacuum_angstrom(np.log10(WAVE), "wavelength"), WAVE)
    assert column_role("Flux") == ("flux", "") and column_role("teff") == ("", "")
    assert column_role("wave (µm)") == ("wavelength", "µm")
    np.testing.assert_array_equal(ivar_from_error([0, -1, np.nan, np.inf, 0.5]), [0, 0, 0, 0, 4])


# one file of many spectra


N = 2500  # more than two batches


@pytest.fixture(scope="module")
def many() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "flux": rng.normal(size=(N, 50)).astype("f4"),
        "ivar": rng.uniform(size=(N, 50)).astype("f4"),
        "source_id": np.arange(N) + 2**61,
        "ra": rng.uniform(0, 360, N),
        "subclass": np.array(["G5", "K3"] * (N // 2)),
    }


def check(batches: list[Spectra], many: dict[str, np.ndarray]) -> None:
    assert [len(batch) for batch in batches] == [1024, 1024, N - 2048]
    np.testing.assert_array_equal(np.concatenate([b.flux for b in batches]), many["flux"])
    np.testing.assert_array_equal(np.concatenate([b.ivar for b in batches]), many["ivar"])
    np.testing.assert_allclose(batches[0].wavelength, WAVE)
    facts = pa.concat_tables([b.metadata for b in batches])
    assert facts["spectrum_id"].to_pylist() == facts["gaia_source_id"].to_pylist() == many["source_id"].tolist()
    assert facts["ra"].to_pylist() == many["ra"].tolist() and facts["subclass"].to_pylist() == many["subclass"].tolist()
    assert facts["dec"].null_count == N


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("grid", ["metadata", "coefficients", "column"])
def test_parquet(tmp_path: Path, many: dict, fixed: bool, grid: str) -> None:
    def lists(values: np.ndarray) -> pa.Array:
        made = pa.FixedSizeListArray.from_arrays(values.ravel(), values.shape[1])
        return made if fixed else made.cast(pa.list_(pa.from_numpy_dtype(values.dtype)))

    columns = {name: lists(v) if v.ndim == 2 else pa.array(v) for name, v in many.items()}
    metadata = {"metadata": {"wavelength_vac_angstrom": json.dumps(WAVE.tolist())}, "column": {}}
    if grid == "coefficients":
        wavelength = 10 ** (3.6 + 1e-4 * np.arange(50))
        metadata["coefficients"] = {"coeff0": "3.6", "coeff1": "0.0001"}
    elif grid == "column":
        columns["wavelength"] = lists(np.tile(WAVE, (N, 1)))
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata[grid]), tmp_path / "x.parquet", row_group_size=1000)
    batches = read(tmp_path / "x.parquet", "columnar")
    if grid == "coefficients":
        np.testing.assert_allclose(batches[0].wavelength, wavelength)
        return
    check(batches, many)


def test_hdf5(tmp_path: Path, many: dict) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, values in many.items():
            file[name] = values.astype("S2") if values.dtype.kind == "U" else values
        file["wavelength"] = WAVE / 10
        file["wavelength"].attrs["unit"] = "nm"
    check(read(tmp_path / "x.h5", "columnar"), many)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, many: dict, save) -> None:
    save(tmp_path / "x.npz", **many, wave=WAVE)
    check(read(tmp_path / "x.npz", "columnar"), many)


def test_npz_with_errors_a_log_grid_and_no_ids(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", flux=np.ones((3, 4), "f2"), error=np.full((3, 4), 0.5), log10_wave0=3.6, dlog10_wave=1e-4)
    (spectra,) = read(tmp_path / "x.npz", "columnar")
    np.testing.assert_allclose(spectra.wavelength, 10 ** (3.6 + 1e-4 * np.arange(4)))
    np.testing.assert_array_equal(spectra.ivar, np.full((3, 4), 4))
    assert all(number >= 2**62 for number in spectra.metadata["spectrum_id"].to_pylist())


def test_parquet_on_different_grids_is_refused(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"flux": [[1.0, 2.0], [1.0, 2.0]], "wavelength": [[1.0, 2.0], [1.0, 3.0]]}), tmp_path / "x.parquet"
    )
    assert "one grid per file" in str(error(tmp_path / "x.parquet", "columnar"))


def test_ragged_parquet_is_corrupt(tmp_path: Path) -> None:
    made = pa.table({"flux": [[1.0, 2.0], [1.0]]}).replace_schema_metadata({"wavelength": "[4000, 4001]"})
    pq.write_table(made, tmp_path / "x.parquet")
    assert "rows of [1, 2] values" in str(error(tmp_path / "x.parquet", "columnar"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ra": np.ones(3)}, "no flux (n, n_pix)"),
        ({"flux": np.ones((3, 4))}, "no wavelength of 4 pixels"),
        ({"flux": np.asfortranarray(np.ones((3, 4))), "wave": WAVE[:4]}, "Fortran order"),
        ({"flux": np.ones((3, 4)), "wave": WAVE[:4], "label": np.array([None])}, "pickle, which is never read"),
        (
            {"flux": np.ones((3, 4)), "wave": WAVE[:4], "ra": np.array(["a", "b", "c"])},
            "column 'ra' holds 'a'; expected a number",
        ),
    ],
)
def test_npz_that_cannot_be_used(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    assert message in str(error(tmp_path / "x.npz", "columnar"))


@pytest.mark.parametrize("ending", ["npz", "h5", "parquet"])
def test_truncated_containers_are_read_errors(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    if ending == "npz":
        np.savez(path, flux=np.ones((99, 50)), wave=WAVE)
    elif ending == "h5":
        with h5py.File(path, "w") as file:
            file["flux"], file["wave"] = np.ones((99, 50)), WAVE
    else:
        pq.write_table(pa.table({"flux": [[1.0, 2.0]] * 99}), path)
    path.write_bytes(path.read_bytes()[:-500])
    assert error(path, "columnar").reason in REASONS


# SpecCLIP


@pytest.fixture
def specclip(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    with h5py.File(tmp_path / "pairs.h5", "w") as file:
        test = file.create_group("test")
        test["source_ids"] = np.arange(1500) + 2**61
        test["gaia_spectra"] = rng.normal(size=(1500, 343)).astype("f4")
        test["lamost_spectra"] = rng.normal(size=(1500, 1462, 1)).astype("f4")
    return tmp_path / "pairs.h5"


def test_specclip_halves(specclip: Path) -> None:
    lrs, xp = read(specclip, "specclip_hdf5_lrs"), read(specclip, "specclip_hdf5_xp")
    assert [len(b) for b in lrs] == [len(b) for b in xp] == [1024, 476]
    with h5py.File(specclip) as file:
        np.testing.assert_array_equal(lrs[1].flux, file["test/lamost_spectra"][1024:, :, 0])
        np.testing.assert_array_equal(xp[0].flux, file["test/gaia_spectra"][:1024])
    np.testing.assert_allclose(lrs[0].wavelength[[0, -1]], [3999.447, 5598.865], atol=1e-3)
    np.testing.assert_array_equal(xp[0].wavelength[[0, 107, 342]], [3360, 5500, 10200])
    assert lrs[0].log10_grid == (3.602, 1e-4)
    assert xp[0].metadata["spectrum_id"][0].as_py() == lrs[0].metadata["gaia_source_id"][0].as_py() == 2**61
    assert lrs[0].metadata["spectrum_id"][0].as_py() >= 2**62


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.array([b"Gaia DR3 123", b"456"]), [123, 456]),
        (np.array([5.9e17, 7.0]), [None, None]),
        (np.array([0, -4]), [None, None]),
        (np.array([b"none", b"x.9"]), [None, None]),
    ],
)
def test_specclip_ids(tmp_path: Path, ids: np.ndarray, expected: list) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["test/source_ids"], file["test/gaia_spectra"] = ids, np.ones((2, 343))
    (spectra,) = read(tmp_path / "x.h5", "specclip_hdf5_xp")
    assert spectra.metadata["gaia_source_id"].to_pylist() == expected


def test_specclip_declines(tmp_path: Path, specclip: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["test/source_ids"], file["test/gaia_spectra"] = np.arange(3), np.ones((2, 343))
        file["flux"] = np.ones(3)
    assert "3 source_ids" in str(error(tmp_path / "x.h5", "specclip_hdf5_xp"))
    assert "looked for a group with source_ids and lamost_spectra" in str(error(tmp_path / "x.h5", "specclip_hdf5_lrs"))
    assert "looked for HDF5" in str(error("text", "specclip_hdf5_lrs"))
    with pytest.raises(ReadError, match="missing_column: no group has source_ids"):
        list(read_source(Source(tmp_path / "x.h5"), (), file_format="specclip_hdf5_lrs"))


# arrays


def test_arrays_handed_over() -> None:
    spectra = from_arrays(WAVE, FLUX)
    assert spectra.flux.shape == (1, 50) and spectra.metadata["spectrum_id"][0].as_py() >= 2**62
    masked = np.ma.masked_less(np.stack([FLUX, FLUX]), 0.5)
    metadata = pa.table({"ra": [1.0, 2.0], "class": ["STAR", None]})
    spectra = from_arrays(WAVE, masked, np.ones((2, 50)), ids=[7, 8], metadata=metadata)
    assert np.isnan(spectra.flux).sum() == masked.mask.sum() and spectra.ivar.dtype == np.float32
    assert spectra.metadata["spectrum_id"].to_pylist() == [7, 8] and spectra.metadata["class"].to_pylist() == ["STAR", None]
    assert from_arrays(WAVE, FLUX.astype("f4"), metadata={"spectrum_id": [3]}).flux.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flux": np.ones((2, 49))}, r"wavelength has shape \(50,\), flux \(2, 49\)"),
        ({"flux": "abc"}, "flux is no array of numbers"),
        ({"wavelength_vac_angstrom": WAVE[::-1]}, "strictly increasing"),
        ({"wavelength_vac_angstrom": np.where(WAVE > 4040, np.nan, WAVE)}, "must be finite"),
        ({"wavelength_vac_angstrom": WAVE / 10}, "multiply nm by 10"),
        ({"ivar": np.ones((2, 50))}, r"ivar has shape \(2, 50\)"),
        ({"ids": [1, 2]}, "1 distinct integers"),
        ({"ids": [1.5]}, "1 distinct integers"),
        ({"flux": np.ones((2, 50)), "ids": [4, 4]}, "2 distinct integers"),
        ({"metadata": {"teff": [5000]}}, r"unknown columns \['teff'\]"),
        ({"metadata": {"ra": [1.0, 2.0]}}, "'ra' has 2 entries for 1 spectra"),
        ({"metadata": {"ra": ["here"]}}, "metadata: "),
    ],
)
def test_arrays_that_do_not_fit_are_explained(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_arrays(**{"wavelength_vac_angstrom": WAVE, "flux": FLUX} | arguments)


def test_content_ids_depend_on_flux_and_grid_only() -> None:
    flux = np.random.default_rng(0).normal(size=(100, 50))
    ids = content_ids(flux, WAVE)
    assert ids.dtype == np.int64 and len(set(ids.tolist())) == 100 and (ids >= 2**62).all()
    np.testing.assert_array_equal(ids, content_ids(flux.astype(">f4"), WAVE))
    assert not set(ids.tolist()) & set(content_ids(flux, WAVE + 1).tolist())
    # The value itself is part of every database written so far.
    assert content_ids(np.zeros((1, 3)), np.array([4000.0, 4001.0, 4002.0]))[0] == 6441887276468292884
