"""Why a spectrum is unusual, in words: where it deviates, by how much, and what lies there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specdb.anomaly.expected import Residual
from specdb.anomaly.features import Peak
from specdb.anomaly.lines import identify

__all__ = ["describe_peak", "finder", "reasons", "spikes"]

#: Broader features than this share of their wavelength are described as ranges, not as lines.
_LINE_WIDTH = 0.006
_RESOLUTION = {"lamost_lrs": 1800.0, "gaia_xp": 60.0}
_VELOCITY = 0.0012  # lines are shifted by up to 360 km/s


def describe_peak(peak: Peak, wavelength: np.ndarray, modality: str) -> str:
    """Say what a feature is: "emission at H-alpha: +14 sigma" or "deficit 4700-4780 A: -9 sigma".

    Parameters
    ----------
    peak : Peak
    wavelength : ndarray (p,)
        Grid of the modality, vacuum Angstrom.
    modality : str
        Decides how far from a line's wavelength a feature may be.
    """
    pixels = np.arange(len(wavelength))
    low, centre, high = np.interp(
        [peak.pixel - 2 * peak.width, peak.pixel, peak.pixel + 2 * peak.width], pixels, wavelength
    ).tolist()
    half = 0.5 / _RESOLUTION.get(modality, 1000.0)
    excess = peak.significance > 0
    line = identify(centre, centre * (_VELOCITY + half), excess)
    sigma = f"{peak.significance:+.0f} sigma"
    if (high - low) / 4 > max(_LINE_WIDTH, 2 * half) * centre:
        near = f" (around {line.name})" if line else ""
        return f"{'excess' if excess else 'deficit'} {low:.0f}-{high:.0f} A{near}: {sigma}"
    where = f"at {line.name}" if line else f"at {centre:.0f} A"
    return f"{'emission' if excess else 'absorption'} {where}: {sigma}"


def reasons(
    peaks: Sequence[Sequence[Peak]],
    wavelength: np.ndarray,
    modality: str,
    components: dict[str, np.ndarray],
    titles: dict[str, str],
    notes: Sequence[str],
) -> list[str]:
    """Return one line of words for each spectrum.

    Parameters
    ----------
    peaks : sequence of n sequences of Peak
        Strongest first; may be empty.
    wavelength : ndarray (p,)
    modality : str
    components : dict of str to ndarray (n,)
        Surprise (minus the decadic logarithm of the p-value) of each score; the largest is named.
    titles : dict of str to str
        What each score says in words.
    notes : sequence of n str
        What else is known: the survey's class, many repaired pixels.
    """
    found = []
    names = list(components)
    matrix = np.nan_to_num(np.column_stack([components[name] for name in names]), nan=-1.0)
    for row, (features, note) in enumerate(zip(peaks, notes, strict=True)):
        parts: list[str] = []
        for text in (describe_peak(peak, wavelength, modality) for peak in features):
            # A wide or shifted feature is found in pieces: its name once is enough.
            if all(text.rpartition(":")[0] != known.rpartition(":")[0] for known in parts):
                parts.append(text)
        best = int(matrix[row].argmax())
        if not parts or matrix[row, best] > 2:
            parts.append(f"{titles[names[best]]} (p = {10 ** -min(matrix[row, best], 300):.1g})")
        if note:
            parts.append(note)
        found.append("; ".join(parts))
    return found


def spikes(residual: Residual, wavelength: np.ndarray) -> list[str]:
    """Say of each spectrum where its strongest spike is, and how many there are; empty where there is none."""
    size = np.where(residual.spike, np.abs(residual.flux), -1.0)
    found = []
    for at, count in zip(size.argmax(axis=1).tolist(), residual.spike.sum(axis=1).tolist(), strict=True):
        more = f" and {count - 1} pixels elsewhere" if count > 2 else ""
        found.append(f"defect: spike of one or two pixels at {wavelength[at]:.0f} A{more}, not counted" if count else "")
    return found


def finder(ra: np.ndarray, dec: np.ndarray) -> list[str | None]:
    """Return positions (degrees, ICRS) as "hh mm ss.ss +dd mm ss.s", which Aladin, SIMBAD and finder charts take.

    None where a position is not known.
    """
    found: list[str | None] = []
    for a, d in zip(ra.tolist(), dec.tolist(), strict=True):
        if not (np.isfinite(a) and np.isfinite(d)):
            found.append(None)
            continue
        hundredths = round(a % 360 / 15 * 360_000) % 8_640_000
        tenths = round(abs(d) * 36_000)
        h, m, s = hundredths // 360_000, hundredths // 6000 % 60, hundredths % 6000 / 100
        found.append(
            f"{h:02d} {m:02d} {s:05.2f} {'-' if d < 0 else '+'}{tenths // 36_000:02d} {tenths // 600 % 60:02d} "
            f"{tenths % 600 / 10:04.1f}"
        )
    return found
