"""Which stars a survey meets: labels, velocities and S/N drawn from a simple picture of the Galaxy near the Sun."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = [
    "Stars",
    "binary_companions",
    "draw_alpha",
    "draw_ebv",
    "draw_snr",
    "draw_stars",
    "draw_visits",
    "radius",
    "spectral_type",
]

#: Thin disc, thick disc, halo: share, mean and spread of [Fe/H], velocity dispersion in km/s.
_COMPONENTS = np.array([(0.76, -0.10, 0.20, 33.0), (0.19, -0.55, 0.25, 58.0), (0.05, -1.45, 0.45, 140.0)])
_GIANT_SHARE = 0.27
_FEH_RANGE = (-3.0, 0.45)
_TAIL_SHARE, _TAIL_SCALE = 0.3, 0.7  # of the halo: exponential below -1.6
#: [alpha/Fe] of the components: value at the given [Fe/H], slope and scatter; two sequences in the disc and a halo between
#: them and the plateau (after Hayden et al. 2015, ApJ 808, 132 and Nissen & Schuster 2010, A&A 511, L10).
_ALPHA = np.array([(0.03, 0.0, -0.14, 0.03), (0.25, -0.5, -0.16, 0.04), (0.25, -1.3, -0.10, 0.08)])
_ALPHA_RANGE = (-0.1, 0.5)
_TEFF_RANGE = (3700.0, 11500.0)

#: Main sequence: logg at Teff, read off solar-metallicity isochrones of a few Gyr (Bressan et al. 2012, MNRAS 427, 127).
_DWARF_TEFF = (3700.0, 4500.0, 5200.0, 5800.0, 6500.0, 7500.0, 9000.0, 11500.0)
_DWARF_LOGG = (4.75, 4.62, 4.54, 4.42, 4.26, 4.16, 4.10, 4.05)
#: Giant branch at solar metallicity, likewise: Teff at logg.
_GIANT_LOGG = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 3.9)
_GIANT_TEFF = (3800.0, 4080.0, 4330.0, 4560.0, 4760.0, 4920.0, 5080.0, 5400.0)

#: Temperature in K of the subclasses; dwarf scale of Pecaut & Mamajek (2013, ApJS 208, 9).
_TYPES = {
    "B9": 10700, "A0": 9700, "A1": 9200, "A2": 8840, "A3": 8550, "A5": 8080, "A7": 7800, "A9": 7440, "F0": 7220, "F2": 6810,
    "F4": 6640, "F5": 6510, "F6": 6340, "F7": 6240, "F9": 6040, "G0": 5920, "G2": 5770, "G3": 5720, "G5": 5660, "G7": 5550,
    "G8": 5480, "G9": 5380, "K0": 5270, "K1": 5170, "K3": 4830, "K5": 4440, "K7": 4100, "M0": 3850, "M1": 3650,
}  # fmt: skip


@dataclass(frozen=True)
class Stars:
    """Stars, one per row.

    Attributes
    ----------
    labels : ndarray (n, 3), float64
        Teff in K, logg (cgs), [Fe/H] in dex.
    rv_kms : ndarray (n,), float64
        Heliocentric radial velocity.
    component : ndarray (n,), int64
        0 thin disc, 1 thick disc, 2 halo.
    alpha : ndarray (n,), float64
        [alpha/Fe] in dex.
    """

    labels: np.ndarray
    rv_kms: np.ndarray
    component: np.ndarray
    alpha: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Stars:
        """Return the given rows."""
        return Stars(self.labels[rows], self.rv_kms[rows], self.component[rows], self.alpha[rows])


def draw_stars(n: int, rng: np.random.Generator, shares: tuple[float, float, float] | None = None) -> Stars:
    """Draw `n` stars: dwarfs along the main sequence and giants along the giant branch, with intrinsic scatter.

    `shares` are those of thin disc, thick disc and halo; without them, those of a bright survey near the Sun.
    """
    component = rng.choice(len(_COMPONENTS), size=n, p=_COMPONENTS[:, 0] if shares is None else shares)
    mean, spread, dispersion = _COMPONENTS[component, 1:].T
    tail = (component == 2) & (rng.random(n) < _TAIL_SHARE)
    feh = np.where(tail, -1.6 - rng.exponential(_TAIL_SCALE, size=n), mean + spread * rng.standard_normal(n))
    feh = np.where(feh < _FEH_RANGE[0], rng.uniform(_FEH_RANGE[0], -2.0, size=n), np.minimum(feh, _FEH_RANGE[1]))
    giant = rng.random(n) < _GIANT_SHARE
    labels = np.where(giant[:, None], _giants(feh, rng), _dwarfs(feh, component, rng))
    rv_kms = dispersion * rng.standard_normal(n)
    return Stars(np.column_stack([labels, feh]), rv_kms, component, draw_alpha(feh, component, rng))


def draw_alpha(feh: np.ndarray, component: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw [alpha/Fe] in dex for stars of the given [Fe/H] and component (n,), along the sequence of each component."""
    value, pivot, slope, scatter = _ALPHA[component].T
    sequence = np.clip(value + slope * (feh - pivot), 0.0, 0.36)
    return np.clip(sequence + scatter * rng.standard_normal(len(feh)), *_ALPHA_RANGE)


