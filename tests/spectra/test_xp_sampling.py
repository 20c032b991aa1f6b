"""Coefficients to samples, against GaiaXPy itself."""

import gzip

import numpy as np
import pytest

from specdb.errors import InputError
from specdb.spectra import Source
from specdb.spectra.readers import read_source
from specdb.spectra.xp_sampling import N_CORRELATIONS, XpArm, load_xp_sampling

SAMPLING_NM = np.arange(336, 1021, 2)


def gaiaxpy_calibrate(source):
    """Flux and error (n, 343) from GaiaXPy for a file or a DataFrame."""
    gaiaxpy = pytest.importorskip("gaiaxpy")
    spectra, _ = gaiaxpy.calibrate(source, truncation=False, save_file=False)
    return np.stack(spectra["flux"].to_list()), np.stack(spectra["flux_error"].to_list())


def random_arm(rng, n=6, missing=()):
    """Coefficients, errors and a valid correlation matrix, as the archive packs it."""
    basis = rng.standard_normal((n, 55, 80))
    covariance = basis @ basis.transpose(0, 2, 1)
    scale = np.sqrt(np.einsum("nii->ni", covariance))
    correlation = covariance / scale[:, :, None] / scale[:, None, :]
    row, column = np.tril_indices(55, -1)
    coefficients, errors = rng.standard_normal((n, 55)) * 1e4, rng.uniform(1, 10, (n, 55))
    coefficients[list(missing)] = np.nan
    return XpArm(coefficients, errors, correlation[:, row, column])


def as_frame(bp, rp):
    """The DataFrame that GaiaXPy takes, with NaN for missing arms as in the archive."""
    pandas = pytest.importorskip("pandas")
    columns = {"source_id": np.arange(1, len(bp.coefficients) + 1)}
    for name, arm in (("bp", bp), ("rp", rp)):
        there = arm.present
        vectors = {
            "coefficients": arm.coefficients,
            "coefficient_errors": arm.errors,
            "coefficient_correlations": arm.correlations,
        }
        columns |= {
            f"{name}_{key}": [v if t else np.nan for v, t in zip(value, there, strict=True)]
            for key, value in vectors.items()
        }
        columns |= {
            f"{name}_n_parameters": np.where(there, 55, np.nan),
            f"{name}_standard_deviation": np.where(there, 1.3, np.nan),
        }
    return pandas.DataFrame(columns)


def assert_same(found, expected):
    """Equal to float32 rounding of each spectrum's own scale, and NaN at the same places."""
    scale = np.nanmax(np.abs(expected), axis=1, keepdims=True)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found - expected) / scale) < 1e-12  # float64 throughout, so far better than float32's 6e-8


def test_agrees_with_gaiaxpy_with_correlations_and_missing_arms():
    rng = np.random.default_rng(1)
    bp, rp = random_arm(rng, missing=[2]), random_arm(rng, missing=[4])
    flux, error = gaiaxpy_calibrate(as_frame(bp, rp))
    sampling = load_xp_sampling()
    assert_same(sampling.flux(bp, rp), flux)
    ivar = sampling.ivar(bp, rp)
    assert (ivar[np.isnan(flux)] == 0).all()
    with np.errstate(divide="ignore"):
        found = np.where(ivar > 0, ivar**-0.5, np.nan)
    np.testing.assert_allclose(found, error, rtol=1e-9)


def test_errors_without_correlations_are_the_diagonal():
    rng = np.random.default_rng(2)
    bp, rp = random_arm(rng), random_arm(rng)
    zero = np.zeros((len(bp.coefficients), N_CORRELATIONS))
    sampling = load_xp_sampling()
    expected = sampling.ivar(XpArm(bp.coefficients, bp.errors, zero), XpArm(rp.coefficients, rp.errors, zero))
    np.testing.assert_allclose(
        sampling.ivar(XpArm(bp.coefficients, bp.errors), XpArm(rp.coefficients, rp.errors)), expected, rtol=1e-12
    )
    unknown = XpArm(bp.coefficients, bp.errors, zero * np.nan), XpArm(rp.coefficients, rp.errors, zero * np.nan)
    np.testing.assert_allclose(sampling.ivar(*unknown), expected, rtol=1e-12)


def test_no_errors_no_ivar_and_bad_errors_zero_ivar():
    rng = np.random.default_rng(3)
    bp, rp = random_arm(rng), random_arm(rng)
    sampling = load_xp_sampling()
    assert sampling.ivar(XpArm(bp.coefficients), XpArm(rp.coefficients)) is None
    bp.errors[1] = np.nan
    ivar = sampling.ivar(bp, rp)
    assert (ivar[1, SAMPLING_NM < 635] == 0).all() and (ivar[1, SAMPLING_NM > 643] > 0).all() and (ivar[0] > 0).all()


def test_source_without_any_arm_is_nan():
    bp, rp = (random_arm(np.random.default_rng(4), missing=range(6)) for _ in range(2))
    sampling = load_xp_sampling()
    assert np.isnan(sampling.flux(bp, rp)).all() and not sampling.ivar(bp, rp).any()


def test_shape_is_checked():
    with pytest.raises(InputError, match=r"errors of an XP arm has shape \(2, 54\); expected \(2, 55\)"):
        XpArm(np.zeros((2, 55)), np.zeros((2, 54)))


def test_table_says_where_it_comes_from():
    sampling = load_xp_sampling()
    assert "GaiaXPy 2." in sampling.provenance["source"] and "v375wi" in sampling.provenance["calibration_model"]
    np.testing.assert_array_equal(sampling.wavelength_nm, SAMPLING_NM)


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        "XP_CONTINUOUS_RAW.csv",
        "XP_CONTINUOUS_RAW_with_missing_BP.fits",
        "weiler2023_examples.vot",
        "ten_sources_xp_continuous.csv.gz",
    ],
)
def test_real_archive_files_agree_with_gaiaxpy(shared, name, tmp_path):
    path = shared / "gaia_xp_formats" / name
    batches = list(read_source(Source(path), ("gaia_xp_continuous",)))
    if name.endswith(".gz"):  # GaiaXPy does not read compressed files
        path = tmp_path / name.removesuffix(".gz")
        path.write_bytes(gzip.decompress((shared / "gaia_xp_formats" / name).read_bytes()))
    if name.endswith(".vot"):  # GaiaXPy goes by the ending
        path = tmp_path / "examples.xml"
        path.write_bytes((shared / "gaia_xp_formats" / name).read_bytes())
    flux, error = gaiaxpy_calibrate(str(path))
    assert_same(np.concatenate([batch.flux for batch in batches]), flux)
    ivar = np.concatenate([batch.ivar for batch in batches])
    good = np.isfinite(flux)
    np.testing.assert_allclose(ivar[good] ** -0.5, error[good], rtol=1e-6)
    assert (ivar[~good] == 0).all()
