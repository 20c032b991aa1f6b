"""Another instrument for the same light: coadded spectra like those of DESI, and the way back onto the pixels of LAMOST LRS.

A target for transfer tests, of which everything is known. Resolution, arms and sampling follow DESI Collaboration (2022, AJ
164, 207, table 1); calibration and noise are simple laws, not measurements, and nothing of LAMOST's systematic deviations is
in them: that difference is what a transfer has to bridge. The emulator has R = 1800. Where the instrument is sharper, lines
are sharpened as far as one step of deconvolution goes, about R = 3000: enough for most of the blue arm, not for the others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from indexer.simulate.emulator import Emulator
from indexer.simulate.instrument import cubic_taps, line_design
from indexer.simulate.light import starlight
from indexer.simulate.population import draw_ebv, draw_stars
from specdb.errors import InputError
from specdb.spectra.resolution import FWHM_PER_SIGMA, LRS_RESOLUTION, match_resolution
from specdb.spectra.spectrum import Spectra

__all__ = ["DESI_SHARES", "DesiLike", "Instrument", "desi_instrument", "draw_desi_like", "observe", "onto_lrs"]

DESI_SHARES = (0.45, 0.35, 0.20)  #: of thin disc, thick disc and halo: fainter stars than LAMOST's lie further away

_LOG_PIXEL = np.log(10) * 1e-4
_SHARPEST = 0.35  # variance in squared pixels that one step of deconvolution may take from 1.05
_BATCH = 256  # part of the recipe, since it decides which random numbers a star gets
_KEY = 9  # tells these random numbers from those of the other surveys of the same seed
_TILT_ORDER = 3


@dataclass(frozen=True)
class Instrument:
    """A spectrograph in front of which the light of `indexer.simulate.light.starlight` falls.

    Attributes
    ----------
    name : str
    wavelength : ndarray (n_pix,)
        Vacuum, Angstrom, increasing.
    resolution : ndarray (n_pix,)
        Wavelength over full width at half maximum.
    noise : ndarray (n_pix,)
        Error per pixel over the square root of the flux, on any scale: throughput, arms and sky.
    tilt : float
        Standard deviation of each Legendre coefficient (orders 1 to 3) of the flux calibration in ln flux.
    snr_window : tuple of float
        Angstrom between which a star's S/N per pixel is counted, as median.
    """

    name: str
    wavelength: np.ndarray
    resolution: np.ndarray
    noise: np.ndarray
    tilt: float = 0.02
    snr_window: tuple[float, float] = (4000.0, 5600.0)

    def __post_init__(self) -> None:
        shape = self.wavelength.shape
        if not (self.resolution.shape == self.noise.shape == shape and (np.diff(self.wavelength) > 0).all()):
            raise InputError(
                f"instrument {self.name}: wavelength {shape}, resolution {self.resolution.shape}, noise {self.noise.shape}; "
                "give all three on the same pixels, wavelengths increasing"
            )

    @cached_property
    def sigma(self) -> np.ndarray:
        """Standard deviation of the line spread (n_pix,), Angstrom."""
        return self.wavelength / (self.resolution * FWHM_PER_SIGMA)


@cache
def desi_instrument() -> Instrument:
    """Return a spectrograph like DESI's: 3600 to 9824 Angstrom in steps of 0.8, R 2000 to 5000 over the arms B, R and Z."""
    wavelength = 3600 + 0.8 * np.arange(7781)
    arms = ((3600, 5930, 2000, 3200), (5600, 7720, 3200, 4100), (7470, 9824, 4100, 5100))
    resolution, information = np.zeros_like(wavelength), np.zeros_like(wavelength)
    for low, high, first, last in arms:
        inside = np.minimum(wavelength - low, high - wavelength) / 400
        throughput = np.where(inside > -1e-3, np.clip(inside, 0.1, 1), 0)
        resolution += throughput * np.interp(wavelength, (low, high), (first, last))
        information += throughput
    resolution /= information
    sky = sum(h * np.exp(-0.5 * ((wavelength - line) / 1.2) ** 2) for line, h in ((5578.9, 4), (5891.6, 1.5), (6302.0, 2)))
    glow = np.where(wavelength > 7200, 0.5 + 0.5 * np.sin(wavelength / 3.1) * np.sin(wavelength / 83.0), 0)  # OH bands
    return Instrument("desi_like", wavelength, resolution, (1 + sky + glow) / np.sqrt(information))


