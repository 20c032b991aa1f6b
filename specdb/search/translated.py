"""What a translation returns: predicted spectra with their intervals, as arrays and as rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from specdb.rows import Rows
from specdb.store.tables import fixed_size_lists

__all__ = ["LRS_RELATIVE", "XP_ABSOLUTE", "XP_RELATIVE", "Translation", "translation_rows"]

#: Units of the flux of a translation.
XP_RELATIVE, XP_ABSOLUTE = "flux relative to that at 550 nm", "W m-2 nm-1"
LRS_RELATIVE = "flux relative to the continuum"


@dataclass(frozen=True, repr=False)
class Translation(Rows):
    """Predicted spectra.

    As rows, one spectrum is a table of its samples: ``wavelength`` (vacuum Angstrom), ``flux``, ``flux_error`` (half the
    interval that holds 68.27 %), ``flux_low`` and ``flux_high`` (95 %). Several spectra have a row each, with lists.

    Attributes
    ----------
    modality, source : str
        Predicted modality, and that of the spectra it was predicted from.
    wavelength : ndarray (n_grid,), float64
        Vacuum Angstrom.
    flux, sigma, half_95 : ndarray (m, n_grid)
        Prediction, and half the width of its 68.27 % and 95 % intervals, in `unit`.
    unit : str
    names : list of str
    ids : ndarray (m,), int64
    method : str
    encoder : str
    calibrated : bool
        Whether the intervals were calibrated on held-out pairs; else they are only the spread of decoders or neighbours.
    notes : dict
        Where the scale comes from, the coverage measured by the calibration.
    """

    modality: str
    source: str
    wavelength: np.ndarray
    flux: np.ndarray
    sigma: np.ndarray
    half_95: np.ndarray
    unit: str
    names: list[str]
    ids: np.ndarray
    method: str
    encoder: str
    calibrated: bool
    notes: dict[str, Any]

    @property
    def meta(self) -> dict[str, Any]:
        """Facts for the header of a file."""
        facts = {
            "modality": self.modality,
            "translated_from": self.source,
            "method": self.method,
            "encoder": self.encoder,
            "flux_unit": self.unit,
            "errors": "calibrated on held-out pairs" if self.calibrated else "spread only, not calibrated",
            **self.notes,
        }
        return facts if len(self.flux) != 1 else {"query": self.names[0], **facts}

    def scaled(self, scale: np.ndarray, origin: list[str]) -> Translation:
        """Bring relative XP spectra to W m-2 nm-1 where the scale of all is known; the error of the scale is not added.

        Parameters
        ----------
        scale : ndarray (m,)
            Flux at 550 nm in W m-2 nm-1; NaN where it is unknown.
        origin : list of str
            What each comes from.
        """
        if not np.isfinite(scale).all():
            missing = self.names[int(np.flatnonzero(~np.isfinite(scale))[0])]
            note = f"unknown: no magnitude of {missing}; give G or the flux at 550 nm"
            return replace(self, notes=self.notes | {"scale": note})
        flux, sigma, half_95 = (a * scale[:, None] for a in (self.flux, self.sigma, self.half_95))
        rows = translation_rows(self.wavelength, flux, sigma, half_95, XP_ABSOLUTE, self.names, self.ids)
        notes = self.notes | {"scale": origin[0] if len(origin) == 1 else "from magnitudes, star by star"}
        return replace(self, rows=rows, flux=flux, sigma=sigma, half_95=half_95, unit=XP_ABSOLUTE, notes=notes)


def translation_rows(
    wavelength: np.ndarray,
    flux: np.ndarray,
    sigma: np.ndarray,
    half_95: np.ndarray,
    unit: str,
    names: list[str],
    ids: np.ndarray,
) -> pa.Table:
    """Return predictions as a table: of samples for one spectrum, of spectra for several."""
    columns = {"flux": flux, "flux_error": sigma, "flux_low": flux - half_95, "flux_high": flux + half_95}
    what = {
        "flux": "predicted flux",
        "flux_error": "half the interval that holds 68.27 %",
        "flux_low": "lower end of the interval that holds 95 %",
        "flux_high": "upper end of the interval that holds 95 %",
    }
    physical = {"unit": "W m-2 nm-1"} if unit == XP_ABSOLUTE else {}
    if len(flux) == 1:
        fields = [pa.field("wavelength", pa.float64(), metadata={"unit": "Angstrom", "description": "vacuum wavelength"})]
        arrays: list[pa.Array] = [pa.array(wavelength)]
        for name, values in columns.items():
            fields.append(pa.field(name, pa.float64(), metadata={"description": f"{what[name]}; {unit}", **physical}))
            arrays.append(pa.array(values[0]))
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    known = ids >= 0
    fields = [pa.field("query", pa.string()), pa.field("spectrum_id", pa.int64())]
    arrays = [pa.array(names), pa.array(ids, mask=~known)]
    # Single precision holds fluxes in W m-2 nm-1 (1e-19 to 1e-12) as well as relative ones.
    for name, values in columns.items():
        lists = fixed_size_lists(values)
        fields.append(pa.field(name, lists.type, metadata={"description": f"{what[name]}; {unit}", **physical}))
        arrays.append(lists)
    grid = {"wavelength_vac_angstrom": str(wavelength.tolist())}
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=grid))
