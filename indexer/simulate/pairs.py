"""Pairs: stars that both LAMOST LRS and Gaia XP observed, drawn in batches of arrays for training.

Batch ``b`` of seed ``s`` depends on nothing but ``s`` and ``b``, so that the first 1000 of 10000 pairs are the 1000 pairs of
a shorter draw and a stream can be taken up anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from indexer.simulate.emulator import Emulator
from indexer.simulate.instrument import LRS_COEFF0, LRS_WAVELENGTH, REFERENCE, LrsSpectra, LrsStatistics, observe_lrs
from indexer.simulate.light import lrs_pixels, starlight
from indexer.simulate.population import draw_ebv, draw_snr, draw_stars, draw_visits
from indexer.simulate.unusual import LIGHT_ANOMALIES, NOT_STARS, Unusual
from indexer.simulate.xp_instrument import XpObservation, XpStatistics, binned, observe_xp, smoothing
from specdb.errors import InputError
from specdb.spectra.spectrum import Spectra
from specdb.spectra.xp_sampling import load_xp_sampling

__all__ = [
    "BATCH_PAIRS",
    "PAIR_ANOMALIES",
    "PairBatch",
    "PairSimulator",
    "PairTruth",
    "Pairs",
    "draw_magnitude",
    "draw_pairs",
]

#: Classes that are planted, in turn. Of a wrong pair the XP spectrum belongs to another star; bad sky spoils one visit.
PAIR_ANOMALIES = (*LIGHT_ANOMALIES, "wrong_pair", "bad_sky")

BATCH_PAIRS = 256  #: pairs per draw; part of the recipe, since it decides which random numbers a star gets
_LOG_STEP = 1e-4
_KEY = 7  # tells these random numbers from those of the LAMOST survey of the same seed


def draw_magnitude(snr_g: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw G for stars of the given S/N: 14.3 at 50, 1.6 mag brighter for each e-fold, scatter 1; 9 to 17.8."""
    return np.clip(14.3 - 1.6 * np.log(snr_g / 50) + rng.standard_normal(len(snr_g)), 9.0, 17.8)