def observe(
    instrument: Instrument, log_flux: np.ndarray, emulator: Emulator, snr: np.ndarray, rng: np.random.Generator
) -> Spectra:
    """Return what an instrument sees of ln flux (n, n_model_pix) on the emulator's pixels, and how sharp it is.

    `snr` (n,) is the median S/N per pixel of the instrument between `snr_window`. The flux has median 1.
    """
    flux = np.exp(log_flux)
    curvature, _ = line_design(flux)
    pixel = emulator.wavelength * _LOG_PIXEL
    sigma2 = (np.interp(emulator.wavelength, instrument.wavelength, instrument.sigma) / pixel) ** 2
    lacking = sigma2 - 1 / (_LOG_PIXEL * LRS_RESOLUTION * FWHM_PER_SIGMA) ** 2  # squared pixels
    flux = np.clip(flux + 0.5 * np.clip(lacking, -2 * _SHARPEST, 2 * _SHARPEST) * curvature, 1e-6, None)
    place = np.interp(instrument.wavelength, emulator.wavelength, np.arange(len(emulator.wavelength)))
    whole = np.clip(place.astype(int), 1, len(emulator.wavelength) - 3)
    taps = cubic_taps((place - whole).astype(np.float32))
    flux = sum(tap * flux[:, whole + k - 1] for k, tap in enumerate(taps))  # n n_pix
    shapes = np.polynomial.legendre.legvander(np.linspace(-1, 1, flux.shape[1]), _TILT_ORDER)[:, 1:]
    flux = flux * np.exp(instrument.tilt * rng.standard_normal((len(flux), _TILT_ORDER)) @ shapes.T)
    flux /= np.median(flux, axis=1, keepdims=True)
    error = instrument.noise * np.sqrt(np.clip(flux, 0.02, None))
    low, high = np.searchsorted(instrument.wavelength, instrument.snr_window)
    error *= (np.median((flux / error)[:, low:high], axis=1) / snr)[:, None]
    flux = flux + error * rng.standard_normal(flux.shape)
    sigma = np.broadcast_to(instrument.sigma.astype(np.float32), flux.shape)
    return Spectra(instrument.wavelength, flux.astype(np.float32), (1 / error**2).astype(np.float32), lsf_sigma=sigma)


def onto_lrs(spectra: Spectra) -> Spectra:
    """Return spectra at the resolution and on the pixels of LAMOST LRS; see `specdb.spectra.resolution`."""
    if spectra.ivar is None or spectra.lsf_sigma is None:
        raise InputError("spectra without inverse variances, or that do not say how sharp they are; give both")
    (matched,) = match_resolution([spectra])
    return matched


@dataclass(frozen=True)
class DesiLike:
    """A simulated target survey, row by row the same star.

    Attributes
    ----------
    native : Spectra (n, 7781)
        Coadded over the arms, as `desi_instrument` sees them.
    lrs : Spectra (n, 3909)
        The same on the pixels of LAMOST LRS at its resolution.
    labels : ndarray (n, 4), float64
        Teff in K, logg, [Fe/H], [alpha/Fe].
    ebv, rv_kms, snr : ndarray (n,), float64
    """

    native: Spectra
    lrs: Spectra
    labels: np.ndarray
    ebv: np.ndarray
    rv_kms: np.ndarray
    snr: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def _batches(n: int, seed: int, shares: tuple[float, float, float]) -> Iterator[DesiLike]:
    emulator, instrument = Emulator.load(), desi_instrument()
    for batch in range(-(-n // _BATCH)):
        rng = np.random.default_rng([seed, _KEY, batch])
        stars, ebv = draw_stars(_BATCH, rng, shares), draw_ebv(_BATCH, rng)
        snr = np.clip(np.exp(np.log(25) + 0.7 * rng.standard_normal(_BATCH)), 5, 300)
        light = starlight(emulator, stars.labels, stars.rv_kms, ebv, stars.alpha)
        native = observe(instrument, light, emulator, snr, rng).take(slice(0, n - batch * _BATCH))
        labels = np.column_stack([stars.labels, stars.alpha])
        rows = slice(0, len(native))
        yield DesiLike(native, onto_lrs(native), labels[rows], ebv[rows], stars.rv_kms[rows], snr[rows])


def draw_desi_like(n: int, seed: int = 0, shares: tuple[float, float, float] = DESI_SHARES) -> DesiLike:
    """Draw `n` stars as a survey like DESI's would see them; 1000 take 50 MB. Short draws are the beginnings of long ones.

    Parameters
    ----------
    n, seed : int
    shares : tuple of float
        Of thin disc, thick disc and halo, sum 1.

    Raises
    ------
    InputError
        When a number is out of range.
    """
    if n < 1 or seed < 0:
        raise InputError(f"n={n}, seed={seed}: draw at least one star, with a seed that is not negative")
    if min(shares) < 0 or not np.isclose(sum(shares), 1):
        raise InputError(f"shares are {shares}; those of thin disc, thick disc and halo are not negative and add up to 1")
    parts = list(_batches(n, seed, shares))
    arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in ("labels", "ebv", "rv_kms", "snr")}
    return DesiLike(_join([part.native for part in parts]), _join([part.lrs for part in parts]), **arrays)


def _join(parts: list[Spectra]) -> Spectra:
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ("flux", "ivar")}
    first = parts[0].lsf_sigma
    sigma = None if first is None else np.broadcast_to(first[0], joined["flux"].shape)  # one instrument
    return Spectra(parts[0].wavelength, **joined, log10_grid=parts[0].log10_grid, lsf_sigma=sigma)
