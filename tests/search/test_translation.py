"""Searching and predicting across modalities: by id, file and array, both ways; errors; files."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from astropy.table import Table
from click.testing import CliRunner, Result

import specdb
from indexer import IngestSettings, build_index
from indexer.evaluate.pairs import simulated_pairs
from indexer.train.translation import CalibrationSettings, calibrate_translation, coverage
from specdb.cli import cli
from specdb.encoders.heads import VectorDecoder
from specdb.errors import CheckpointError, InputError, QueryError
from specdb.plots.style import save_figure
from specdb.plots.translation import translation_figure
from specdb.search.error_model import ERRORS_FILE, decode, load_error_models, save_error_models
from specdb.search.flux_scale import scale_from_g, scale_from_metadata, user_scale
from specdb.spectra import Source, Spectra, get_modality
from specdb.spectra.readers import read_source
from specdb.store import Store, matrix
from tests.search.two_modalities import SPLIT, TwoModalities, build_two_modalities, save_encoder

WAYS = [("lamost_lrs", "gaia_xp"), ("gaia_xp", "lamost_lrs")]
QUICK = CalibrationSettings(members=4, steps=60, batch_size=128)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> TwoModalities:
    return build_two_modalities(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def calibrated(two: TwoModalities) -> TwoModalities:
    models = calibrate_translation(two.encoder, simulated_pairs(500, 99), QUICK)
    marked = {target: replace(model, facts=model.facts | {"origin": "simulated"}) for target, model in models.items()}
    save_error_models(two.encoder_folder, two.encoder.weight_hash, marked)
    return two


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def error_of(result: Result) -> str:
    assert result.exit_code == 1, result.output
    return result.stderr.strip().splitlines()[-1]


def ids_of(two: TwoModalities, modality: str) -> np.ndarray:
    return Store.open(two.db).ids(modality)


def file_of(two: TwoModalities, modality: str, spectrum_id: int) -> tuple[Path, Spectra]:
    """Return a file that holds one spectrum, and its content."""
    if modality == "lamost_lrs":
        for path in sorted(two.survey.lamost.rglob("*.gz")):
            spectra = next(iter(read_source(Source(path), ("lamost",))))
            if spectra.metadata["spectrum_id"][0].as_py() == spectrum_id:
                return path, spectra
    (source,) = two.survey.xp_continuous.iterdir()
    row = next(i for i, value in enumerate(pq_ids(source)) if value == spectrum_id)
    path = two.db.parent / f"{spectrum_id}.fits"
    if not path.exists():
        Table.read(source)[row : row + 1].write(path)
    return path, next(iter(read_source(Source(path), get_modality("gaia_xp").readers)))


def pq_ids(path: Path) -> list[int]:
    return [int(i) for i in Table.read(path)["source_id"]]


class TestSearchAcross:
    @pytest.mark.parametrize(("source", "to"), WAYS)
    def test_ids_files_and_arrays_agree(self, two: TwoModalities, source: str, to: str) -> None:
        db = specdb.open(two.db)
        spectrum_id = int(ids_of(two, source)[0])
        by_id = db.search(spectrum_id, to=to, k=5)
        path, spectra = file_of(two, source, spectrum_id)
        assert by_id.modality == to
        assert set(by_id.ids.tolist()) <= set(ids_of(two, to).tolist())
        assert db.search(path, to=to, k=5).ids.tolist() == by_id.ids.tolist()
        assert db.search(spectra, modality=source, to=to, k=5).ids.tolist() == by_id.ids.tolist()
        shown = run("search", spectrum_id, "--to", to, "-k", 5, "--csv", "--db", two.db)
        assert [int(line.split(",")[2]) for line in shown.stdout.splitlines()[1:]] == by_id.ids.tolist()

    def test_the_encoder_must_know_both(self, two: TwoModalities) -> None:
        assert "has no modality 'desi'" in error_of(run("search", ids_of(two, "gaia_xp")[0], "--to", "desi", "--db", two.db))


class TestDecode:
    def test_masks_depend_on_nothing_but_the_decoder(self) -> None:
        torch.manual_seed(0)
        decoder = VectorDecoder(8, (16, 16, 16), 30, 0.1).eval()
        shared = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
        whole, part = decode(decoder, shared, 6, 0.2), decode(decoder, shared[7:9], 6, 0.2)
        np.testing.assert_allclose(part.spread, whole.spread[7:9], rtol=1e-4)
        np.testing.assert_allclose(whole.flux, decoder(torch.from_numpy(shared)).detach().numpy(), rtol=1e-5, atol=1e-6)
        assert (whole.spread > 0).all()
        assert not decode(decoder, shared, 1, 0.2).spread.any()


class TestErrorModel:
    def test_intervals_hold_what_they_claim(self, two: TwoModalities, calibrated: TwoModalities) -> None:
        models = load_error_models(two.encoder_folder, two.encoder.weight_hash)
        others = simulated_pairs(300, 98)
        for source, to in WAYS:
            shared = two.encoder.encode(others.flux[source], source, normalise=False)["shared"]
            decoder = two.encoder.model.get_submodule(f"{to}_cross_decoder")
            found = decode(decoder, shared, models[to].members, models[to].dropout)
            half = models[to].half_widths(shared, others.snr[source], found.spread)
            held = coverage(others.flux[to] - found.flux, others.sigma(to), *half)
            assert 0.58 < held["68%"] < 0.78
            assert 0.88 < held["95%"] < 0.99
            assert set(models[to].facts) >= {"coverage", "coverage_by_snr_third", "pairs"}

    def test_without_errors_a_low_snr_is_assumed(self, calibrated: TwoModalities) -> None:
        model = load_error_models(calibrated.encoder_folder, calibrated.encoder.weight_hash)["gaia_xp"]
        shared = np.ones((2, 16), np.float32)
        np.testing.assert_array_equal(*model.features(shared, np.array([np.nan, model.snr[1]])))
        np.testing.assert_array_equal(*model.features(shared, np.array([1e9, model.snr[2]])))

    def test_files_of_other_weights_and_damaged_ones(self, calibrated: TwoModalities, tmp_path: Path) -> None:
        assert load_error_models(tmp_path, "a" * 64) == {}
        shutil.copy(calibrated.encoder_folder / ERRORS_FILE, tmp_path)
        with pytest.raises(CheckpointError, match=r"was calibrated for weights .*, not aaaa.*makes it anew"):
            load_error_models(tmp_path, "a" * 64)
        (tmp_path / ERRORS_FILE).write_bytes(b"junk")
        with pytest.raises(CheckpointError, match="is no error model of an encoder"):
            load_error_models(tmp_path, "a" * 64)

    def test_what_cannot_be_calibrated(self, two: TwoModalities, tmp_path: Path) -> None:
        base = save_encoder(tmp_path, replace(SPLIT, variant="base", head=replace(SPLIT.head, private=0), decoder=None))
        with pytest.raises(InputError, match="has no cross-modal decoders; translation needs variant p, pr or split"):
            calibrate_translation(base, simulated_pairs(20, 1))
        with pytest.raises(InputError, match="needs 100 or more"):
            calibrate_translation(two.encoder, simulated_pairs(20, 1))
        with pytest.raises(InputError, match="draw at least one pair"):
            simulated_pairs(0, 1)


class TestFluxScale:
    flat = np.ones((1, 343))

    def test_magnitudes_set_the_scale(self) -> None:
        # A flat spectrum of G = 0 has Vega's mean flux in G: about 2.5e-11 W m-2 nm-1 (Riello et al. 2021).
        assert scale_from_g(self.flat, np.array([0.0]))[0] == pytest.approx(2.5e-11, rel=0.08)
        assert scale_from_g(self.flat, np.array([5.0]))[0] == pytest.approx(2.5e-13, rel=0.08)
        rows = [{"mag_type": "gri", "mag_r": 15.0}, {"mag_ps_r": 15.0, "mag_r": 3.0}, {"phot_g_mean_mag": 15.0}, {}]
        scale, origin = scale_from_metadata(np.repeat(self.flat, 4, axis=0), rows)
        # AB = 15 at 617 nm: 3631 Jy c / lambda^2.
        assert scale[0] == scale[1] == pytest.approx(3631e-26 * 10**-6 * 2.998e17 / 617**2, rel=0.01)
        assert np.isnan(scale[3])
        assert origin == ["input magnitudes r = 15.00", "Pan-STARRS magnitudes r = 15.00", "G = 15.00", ""]
        assert scale_from_metadata(self.flat, [{"mag_type": "jhk", "mag_g": 3.0}])[1] == [""]
        assert len(scale_from_metadata(np.empty((0, 343)), [])[0]) == 0

    @pytest.mark.shared
    def test_g_of_real_stars(self, shared: Path) -> None:
        folder = shared / "gaia_xp_calspec"
        known = pq.read_table(folder / "lsst_ddf30_gaia_source.parquet")
        g = dict(zip(known["source_id"].to_pylist(), known["phot_g_mean_mag"].to_pylist(), strict=True))
        (stars,) = read_source(Source(folder / "lsst_ddf30_xp_continuous.parquet"), ("gaia_xp_continuous",))
        magnitude = np.array([g[i] for i in stars.metadata["spectrum_id"].to_pylist()])
        at_550 = stars.flux[:, 107]
        error = 2.5 * np.log10(scale_from_g(stars.flux / at_550[:, None], magnitude) / at_550)
        assert abs(np.median(error)) < 0.02
        assert np.abs(error).max() < 0.1

    def test_what_users_give(self) -> None:
        assert user_scale(self.flat, None, None) is None
        given = user_scale(self.flat, None, 1e-16)
        assert given is not None
        assert given[0] == 1e-16
        for arguments, message in (
            ((10.0, 1e-16), "one of them sets the scale"),
            (([1.0, 2.0], None), "2 values of G for 1 spectra"),
            ((None, -1.0), "finite and positive"),
            ((float("nan"), None), "must be finite"),
        ):
            with pytest.raises(InputError, match=message):
                user_scale(self.flat, *arguments)


class TestTranslate:
    @pytest.mark.parametrize("method", ["decoder", "neighbours"])
    @pytest.mark.parametrize(("source", "to"), WAYS)
    def test_ids_files_and_arrays_agree(self, calibrated: TwoModalities, source: str, to: str, method: str) -> None:
        db = specdb.open(calibrated.db)
        spectrum_id = int(ids_of(calibrated, source)[0])
        path, spectra = file_of(calibrated, source, spectrum_id)
        found = db.translate(spectrum_id, to, method=method)
        assert found.flux.shape == (1, len(get_modality(to).wavelength))
        assert (found.half_95 >= found.sigma).all()  # both are 0 at 550 nm where neighbours are relative to it
        assert found.rows.column_names == ["wavelength", "flux", "flux_error", "flux_low", "flux_high"]
        for other in (path, spectra, [spectrum_id]):
            np.testing.assert_allclose(db.translate(other, to, method=method).flux, found.flux, rtol=1e-3, atol=1e-30)
        assert found.calibrated == (method == "decoder")
        assert ("coverage" in found.meta) == (method == "decoder")

    def test_a_batch_has_a_row_each(self, calibrated: TwoModalities) -> None:
        db = specdb.open(calibrated.db)
        ids = ids_of(calibrated, "lamost_lrs")[:3].tolist()
        path, spectra = file_of(calibrated, "lamost_lrs", ids[0])
        found = db.translate([*ids, path, spectra], "gaia_xp")
        assert found.rows.num_rows == 5
        assert found.ids.tolist() == [*ids, ids[0], ids[0]]
        np.testing.assert_allclose(found.flux[3:], found.flux[[0, 0]], rtol=1e-3)
        alone = db.translate(ids[1], "gaia_xp")
        np.testing.assert_allclose(alone.sigma[0], found.sigma[1], rtol=1e-3)

    def test_absolute_scale(self, calibrated: TwoModalities) -> None:
        db = specdb.open(calibrated.db)
        spectrum_id = int(ids_of(calibrated, "lamost_lrs")[0])
        relative = db.translate(spectrum_id, "gaia_xp")
        bright = db.translate(spectrum_id, "gaia_xp", g_mag=10.0)
        faint = db.translate(spectrum_id, "gaia_xp", g_mag=15.0)
        np.testing.assert_allclose(bright.flux, 100 * faint.flux, rtol=1e-5)
        assert bright.unit == "W m-2 nm-1"
        assert "as given" in bright.notes["scale"]
        given = db.translate(spectrum_id, "gaia_xp", flux_550=2e-16)
        if relative.unit != "W m-2 nm-1":
            np.testing.assert_allclose(given.flux, 2e-16 * relative.flux, rtol=1e-5)
            assert "give G or the flux at 550 nm" in relative.notes["scale"]

    def test_what_cannot_be_translated(self, calibrated: TwoModalities, tmp_path: Path) -> None:
        db = specdb.open(calibrated.db)
        lrs, xp = (int(ids_of(calibrated, m)[0]) for m in ("lamost_lrs", "gaia_xp"))
        wavelength = 10 ** (3.5682 + 1e-4 * np.arange(3909))
        for query, options, message in (
            (xp, {}, "is a gaia_xp spectrum already; translation predicts another modality: --to lamost_lrs"),
            ([], {}, "the list of queries is empty"),
            (lrs, {"method": "magic"}, "method 'magic' is unknown; choose decoder or neighbours"),
            (lrs, {"method": "neighbours", "k": 0}, "take at least one neighbour"),
            (5, {}, "no spectrum has the id 5"),
            ([lrs, Spectra(wavelength, np.full((1, 3909), np.nan))], {}, "cannot be translated: bad_flux"),
            ([lrs, file_of(calibrated, "gaia_xp", xp)[0]], {}, "translate one modality at a time"),
        ):
            with pytest.raises(QueryError, match=message):
                db.translate(query, "gaia_xp", **options)
        with pytest.raises(InputError, match="no modality is called 'weave'"):
            db.translate(lrs, "weave")
        with pytest.raises(InputError, match="knows no sdss, only lamost_lrs, gaia_xp; translation needs one that aligns"):
            db.translate(lrs, "sdss")
        with pytest.raises(QueryError, match="has no absolute scale to set"):
            db.translate(xp, "lamost_lrs", g_mag=3)

    def test_encoders_without_decoders(self, calibrated: TwoModalities, tmp_path: Path) -> None:
        path, _ = file_of(calibrated, "lamost_lrs", int(ids_of(calibrated, "lamost_lrs")[0]))
        no_private = replace(SPLIT.head, private=0)
        for name, config, message in (
            (
                "base",
                replace(SPLIT, variant="base", head=no_private),
                "base.* has no cross-modal decoders, so it predicts no",
            ),
            ("lrs", replace(SPLIT, variant="base", head=no_private, gaia_xp=None), "knows no gaia_xp, only lamost_lrs"),
        ):
            save_encoder(tmp_path / name, config)
            Store.create(tmp_path / f"{name}-db", "tiny", str(tmp_path / name))
            db = specdb.open(tmp_path / f"{name}-db")
            with pytest.raises(InputError, match=message):
                db.translate(path, "gaia_xp")
            with pytest.raises(QueryError, match="there are no gaia_xp spectra to take neighbours from"):
                db.translate(path, "gaia_xp", method="neighbours")

    def test_errors_that_are_not_calibrated_say_so(self, two: TwoModalities, tmp_path: Path) -> None:
        save_encoder(tmp_path / "encoder")
        Store.create(tmp_path / "db", "tiny", str(tmp_path / "encoder"))
        path, _ = file_of(two, "lamost_lrs", int(ids_of(two, "lamost_lrs")[0]))
        found = specdb.open(tmp_path / "db").translate(path, "gaia_xp")
        assert not found.calibrated
        assert (found.sigma > 0).all()
        assert found.meta["errors"] == "spread only, not calibrated"


class TestCommand:
    @pytest.mark.parametrize("ending", [".ecsv", ".fits", ".csv", ".parquet", ".vot"])
    def test_files(self, calibrated: TwoModalities, tmp_path: Path, ending: str) -> None:
        spectrum_id = ids_of(calibrated, "lamost_lrs")[0]
        out, plot = tmp_path / f"predicted{ending}", tmp_path / "predicted.svg"
        drawn = ("--plot", plot) if ending == ".ecsv" else ()
        result = run("translate", spectrum_id, "--to", "gaia_xp", "-o", out, *drawn, "--g-mag", 14, "--db", calibrated.db)
        assert result.exit_code == 0, result.output
        assert "intervals held" in result.stderr
        assert "G = 14, as given" in result.stderr
        assert not drawn or plot.read_text().startswith("<?xml")
        table = Table.read(out, format={".csv": "ascii.csv", ".vot": "votable"}.get(ending))
        assert len(table) == 343
        assert 1e-18 < np.median(table["flux"]) < 1e-15
        if ending not in (".csv", ".parquet"):  # astropy reads no units from Parquet
            assert str(table["wavelength"].unit) in ("Angstrom", "0.1nm")

    def test_a_table_of_ids(self, calibrated: TwoModalities, tmp_path: Path) -> None:
        ids = ids_of(calibrated, "gaia_xp")[:4]
        pq.write_table(pa.table({"spectrum_id": ids}), tmp_path / "ids.parquet")
        Table({"spectrum_id": ids}).write(tmp_path / "ids.csv")
        for name in ("ids.parquet", "ids.csv"):
            out = tmp_path / f"{name}.out.parquet"
            result = run("translate", "--from", tmp_path / name, "--to", "lamost_lrs", "-o", out, "--db", calibrated.db)
            assert result.exit_code == 0, result.output
            assert pq.read_table(out)["spectrum_id"].to_pylist() == ids.tolist()
        (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
        assert "spectrum_id" in error_of(
            run("translate", "--from", tmp_path / "bad.csv", "--to", "gaia_xp", "--db", calibrated.db)
        )

    def test_usage(self, calibrated: TwoModalities, tmp_path: Path) -> None:
        assert "give a QUERY" in run("translate", "--to", "gaia_xp", "--db", calibrated.db).stderr
        two_plots = run("translate", 1, 2, "--to", "gaia_xp", "--plot", tmp_path / "x.png", "--db", calibrated.db)
        assert "--plot shows one spectrum" in two_plots.stderr
        spectrum_id = ids_of(calibrated, "lamost_lrs")[0]
        words = ("translate", spectrum_id, "--to", "gaia_xp", "--db", calibrated.db)
        assert "figures are written as .png, .pdf, .svg" in error_of(run(*words, "--plot", tmp_path / "x.gif"))
        assert run(*words, "--csv").stdout.startswith("wavelength,flux,flux_error")


def test_a_figure_with_what_was_observed(tmp_path: Path) -> None:
    x = np.linspace(3360, 10200, 343)
    figure = translation_figure(x, x / 1e4, 0 * x + 0.1, 0 * x + 0.2, "flux", "title", x / 1e4)
    paths = save_figure(figure, tmp_path / "figure", (".png", ".pdf"))
    assert [path.suffix for path in paths] == [".png", ".pdf"]
    assert len(figure.axes) == 2


@pytest.fixture(scope="module")
def real_db(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    save_encoder(folder / "encoder")
    with (shared / "pairs" / "lamost_gaia_xp_pairs.csv").open() as lines:
        files = [shared / row["lamost_path"] for row in csv.DictReader(lines)]
    for survey, paths in (("lamost", files), ("gaia-xp", [shared / "gaia_xp_field2000"])):
        settings = IngestSettings(workers=0)
        build_index(folder / "db", survey, paths, encoder=str(folder / "encoder"), ingest_settings=settings)
    return folder / "db"


@pytest.mark.shared
class TestRealPairs:
    """Three stars that LAMOST and Gaia both observed, in nine LAMOST spectra."""

    def test_both_ways(self, real_db: Path, shared: Path) -> None:
        opened = specdb.open(real_db)
        assert opened.counts() == {"gaia_xp": 2000, "lamost_lrs": 9}
        hits = opened.search(211248, to="gaia_xp", k=2000)
        assert 120435178731136 in hits.ids
        assert 211248 in opened.search(120435178731136, to="lamost_lrs", k=9).ids
        three = opened.translate(
            [211248, shared / "lamost_dr8_repeat" / "spec-55859-F5907_sp11-090.fits.gz", 211010], "gaia_xp"
        )
        assert three.unit == "W m-2 nm-1"  # all have g, r, i
        assert opened.translate([120435178731136, 319343704120704], "lamost_lrs").flux.shape == (2, 1462)

    def test_header_magnitudes_give_the_flux_at_550_nm(self, real_db: Path, shared: Path) -> None:
        opened = specdb.open(real_db)
        pairs = {211248: 120435178731136, 211090: 319343704120704, 299910137: 349511554371328}
        rows = opened.spectra(list(pairs), "lamost_lrs").drop_columns(["flux", "ivar"]).to_pylist()
        relative = matrix(opened.spectra(list(pairs.values()), "gaia_xp")["flux"])
        scale, origin = scale_from_metadata(relative, rows)
        with (shared / "pairs" / "xp_sampled_three_stars.csv").open() as lines:
            at_550 = next(row for row in csv.DictReader(lines) if float(row["wavelength_nm"]) == 550)
        observed = np.array([float(at_550[f"flux_{i}"]) for i in pairs.values()])
        np.testing.assert_allclose(2.5 * np.log10(scale / observed), 0, atol=0.1)
        assert all("which agree to 0.0" in text for text in origin)