@dataclass(frozen=True)
class PairTruth:
    """What was simulated, one row per pair; each visit of LAMOST to a star makes one, with the star's one XP spectrum.

    Attributes
    ----------
    number, star, visit : ndarray (n,), int64
        Number of the pair and of the star within the seed (the same without repeat visits), and of the visit to that star.
    labels : ndarray (n, 3), float64
        Teff in K, logg (cgs), [Fe/H] in dex.
    ebv, rv_kms : ndarray (n,), float64
        E(B-V) in mag and heliocentric radial velocity.
    snr_g : ndarray (n,), float64
        S/N per pixel of the LAMOST spectrum asked for in g.
    magnitude : ndarray (n,), float64
        G of Gaia, which decides the noise of XP.
    component : ndarray (n,), int64
        0 thin disc, 1 thick disc, 2 halo.
    anomaly : ndarray (n,), str
        Class of the anomaly that was planted, empty for ordinary stars.
    alpha : ndarray (n,), float64
        [alpha/Fe] in dex.
    redshift : ndarray (n,), float64
        Of quasars and galaxies; 0 for the others.
    """

    number: np.ndarray
    star: np.ndarray
    visit: np.ndarray
    labels: np.ndarray
    ebv: np.ndarray
    rv_kms: np.ndarray
    snr_g: np.ndarray
    magnitude: np.ndarray
    component: np.ndarray
    anomaly: np.ndarray
    alpha: np.ndarray
    redshift: np.ndarray

    def __len__(self) -> int:
        return len(self.star)

    def take(self, rows: slice | np.ndarray) -> PairTruth:
        """Return the given rows."""
        return PairTruth(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


@dataclass(frozen=True)
class PairBatch:
    """Pairs as the instruments deliver them, row by row of `truth`; `xp_flux` and `xp_error` (n, 343) sample `xp`."""

    truth: PairTruth
    lrs: LrsSpectra
    xp: XpObservation
    xp_flux: np.ndarray
    xp_error: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Pairs as arrays, ready for the preparations of both modalities; row i of everything is the same star.

    Attributes
    ----------
    lrs : Spectra (n, 3909)
        LAMOST LRS: float32 flux and inverse variance, int32 masks, metadata empty.
    xp_wavelength_nm : ndarray (343,), float64
    xp_flux, xp_error : ndarray (n, 343), float64
        Gaia XP samples and their errors in W m-2 nm-1.
    truth : PairTruth
    """

    lrs: Spectra
    xp_wavelength_nm: np.ndarray
    xp_flux: np.ndarray
    xp_error: np.ndarray
    truth: PairTruth

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def xp(self) -> Spectra:
        """The XP samples with inverse variances (float64, since those of faint stars overflow float32)."""
        return Spectra(self.xp_wavelength_nm * 10, self.xp_flux, 1 / self.xp_error**2)


class PairSimulator:
    """Draws pairs, batch by batch.

    Parameters
    ----------
    seed : int
        Not negative.
    anomalies : float
        Share of objects that are made unusual, in turn by each of `PAIR_ANOMALIES`. The others keep their light and their
        share of the noise.
    repeat_fraction : float
        Share of stars that LAMOST visited 2 to 4 times; their rows follow each other within a batch.

    Raises
    ------
    InputError
        When a number is out of range.
    """

    def __init__(self, seed: int = 0, anomalies: float = 0.0, repeat_fraction: float = 0.0) -> None:
        if seed < 0:
            raise InputError(f"seed is {seed}; seeds are not negative")
        for name, share in (("anomalies", anomalies), ("repeat_fraction", repeat_fraction)):
            if not 0 <= share <= 1:
                raise InputError(f"{name} is {share}; a share lies from 0 to 1")
        self.seed, self.anomalies, self.repeat_fraction = seed, anomalies, repeat_fraction
        self.emulator, self.lrs, self.xp = Emulator.load(), LrsStatistics.load(), XpStatistics.load()
        self._smoothing = smoothing(self.emulator, self.xp.fwhm_nm)

    def draw(self, batch: int, first: int = BATCH_PAIRS) -> PairBatch:
        """Return batch number `batch`: the `first` of its `BATCH_PAIRS` pairs."""
        n = BATCH_PAIRS
        rng, planted, again = (np.random.default_rng([self.seed, _KEY, batch, *key]) for key in ((), (1,), (2,)))
        stars = draw_stars(n, rng)
        ebv, snr = draw_ebv(n, rng), draw_snr(n, rng)
        magnitude = draw_magnitude(snr, rng)
        log_flux = starlight(self.emulator, stars.labels, stars.rv_kms, ebv, stars.alpha)
        unusual = planted.random(n) < self.anomalies
        kind = np.array([*PAIR_ANOMALIES, ""])[np.where(unusual, planted.integers(len(PAIR_ANOMALIES), size=n), -1)]
        objects = Unusual.draw(kind, stars, planted)
        objects.change(log_flux, self.emulator, stars, ebv)
        seen_by_xp = np.where(kind == "wrong_pair", (np.arange(n) + 1) % n, np.arange(n))
        xp = observe_xp(binned(np.exp(log_flux[seen_by_xp])) @ self._smoothing, magnitude, rng, self.xp)
        flux, error = xp.sampled()  # before rows are taken: matrix products of other sizes round differently

        star, visit = (a[:n] for a in draw_visits(n, self.repeat_fraction, again))
        snr = np.where(visit > 0, np.clip(snr[star] * np.exp(0.25 * again.standard_normal(n)), 6, 900), snr[star])
        anomaly = np.where((kind[star] == "bad_sky") & (visit > 0), "", kind[star])
        pixels, star_like = lrs_pixels(self.emulator), ~np.isin(anomaly, NOT_STARS)
        calibrated = np.where(star_like[:, None], stars.labels[star], REFERENCE)
        lrs = observe_lrs(log_flux[star][:, pixels], snr, rng, self.lrs, anomaly == "bad_sky", calibrated)
        truth = PairTruth(
            number=batch * n + np.arange(n),
            star=batch * n + star,
            visit=visit,
            labels=stars.labels[star],
            ebv=ebv[star],
            rv_kms=stars.rv_kms[star],
            snr_g=snr,
            magnitude=magnitude[star],
            component=stars.component[star],
            anomaly=anomaly,
            alpha=stars.alpha[star],
            redshift=objects.redshift[star],
        )
        rows = slice(0, first)
        return PairBatch(truth.take(rows), lrs.take(rows), xp.take(star[rows]), flux[star[rows]], error[star[rows]])

    def stream(self, n: int, first_batch: int = 0) -> Iterator[Pairs]:
        """Yield `n` pairs in batches of at most `BATCH_PAIRS`, from batch `first_batch` on."""
        for batch in range(first_batch, first_batch - (-n // BATCH_PAIRS)):
            yield _arrays(self.draw(batch, min(BATCH_PAIRS, n - (batch - first_batch) * BATCH_PAIRS)))


def _arrays(batch: PairBatch) -> Pairs:
    lrs = batch.lrs
    spectra = Spectra(
        LRS_WAVELENGTH,
        lrs.flux,
        lrs.ivar,
        lrs.and_mask.astype(np.int32),
        lrs.or_mask.astype(np.int32),
        log10_grid=(LRS_COEFF0, _LOG_STEP),
    )
    return Pairs(spectra, load_xp_sampling().wavelength_nm, batch.xp_flux, batch.xp_error, batch.truth)


def draw_pairs(n: int, seed: int = 0, anomalies: float = 0.0, repeat_fraction: float = 0.0) -> Pairs:
    """Draw `n` pairs at once; 10000 take 0.7 GB. `PairSimulator.stream` gives the same pairs in batches.

    Raises
    ------
    InputError
        When a number is out of range.
    """
    if n < 1:
        raise InputError(f"n is {n}; draw at least one pair")
    parts = list(PairSimulator(seed, anomalies, repeat_fraction).stream(n))
    lrs = {
        name: np.concatenate([getattr(part.lrs, name) for part in parts]) for name in ("flux", "ivar", "and_mask", "or_mask")
    }
    truth = {f.name: np.concatenate([getattr(part.truth, f.name) for part in parts]) for f in fields(PairTruth)}
    return Pairs(
        Spectra(LRS_WAVELENGTH, **lrs, log10_grid=(LRS_COEFF0, _LOG_STEP)),
        parts[0].xp_wavelength_nm,
        np.concatenate([part.xp_flux for part in parts]),
        np.concatenate([part.xp_error for part in parts]),
        PairTruth(**truth),
    )
