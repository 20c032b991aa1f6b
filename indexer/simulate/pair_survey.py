"""A simulated survey of pairs on disk: LAMOST and Gaia XP files of the same stars, their truth, and who belongs to whom."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.simulate.lrs_files import write_lamost
from indexer.simulate.lrs_headers import Visits, file_contents
from indexer.simulate.pairs import BATCH_PAIRS, PairBatch, PairSimulator
from indexer.simulate.xp_files import simulated_source_ids, write_continuous, write_sampled
from specdb.errors import InputError
from specdb.store.files import atomic_path, write_text

__all__ = ["FIRST_PAIR_OBSID", "PairSettings", "PairSurvey", "simulate_pairs"]

#: Below the obsids of `simulate_lamost`, so that both can live in one database; real obsids have nine or ten digits.
FIRST_PAIR_OBSID = 8_000_000_000_000
_SIX_DIGITS = 1_000_000
_FIBRES, _PER_PLATE = 250, 4000
_KEY = 8  # positions have random numbers of their own
_DEC_RANGE = (-10.0, 60.0)  # of LAMOST's footprint


@dataclass(frozen=True)
class PairSettings:
    """What decides a simulated survey of pairs.

    Attributes
    ----------
    n_stars : int
        Number of pairs; repeat visits of a star are pairs of their own.
    seed : int
        From 0 to 999999; part of the obsids.
    anomalies : float
        Share of unusual objects and wrong pairs, see `indexer.simulate.pairs.PAIR_ANOMALIES`.
    repeat_fraction : float
        Share of stars with 2 to 4 visits of LAMOST, and one XP spectrum.
    """

    n_stars: int = 300
    seed: int = 0
    anomalies: float = 0.0
    repeat_fraction: float = 0.0

    def __post_init__(self) -> None:
        if not (1 <= self.n_stars <= _SIX_DIGITS and 0 <= self.seed < _SIX_DIGITS):
            raise InputError(
                f"n_stars={self.n_stars}, seed={self.seed}: a simulated survey of pairs has 1 to 1000000 stars and a seed "
                "from 0 to 999999"
            )


@dataclass(frozen=True)
class PairSurvey:
    """Where a simulated survey of pairs lies.

    Attributes
    ----------
    lamost : Path
        Folder to hand to ``specdb build-index lamost``.
    xp_continuous, xp_sampled : Path
        Folders with the same XP spectra as coefficients and as samples; hand one of them to ``specdb build-index gaia-xp``.
    truth : Path
        Parquet file, one row per pair; units in the fields' metadata.
    pairs : Path
        Parquet file with `lamost_obsid` and `gaia_source_id`.
    settings : PairSettings
    """

    lamost: Path
    xp_continuous: Path
    xp_sampled: Path
    truth: Path
    pairs: Path
    settings: PairSettings


def simulate_pairs(
    directory: Path | str, n_stars: int = 300, seed: int = 0, anomalies: float = 0.0, repeat_fraction: float = 0.0
) -> PairSurvey:
    """Write a simulated survey of pairs into `directory`; the spectra are those of `draw_pairs` with the same settings.

    The same settings give the same spectra. Called again after an interruption it goes on from there.

    Raises
    ------
    InputError
        When settings are out of range or the directory holds something else.
    """
    settings = PairSettings(n_stars, seed, anomalies, repeat_fraction)
    simulator = PairSimulator(seed, anomalies, repeat_fraction)
    directory = Path(directory)
    _claim(directory, settings)
    survey = PairSurvey(
        directory / "lamost",
        directory / "gaia_xp" / "continuous",
        directory / "gaia_xp" / "sampled",
        directory / "truth.parquet",
        directory / "pairs.parquet",
        settings,
    )
    tables = []
    for folder in (survey.lamost, survey.xp_continuous, survey.xp_sampled):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(-(-n_stars // BATCH_PAIRS)):
        batch = simulator.draw(number, min(BATCH_PAIRS, n_stars - number * BATCH_PAIRS))
        tables.append(_write_batch(survey, number, batch))
    truth = pa.concat_tables(tables).replace_schema_metadata({"origin": "specdb simulate: SIMULATED, not observations"})
    with atomic_path(survey.truth) as temporary:
        pq.write_table(truth, temporary)
    with atomic_path(survey.pairs) as temporary:
        pq.write_table(truth.select(["lamost_obsid", "gaia_source_id"]), temporary)
    return survey


def _claim(directory: Path, settings: PairSettings) -> None:
    """Write the note that makes the directory ours, or check that it is."""
    note = directory / "simulation.json"
    about = {"made_by": "specdb simulate pairs", "format": 2, "settings": asdict(settings)}
    text = json.dumps(about, indent=2) + "\n"
    if note.exists():
        if note.read_text(encoding="utf-8") != text:
            raise InputError(f"{directory} holds another simulation (see {note.name}); choose another directory")
    elif directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty and holds no simulation; choose a new or empty directory")
    else:
        write_text(note, text)


def _positions(seed: int, number: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ra and dec (n,) in degrees, even over the sky that LAMOST sees."""
    u = np.random.default_rng([seed, _KEY, number]).random((2, BATCH_PAIRS))[:, :n]
    low, high = np.sin(np.radians(_DEC_RANGE))
    return 360 * u[0], np.degrees(np.arcsin(low + (high - low) * u[1]))


