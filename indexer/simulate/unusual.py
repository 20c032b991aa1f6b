"""Plants unusual objects among stars: their light, before any instrument looks at it, so that all see the same object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from indexer.simulate.anomalies import carbon_bands, emission_lines, galaxy_lines, quasar, white_dwarf
from indexer.simulate.emulator import Emulator
from indexer.simulate.instrument import SPEED_OF_LIGHT_KMS, shift_pixels
from indexer.simulate.light import light_ratio, redden, starlight
from indexer.simulate.population import Stars, binary_companions

__all__ = ["LIGHT_ANOMALIES", "NOT_STARS", "Unusual", "galaxy"]

#: Classes whose light differs from that of a star; `bad_sky` and `wrong_pair` are matters of the observation.
LIGHT_ANOMALIES = ("emission", "composite", "carbon", "white_dwarf", "qso", "galaxy")
NOT_STARS = ("white_dwarf", "qso", "galaxy")  #: those that share no lines with the star in whose place they are

#: Stars that stand for the light of a galaxy (Teff, logg, [Fe/H]) and their shares at 5500 Angstrom: red giants, clump, main
#: sequence near the turn-off and below; then those that a young population adds.
_OLD = np.array([(4300.0, 1.8, 0.0), (4750.0, 2.5, 0.1), (5800.0, 4.2, 0.0), (4900.0, 4.6, 0.0)]), (0.35, 0.3, 0.25, 0.1)
_YOUNG = np.array([(11500.0, 4.0, 0.0), (8800.0, 4.0, 0.0), (6800.0, 4.1, 0.0)]), (0.45, 0.35, 0.2)
_DISPERSION_PIXELS = 2.9  # 200 km/s


def galaxy(emulator: Emulator, redshift: np.ndarray, young: np.ndarray) -> np.ndarray:
    """Return ln flux (n, n_pix), float32, of galaxies: an old and a young population, emission lines with the latter.

    Parameters
    ----------
    emulator : Emulator
        Its stars, broadened by 200 km/s, make up the populations.
    redshift : ndarray (n,)
        Up to 0.17, beyond which light would be needed that the emulator does not have.
    young : ndarray (n,)
        Share of the young population in the light at 5500 Angstrom, 0 to 1.
    """
    old, new = (shares @ np.exp(emulator.log_flux(labels)) for labels, shares in (_OLD, _YOUNG))
    old, new = (gaussian_filter1d(population, _DISPERSION_PIXELS) for population in (old, new))
    mixed = np.multiply.outer(1 - young, old) + np.multiply.outer(young, new)
    lines = galaxy_lines(emulator.wavelength, 3.0 * young**2)
    return shift_pixels(np.log(mixed * (1 + lines)).astype(np.float32), redshift * SPEED_OF_LIGHT_KMS)


@dataclass(frozen=True)
class Unusual:
    """What is unusual about each of n stars.

    Attributes
    ----------
    kind : ndarray (n,), str
        Class of each star; those that are not in `LIGHT_ANOMALIES` keep their light.
    companions : Stars (n)
        Second stars of the composites.
    numbers : ndarray (n, 2), float64
        Even random numbers from 0 to 1 that decide strength, temperature or redshift.
    """

    kind: np.ndarray
    companions: Stars
    numbers: np.ndarray

    @classmethod
    def draw(cls, kind: np.ndarray, stars: Stars, rng: np.random.Generator) -> Unusual:
        """Draw what decides how objects of the classes `kind` (n,) look; the same numbers whatever the classes are."""
        return cls(kind, binary_companions(stars, rng), rng.random((len(stars), 2)))

    def take(self, rows: np.ndarray) -> Unusual:
        """Return the given rows."""
        return Unusual(self.kind[rows], self.companions.take(rows), self.numbers[rows])

    @property
    def redshift(self) -> np.ndarray:
        """Redshift of the quasars, 0.2 to 3.2, and of the galaxies, 0.02 to 0.17; 0 for all others (n,)."""
        u = self.numbers[:, 0]
        return np.select([self.kind == "qso", self.kind == "galaxy"], [0.2 + 3 * u, 0.02 + 0.15 * u], 0.0)

    def change(self, log_flux: np.ndarray, emulator: Emulator, stars: Stars, ebv: np.ndarray) -> None:
        """Change in place ln flux (n, n_pix), float32, as `starlight` gives it for `stars` behind dust of E(B-V) `ebv`."""
        wavelength, u = emulator.wavelength, self.numbers
        rows = {name: np.flatnonzero(self.kind == name) for name in LIGHT_ANOMALIES}
        i = rows["emission"]
        log_flux[i] += np.log1p(emission_lines(wavelength, 0.8 * 8 ** u[i, 0], stars.rv_kms[i])).astype(np.float32)
        i = rows["composite"]
        second = self.companions.take(i)
        ratio = light_ratio(emulator, stars.labels[i], second.labels)
        added = starlight(emulator, second.labels, second.rv_kms, ebv[i], second.alpha) + np.log(ratio)[:, None]
        log_flux[i] = np.logaddexp(log_flux[i], added)
        i = rows["carbon"]
        cool = np.column_stack([4000 + 800 * u[i, 0], 1 + u[i, 1], stars.labels[i, 2]])
        log_flux[i] = starlight(emulator, cool, stars.rv_kms[i], ebv[i]) + carbon_bands(wavelength, 0.4 + u[i, 1])
        i = rows["white_dwarf"]
        log_flux[i] = white_dwarf(wavelength, 7000 * 4.3 ** u[i, 0])  # near enough to have no dust in front
        i = rows["qso"]
        log_flux[i] = redden(emulator, quasar(wavelength, self.redshift[i], -0.8 - 1.2 * u[i, 1]), ebv[i])
        i = rows["galaxy"]
        log_flux[i] = redden(emulator, galaxy(emulator, self.redshift[i], 0.7 * u[i, 1] ** 2), ebv[i])