def _dwarfs(feh: np.ndarray, component: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(feh)
    # Most stars of a magnitude-limited sample are F and G; the young thin disc alone has A stars.
    ordinary = 5850 + 620 * rng.standard_normal(n)
    hot = 6800 * np.exp(0.4 * np.abs(rng.standard_normal(n)))
    teff = np.where((rng.random(n) < 0.22) & (component == 0), hot, ordinary) - 150 * np.minimum(feh + 0.2, 0)
    old_limit = np.where(component == 0, _TEFF_RANGE[1], 6700.0)
    teff = np.clip(teff, _TEFF_RANGE[0] + 150 * rng.random(n), old_limit - 150 * rng.random(n))
    evolved = np.where(teff > 5300, 0.35 * rng.random(n) ** 1.5, 0.0)  # towards the turn-off
    logg = np.interp(teff, _DWARF_TEFF, _DWARF_LOGG) - evolved + 0.03 * rng.standard_normal(n)
    return np.column_stack([teff, logg])


def _giants(feh: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = len(feh)
    branch = 3.8 - rng.gamma(2.2, 0.6, size=n)
    clump = 2.45 + 0.10 * rng.standard_normal(n)
    in_clump = rng.random(n) < 0.40
    logg = np.clip(np.where(in_clump, clump, branch), 0.4, 3.9)
    # Metal-poor giants are hotter at one gravity, by about 250 K per dex.
    teff = np.interp(logg, _GIANT_LOGG, _GIANT_TEFF) - 250 * feh + np.where(in_clump, 80, 0) + 60 * rng.standard_normal(n)
    return np.column_stack([np.clip(teff, _TEFF_RANGE[0], 6200.0), logg])


def draw_snr(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw S/N per pixel in g: log-normal with median 50, standard deviation of ln S/N 0.9, as in DR10; 6 to 900."""
    return np.clip(np.exp(np.log(50) + 0.9 * rng.standard_normal(n)), 6, 900)


def draw_ebv(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw E(B-V) in mag: log-normal with median 0.08 and standard deviation of the logarithm 0.9, 0 to 1.5."""
    return np.clip(0.08 * np.exp(0.9 * rng.standard_normal(n)), 0.0, 1.5)


def draw_visits(n: int, repeat_fraction: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw who is visited how often: star and number of the visit to it (m,), m >= n, int64, sorted by both.

    Each of the `n` stars has one visit, and with the probability `repeat_fraction` 2, 3 or 4 (60, 25 and 15 %).
    """
    more = rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15], size=n)
    visits = 1 + np.where(rng.random(n) < repeat_fraction, more, 0)
    star = np.repeat(np.arange(n), visits)
    return star, np.arange(len(star)) - np.repeat(np.cumsum(visits) - visits, visits)


def radius(labels: np.ndarray) -> np.ndarray:
    """Return radii in solar units from logg and a rough mass: ``(Teff / 5772 K) ** 1.6`` for dwarfs, 1.2 for giants."""
    teff, logg, _ = labels.T
    mass = np.where(logg > 3.8, (teff / 5772) ** 1.6, 1.2)
    return np.sqrt(mass * 10 ** (4.438 - logg))


def binary_companions(primaries: Stars, rng: np.random.Generator) -> Stars:
    """Draw a main-sequence companion 10 to 35 % cooler for each star, of its metallicity, moving apart by up to 200 km/s."""
    n = len(primaries)
    teff = np.clip(primaries.labels[:, 0] * rng.uniform(0.65, 0.9, size=n), _TEFF_RANGE[0], None)
    logg = np.interp(teff, _DWARF_TEFF, _DWARF_LOGG)
    split = rng.uniform(80, 200, size=n) * rng.choice([-1, 1], size=n)
    labels = np.column_stack([teff, logg, primaries.labels[:, 2]])
    return Stars(labels, primaries.rv_kms + split, primaries.component, primaries.alpha)


def spectral_type(teff: np.ndarray, logg: np.ndarray) -> np.ndarray:
    """Return the subclass nearest in temperature, in LAMOST's spelling (dM0 and gM0 for dwarfs and giants), as strings."""
    names = np.array(list(_TYPES))[np.abs(np.asarray(teff)[:, None] - list(_TYPES.values())).argmin(axis=1)]
    prefix = np.where(np.char.startswith(names, "M"), np.where(np.asarray(logg) > 3.8, "d", "g"), "")
    return np.char.add(prefix, names)