def _write_batch(survey: PairSurvey, number: int, batch: PairBatch) -> pa.Table:
    """Write the files of one batch that are not there yet, and return its truth."""
    truth, seed = batch.truth, survey.settings.seed
    one, row = np.unique(truth.star, return_index=True)  # stars that this batch shows, and their first visits
    of_star = np.searchsorted(one, truth.star)
    ra, dec = (values[of_star] for values in _positions(seed, number, len(one)))
    source_id = simulated_source_ids(ra, dec, truth.star)
    plate, position = np.divmod(truth.number, _PER_PLATE)
    planid = np.array([f"SIM{seed:06d}P{p:03d}" for p in plate])
    lmjd, spid, fiberid = 59000 + plate, position // _FIBRES + 1, position % _FIBRES + 1
    visits = Visits(
        number=truth.number,
        star=truth.star,
        labels=truth.labels,
        rv_kms=truth.rv_kms,
        redshift=truth.redshift,
        snr_g=truth.snr_g,
        ra=ra,
        dec=dec,
        obsid=FIRST_PAIR_OBSID + seed * _SIX_DIGITS + truth.number,
        planid=planid,
        lmjd=lmjd,
        spid=spid,
        fiberid=fiberid,
        source_file=np.array(
            [f"{p}/spec-{d}-{p}_sp{s:02d}-{f:03d}.fits.gz" for p, d, s, f in zip(planid, lmjd, spid, fiberid, strict=True)]
        ),
    )
    for folder in set(planid.tolist()):
        (survey.lamost / folder).mkdir(exist_ok=True)
    paths = [survey.lamost / name for name in visits.source_file]
    if not all(path.exists() for path in paths):
        for path, (keywords, pixels) in zip(paths, file_contents(visits, batch.lrs), strict=True):
            write_lamost(path, keywords, pixels)
    continuous = survey.xp_continuous / f"xp_continuous_{number:04d}.fits"
    sampled = survey.xp_sampled / f"xp_sampled_{number:04d}.fits"
    if not continuous.exists():
        write_continuous(continuous, source_id[row], batch.xp.take(row))
    if not sampled.exists():
        write_sampled(sampled, *(values[row] for values in (source_id, ra, dec, batch.xp_flux, batch.xp_error)))
    columns: list[tuple[str, str, str, np.ndarray]] = [
        ("star", "", "number of the star; visits of one star share it", truth.star),
        ("visit", "", "number of the visit of LAMOST to this star, from 0", truth.visit),
        ("lamost_obsid", "", "obsid of the LAMOST file", visits.obsid),
        ("gaia_source_id", "", "source_id of the XP spectrum; simulated, but of the right HEALPix pixel", source_id),
        ("source_file", "", "LAMOST file below lamost/", visits.source_file),
        ("ra", "deg", "right ascension, ICRS", ra),
        ("dec", "deg", "declination, ICRS", dec),
        ("teff", "K", "effective temperature", truth.labels[:, 0]),
        ("logg", "log10(cm/s2)", "surface gravity", truth.labels[:, 1]),
        ("feh", "dex", "[Fe/H]", truth.labels[:, 2]),
        ("alpha", "dex", "[alpha/Fe]", truth.alpha),
        ("ebv", "mag", "E(B-V)", truth.ebv),
        ("rv", "km/s", "heliocentric radial velocity", truth.rv_kms),
        ("snr_g", "", "S/N per pixel of the LAMOST spectrum asked for in g", truth.snr_g),
        ("phot_g_mean_mag", "mag", "G of the XP spectrum", truth.magnitude),
        ("component", "", "0 thin disc, 1 thick disc, 2 halo", truth.component),
        ("redshift", "", "of quasars and galaxies, 0 for stars", truth.redshift),
        ("anomaly", "", "what was planted; empty for ordinary stars", truth.anomaly),
    ]
    arrays = [pa.array(values.tolist() if values.dtype.kind == "U" else values) for _, _, _, values in columns]
    fields = [
        pa.field(name, array.type, metadata={"unit": unit, "description": text})
        for (name, unit, text, _), array in zip(columns, arrays, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))
