"""Spectral features by name: what an unexpected excess or deficit of light may be.

Vacuum wavelengths in Angstrom: atomic lines from NIST ASD, converted where the catalogues give air values; molecular heads
after Pearse & Gaydon (1976); airglow and city lamps from Osterbrock et al. (1996, PASP 108, 277).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["LINES", "Line", "identify"]


@dataclass(frozen=True)
class Line:
    """A line, or the head of a band.

    Attributes
    ----------
    name : str
    wavelength : float
        Vacuum, Angstrom.
    sky : bool
        Of the night sky rather than of objects.
    band : bool
        Head of a molecular band: matches what lies up to 60 Angstrom to its side, too.
    """

    name: str
    wavelength: float
    sky: bool = False
    band: bool = False


LINES = (
    Line("[O II]", 3728.5),
    Line("[Ne III]", 3869.9),
    Line("Ca II K", 3934.8),
    Line("Ca II H / H-epsilon", 3969.6),
    Line("H-delta", 4102.9),
    Line("Ca I 4227", 4227.9),
    Line("CH G band", 4306.0),
    Line("H-gamma", 4341.7),
    Line("[O III] 4363", 4364.4),
    Line("He I 4471", 4472.7),
    Line("He II 4686", 4687.0),
    Line("C2 4737", 4737.0, band=True),
    Line("TiO 4761", 4763.0, band=True),
    Line("H-beta", 4862.7),
    Line("[O III] 4959", 4960.3),
    Line("TiO 4954", 4956.0, band=True),
    Line("[O III] 5007", 5008.2),
    Line("Fe II 5018", 5019.8),
    Line("C2 5165", 5165.0, band=True),
    Line("Mg b / MgH", 5178.0),
    Line("He II 5411", 5413.0),
    Line("TiO 5448", 5450.0, band=True),
    Line("C2 5635", 5635.0, band=True),
    Line("He I 5876", 5877.2),
    Line("Na I D", 5894.6),
    Line("TiO 6159", 6161.0, band=True),
    Line("[O I] 6300", 6302.0),
    Line("H-alpha", 6564.6),
    Line("He I 6678", 6680.0),
    Line("[S II]", 6725.5),
    Line("O VI Raman 6825", 6827.0),
    Line("TiO 7054", 7056.0, band=True),
    Line("He I 7065", 7067.2),
    Line("[Ar III] 7136", 7137.8),
    Line("[O II] 7325", 7327.0),
    Line("TiO 7589", 7591.0, band=True),
    Line("[Ar III] 7751", 7753.0),
    Line("O I 7774", 7776.0),
    Line("CN 7880", 7882.0, band=True),
    Line("O I 8446", 8448.7),
    Line("Ca II triplet", 8544.4),
    Line("[S III] 9069", 9071.1),
    Line("CN 9150", 9150.0, band=True),
    Line("[S III] 9532", 9533.2),
    Line("Hg 4047 (lamps)", 4047.7, sky=True),
    Line("Hg 4358 (lamps)", 4359.6, sky=True),
    Line("Hg 5461 (lamps)", 5462.3, sky=True),
    Line("[O I] 5577 (sky)", 5578.9, sky=True),
    Line("[N I] 5199 (sky)", 5201.7, sky=True),
)

_WAVELENGTHS = np.array([line.wavelength for line in LINES])
_BANDS = np.array([line.band for line in LINES])
_SKY = np.array([line.sky for line in LINES])
_BAND_REACH = 60.0


def identify(wavelength: float, tolerance: float, excess: bool) -> Line | None:
    """Return the line nearest to a wavelength, or None.

    Parameters
    ----------
    wavelength, tolerance : float
        Vacuum, Angstrom.
    excess : bool
        Whether there is more light than expected; bands of stars only absorb.
    """
    offset = np.abs(_WAVELENGTHS - wavelength) / np.where(_BANDS, tolerance + _BAND_REACH, tolerance)
    offset[_BANDS & excess] = np.inf
    offset[_SKY & (not excess)] += 0.5  # light of the sky that was taken off twice is rarer than absorption
    best = int(offset.argmin())
    return LINES[best] if offset[best] <= 1 else None
