"""A simulated LAMOST survey on disk: spectra in layout C, a truth catalogue, and a note of how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.simulate.emulator import Emulator
from indexer.simulate.instrument import REFERENCE, LrsSpectra, LrsStatistics, observe_lrs
from indexer.simulate.light import lrs_pixels, starlight
from indexer.simulate.lrs_files import BROKEN, write_lamost
from indexer.simulate.lrs_headers import Visits, file_contents
from indexer.simulate.population import Stars, draw_ebv, draw_snr, draw_stars
from indexer.simulate.unusual import LIGHT_ANOMALIES, NOT_STARS, Unusual
from specdb.errors import InputError
from specdb.store.files import atomic_path, write_text

__all__ = ["ANOMALIES", "FIRST_OBSID", "LamostSurvey", "SurveySettings", "simulate_lamost"]

#: Real obsids have nine or ten digits; simulated ones thirteen, with the seed in the middle.
FIRST_OBSID = 9_000_000_000_000
ANOMALIES = (*LIGHT_ANOMALIES, "bad_sky")

_BATCH = 256  # spectra per draw; part of the recipe, since it decides which random numbers a spectrum gets
_PER_PLATE, _FIBRES = 4000, 250
_BROKEN_PLATE = 99
_SIX_DIGITS = 1_000_000


@dataclass(frozen=True)
class SurveySettings:
    """What decides a simulated survey, byte for byte.

    Attributes
    ----------
    n_stars : int
    repeat_fraction : float
        Share of stars that were visited 2 to 4 times.
    seed : int
        From 0 to 999999; part of the obsids, so that surveys of different seeds can live in one database.
    anomalies : float
        Share of stars that are made unusual, in turn by each of `ANOMALIES`.
    broken : int
        Number of damaged files to add, in turn of each kind of `indexer.simulate.lrs_files.BROKEN`.
    """

    n_stars: int = 300
    repeat_fraction: float = 0.3
    seed: int = 0
    anomalies: float = 0.02
    broken: int = 0

    def __post_init__(self) -> None:
        if not (1 <= self.n_stars <= 200_000 and 0 <= self.seed < _SIX_DIGITS and 0 <= self.broken <= _PER_PLATE):
            raise InputError(
                f"n_stars={self.n_stars}, seed={self.seed}, broken={self.broken}: a simulated survey has 1 to 200000 stars, "
                f"a seed from 0 to 999999 and at most {_PER_PLATE} broken files"
            )
        if not (0 <= self.repeat_fraction <= 1 and 0 <= self.anomalies <= 1):
            raise InputError(
                f"repeat_fraction={self.repeat_fraction}, anomalies={self.anomalies}: fractions lie from 0 to 1"
            )


@dataclass(frozen=True)
class LamostSurvey:
    """Where a simulated survey lies and what is in it.

    Attributes
    ----------
    spectra : Path
        Folder to hand to ``specdb build-index lamost``.
    truth : Path
        Parquet file, one row per good spectrum, sorted by `spectrum_id`; units in the fields' metadata.
    n_stars, n_spectra, n_broken : int
    settings : SurveySettings
    """

    spectra: Path
    truth: Path
    n_stars: int
    n_spectra: int
    n_broken: int
    settings: SurveySettings

    def catalogue(self) -> pa.Table:
        """Read the truth catalogue."""
        return pq.read_table(self.truth)


@dataclass(frozen=True)
class _Plan:
    """Who is observed when: stars (n) and visits (m)."""

    stars: Stars
    ebv: np.ndarray  # (n,)
    unusual: Unusual  # (n)
    anomaly: np.ndarray  # (m,) of the visit, one of ANOMALIES or empty
    broken: np.ndarray  # (m,) index into BROKEN, -1 for good files
    star: np.ndarray  # (m,)
    visit: np.ndarray  # (m,) 0, 1, ... for each star
    snr_g: np.ndarray  # (m,)
    ra: np.ndarray  # (n,)
    dec: np.ndarray  # (n,)


def simulate_lamost(
    directory: Path | str,
    n_stars: int = 300,
    repeat_fraction: float = 0.3,
    seed: int = 0,
    anomalies: float = 0.02,
    broken: int = 0,
) -> LamostSurvey:
    """Write a simulated survey into `directory`: `spectra/`, `truth.parquet` and `simulation.json`.

    The same settings give the same files, byte for byte. Called again after an interruption it goes on from there.

    Parameters
    ----------
    directory : path
        New, empty, or holding the same simulation.
    n_stars, repeat_fraction, seed, anomalies, broken
        See `SurveySettings`.

    Raises
    ------
    InputError
        When settings are out of range or the directory holds something else.
    """
    settings = SurveySettings(n_stars, repeat_fraction, seed, anomalies, broken)
    emulator, statistics = Emulator.load(), LrsStatistics.load()
    directory = Path(directory)
    spectra, truth = directory / "spectra", directory / "truth.parquet"
    plan = _draw_plan(settings)
    _claim(directory, settings)
    files = _file_table(plan, settings)
    for folder in {(spectra / name).parent for name in files["source_file"]}:
        folder.mkdir(parents=True, exist_ok=True)
    for rows in _batches(len(plan.star)):
        if all((spectra / files["source_file"][i]).exists() for i in rows):
            continue
        observed = _observe(plan, rows, settings, emulator, statistics)
        for i, keywords, columns in _contents(plan, rows, files, observed):
            damage = BROKEN[plan.broken[i]] if plan.broken[i] >= 0 else None
            write_lamost(spectra / files["source_file"][i], keywords, columns, damage)
    with atomic_path(truth) as temporary:
        pq.write_table(_truth(plan, files), temporary)
    return LamostSurvey(spectra, truth, n_stars, len(plan.star) - broken, broken, settings)


def _claim(directory: Path, settings: SurveySettings) -> None:
    """Write the note that makes the directory ours, or check that it is."""
    note = directory / "simulation.json"
    text = json.dumps({"made_by": "specdb simulate", "format": 2, "settings": asdict(settings)}, indent=2) + "\n"
    if note.exists():
        if note.read_text(encoding="utf-8") != text:
            raise InputError(
                f"{directory} holds a simulation with other settings (see {note.name}); choose another directory"
            )
    elif directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty and holds no simulation; choose a new or empty directory")
    else:
        write_text(note, text)


def _draw_plan(settings: SurveySettings) -> _Plan:
    n = settings.n_stars
    rng = np.random.default_rng([settings.seed, 0])
    stars = draw_stars(n, rng)
    visits = np.ones(n, int)
    repeated = rng.permutation(n)[: round(settings.repeat_fraction * n)]
    visits[repeated] += rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15], size=len(repeated))
    star = np.repeat(np.arange(n), visits)
    visit = np.arange(len(star)) - np.repeat(np.cumsum(visits) - visits, visits)
    odd = rng.permutation(n)[: round(settings.anomalies * n)]
    kind = np.full(n, "", dtype="U16")
    kind[odd] = np.resize(ANOMALIES, len(odd))
    anomaly = np.where((kind[star] == "bad_sky") & (visit > 0), "", kind[star])  # a matter of one night, not of the star
    snr = np.clip(draw_snr(n, rng)[star] * np.exp(0.25 * rng.standard_normal(len(star))), 6, 900)
    centre_ra, centre_dec = rng.uniform(0, 360), rng.uniform(0, 50)
    dec = centre_dec + 2.5 * rng.uniform(-1, 1, n)
    ra = (centre_ra + 2.5 * rng.uniform(-1, 1, n) / np.cos(np.radians(dec))) % 360
    damaged = np.arange(settings.broken)  # further visits of the first stars
    return _Plan(
        stars=stars,
        ebv=draw_ebv(n, rng),
        unusual=Unusual.draw(kind, stars, rng),
        anomaly=np.append(anomaly, np.full(settings.broken, "", dtype="U16")),
        broken=np.append(np.full(len(star), -1), damaged % len(BROKEN)),
        star=np.append(star, damaged % n),
        visit=np.append(visit, damaged // n),
        snr_g=np.append(snr, np.full(settings.broken, 50.0)),
        ra=ra,
        dec=dec,
    )


def _batches(n: int) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + _BATCH, n)) for first in range(0, n, _BATCH))


def _observe(
    plan: _Plan, rows: np.ndarray, settings: SurveySettings, emulator: Emulator, statistics: LrsStatistics
) -> LrsSpectra:
    """Simulate the visits `rows`, one batch of `_batches`."""
    star = plan.star[rows]
    stars, ebv, unusual = plan.stars.take(star), plan.ebv[star], plan.unusual.take(star)
    log_flux = starlight(emulator, stars.labels, stars.rv_kms, ebv, stars.alpha)
    unusual.change(log_flux, emulator, stars, ebv)
    labels = np.where(np.isin(unusual.kind, NOT_STARS)[:, None], REFERENCE, stars.labels)
    rng, bad_sky = np.random.default_rng([settings.seed, 1, int(rows[0])]), plan.anomaly[rows] == "bad_sky"
    return observe_lrs(log_flux[:, lrs_pixels(emulator)], plan.snr_g[rows], rng, statistics, bad_sky, labels)


def _file_table(plan: _Plan, settings: SurveySettings) -> dict[str, np.ndarray]:
    """Return what names the files, visit by visit: obsid, plan, night, spectrograph, fibre, source_file."""
    plate, position = np.divmod(plan.star, _PER_PLATE)
    plate[plan.broken >= 0] = _BROKEN_PLATE
    lmjd = 59500 + 100 * plan.visit + plate
    planid = np.array([f"SIM{settings.seed:06d}P{p:02d}V{v}" for p, v in zip(plate, plan.visit, strict=True)])
    spid, fiberid = position // _FIBRES + 1, position % _FIBRES + 1
    names = [f"{p}/spec-{d}-{p}_sp{s:02d}-{f:03d}.fits.gz" for p, d, s, f in zip(planid, lmjd, spid, fiberid, strict=True)]
    obsid = FIRST_OBSID + settings.seed * _SIX_DIGITS + np.arange(len(names))
    return {"obsid": obsid, "planid": planid, "lmjd": lmjd, "spid": spid, "fiberid": fiberid, "source_file": np.array(names)}


def _contents(
    plan: _Plan, rows: np.ndarray, files: dict[str, np.ndarray], observed: LrsSpectra
) -> Iterator[tuple[int, dict[str, object], dict[str, np.ndarray]]]:
    """Yield row, keywords and columns of each visit of a batch."""
    star = plan.star[rows]
    visits = Visits(
        number=rows,
        star=star,
        labels=plan.stars.labels[star],
        rv_kms=plan.stars.rv_kms[star],
        redshift=plan.unusual.redshift[star],
        snr_g=plan.snr_g[rows],
        ra=plan.ra[star],
        dec=plan.dec[star],
        **{name: values[rows] for name, values in files.items()},
    )
    for i, (keywords, columns) in zip(rows.tolist(), file_contents(visits, observed), strict=True):
        yield i, keywords, columns


def _truth(plan: _Plan, files: dict[str, np.ndarray]) -> pa.Table:
    """Return the truth catalogue."""
    good = plan.broken < 0
    star = plan.star[good]
    labels = plan.stars.labels[star]
    columns = [
        ("spectrum_id", "", "obsid of the file", files["obsid"][good]),
        ("star", "", "number of the star; visits of one star share it", star),
        ("visit", "", "number of the visit of this star, from 0", plan.visit[good]),
        ("source_file", "", "file below spectra/", files["source_file"][good]),
        ("ra", "deg", "right ascension, ICRS", plan.ra[star]),
        ("dec", "deg", "declination, ICRS", plan.dec[star]),
        ("teff", "K", "effective temperature", labels[:, 0]),
        ("logg", "log10(cm/s2)", "surface gravity", labels[:, 1]),
        ("feh", "dex", "[Fe/H]", labels[:, 2]),
        ("alpha", "dex", "[alpha/Fe]", plan.stars.alpha[star]),
        ("ebv", "mag", "E(B-V)", plan.ebv[star]),
        ("rv", "km/s", "heliocentric radial velocity", plan.stars.rv_kms[star]),
        ("snr_g", "", "S/N per pixel asked for in g", plan.snr_g[good]),
        ("component", "", "0 thin disc, 1 thick disc, 2 halo", plan.stars.component[star]),
        ("redshift", "", "of quasars and galaxies, 0 for stars", plan.unusual.redshift[star]),
        ("anomaly", "", "what was planted; empty for ordinary stars", plan.anomaly[good]),
    ]
    arrays = [pa.array(values.tolist() if values.dtype.kind == "U" else values) for _, _, _, values in columns]
    schema = pa.schema(
        [
            pa.field(n, a.type, metadata={"unit": u, "description": d})
            for (n, u, d, _), a in zip(columns, arrays, strict=True)
        ],
        metadata={"origin": "specdb simulate: SIMULATED stars, not observations"},
    )
    return pa.Table.from_arrays(arrays, schema=schema)
