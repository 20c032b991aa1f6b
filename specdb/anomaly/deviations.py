"""Where unusual spectra deviate from what is expected of them: one row per feature, stored beside the scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.anomaly.features import Peak
from specdb.anomaly.reasons import describe_peak
from specdb.store import read_table

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["DEVIATIONS_FOLDER", "Deviation", "deviation_table", "deviations_of", "deviations_path"]

DEVIATIONS_FOLDER = "deviations"

_SCHEMA = pa.schema(
    [
        pa.field("spectrum_id", pa.int64(), metadata={"description": "spectrum that deviates"}),
        pa.field("low", pa.float64(), metadata={"description": "where the feature begins, vacuum", "unit": "Angstrom"}),
        pa.field("high", pa.float64(), metadata={"description": "where it ends, vacuum", "unit": "Angstrom"}),
        pa.field("significance", pa.float64(), metadata={"description": "in sigmas; positive for more light than expected"}),
        pa.field("feature", pa.string(), metadata={"description": "what it is, in words"}),
    ]
)


@dataclass(frozen=True)
class Deviation:
    """A stretch of a spectrum that is not as expected.

    Attributes
    ----------
    low, high : float
        Vacuum Angstrom.
    significance : float
        In sigmas; positive for more light than expected.
    feature : str
    """

    low: float
    high: float
    significance: float
    feature: str


def deviations_path(modality: str) -> str:
    """Return the file of a modality's deviations, relative to the database."""
    return f"{DEVIATIONS_FOLDER}/{modality}.parquet"


def deviation_table(ids: Sequence[int], peaks: Sequence[Sequence[Peak]], wavelength: np.ndarray, modality: str) -> pa.Table:
    """Return the features of some spectra as rows.

    Parameters
    ----------
    ids : sequence of n int
    peaks : sequence of n sequences of Peak
    wavelength : ndarray (p,)
        Grid of the modality, vacuum Angstrom.
    modality : str

    Returns
    -------
    pyarrow.Table
        ``spectrum_id``, ``low``, ``high``, ``significance``, ``feature``; a feature reaches two widths to either side.
    """
    pairs = [(i, peak) for i, found in zip(ids, peaks, strict=True) for peak in found]
    at = np.array([[peak.pixel - 2 * peak.width, peak.pixel + 2 * peak.width] for _, peak in pairs]).reshape(-1, 2)
    limits = np.interp(at, np.arange(len(wavelength)), wavelength)
    words = [describe_peak(peak, wavelength, modality) for _, peak in pairs]
    columns = [[i for i, _ in pairs], limits[:, 0], limits[:, 1], [peak.significance for _, peak in pairs], words]
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA)


def deviations_of(db: Database, modality: str, spectrum_id: int) -> list[Deviation]:
    """Return what is stored of one spectrum, strongest first; nothing for ordinary spectra and before any were scored."""
    name = deviations_path(modality)
    if name not in db.store.manifest().files:
        return []
    table = read_table(db.store.root / name)
    rows = table.filter(pc.equal(table["spectrum_id"], spectrum_id)).drop_columns(["spectrum_id"]).to_pylist()
    return sorted((Deviation(**row) for row in rows), key=lambda d: -abs(d.significance))
