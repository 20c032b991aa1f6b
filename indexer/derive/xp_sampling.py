"""Derive the table that turns Gaia XP coefficients into samples: ``python -m indexer.derive.xp_sampling [FILE]``.

The externally calibrated spectrum is linear in the 55 + 55 coefficients, so GaiaXPy's answers to unit coefficient vectors
are the whole calibration. They are asked for one arm at a time: with the other arm missing GaiaXPy returns the arm without
its merge weight, which is what a source with only one arm needs. The merge weights of BP and RP are linear in wavelength
between the ends of the overlap (Montegriffo et al. 2023, A&A 674, A3). The table is written only after it has reproduced
GaiaXPy's own spectra of random coefficients.

The table is that of GaiaXPy's default sampling, 336, 338, .. 1020 nm, which reproduces the archive's sampled spectra to a
few 1e-6. When the very same wavelengths are named explicitly, GaiaXPy evaluates its instrument model anew and differs from
both by up to some 1e-3 of a spectrum's maximum below 420 nm, so that coefficients would no longer agree with samples from
the archive.

Needs the extra ``test`` (GaiaXPy); nothing of it is needed to use the table.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

__all__ = ["calibrate", "derive", "main"]

N_BASES = 55
#: Model ids of the external calibration of DR3 that GaiaXPy uses by default.
MODELS = {"bp": "v375wi", "rp": "v142r"}


def calibrate(
    bp: np.ndarray | None, rp: np.ndarray | None, sampling_nm: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ask GaiaXPy for the sampled spectra of coefficient vectors; an arm that is None is missing.

    Parameters
    ----------
    bp, rp : ndarray (n, 55), or None
    sampling_nm : ndarray (n_grid,), optional
        Wavelengths; GaiaXPy's default of 343 if not given.

    Returns
    -------
    flux : ndarray (n, n_grid), float64
        W m-2 nm-1, NaN where only the missing arm would have contributed.
    wavelength_nm : ndarray (n_grid,), float64
    """
    import gaiaxpy
    import pandas as pd

    n = len(bp if bp is not None else rp)  # type: ignore[arg-type]
    columns: dict[str, object] = {"source_id": np.arange(1, n + 1)}
    for arm, coefficients in (("bp", bp), ("rp", rp)):
        missing = coefficients is None
        # Errors and correlations are required columns; their values do not enter the flux.
        columns |= {
            f"{arm}_n_parameters": [np.nan if missing else N_BASES] * n,
            f"{arm}_standard_deviation": [np.nan if missing else 1.0] * n,
            f"{arm}_coefficients": [np.nan] * n if missing else list(coefficients),  # type: ignore[arg-type]
            f"{arm}_coefficient_errors": [np.nan] * n if missing else list(np.ones((n, N_BASES))),
            f"{arm}_coefficient_correlations": [np.nan] * n if missing else [np.eye(N_BASES) for _ in range(n)],
        }
    spectra, wavelength_nm = gaiaxpy.calibrate(
        pd.DataFrame(columns), sampling=sampling_nm, truncation=False, save_file=False
    )
    return np.stack(spectra["flux"].to_list()), np.asarray(wavelength_nm, np.float64)


def derive(sampling_nm: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return ``wavelength_nm`` (n_grid,), ``bp`` and ``rp`` (55, n_grid) and ``bp_weight`` (n_grid,), all float64."""
    from gaiaxpy.core.satellite import BP_WL, RP_WL

    bp_alone, wavelength_nm = calibrate(np.eye(N_BASES), None, sampling_nm)
    rp_alone, _ = calibrate(None, np.eye(N_BASES), sampling_nm)
    bp_weight = np.clip((BP_WL.high - wavelength_nm) / (BP_WL.high - RP_WL.low), 0.0, 1.0)
    table = {"bp": np.nan_to_num(bp_alone), "rp": np.nan_to_num(rp_alone)}

    bp, rp = np.random.default_rng(0).standard_normal((2, 8, N_BASES))
    expected, _ = calibrate(bp, rp, sampling_nm)
    found = bp @ (table["bp"] * bp_weight) + rp @ (table["rp"] * (1 - bp_weight))
    if not np.allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max()):
        raise SystemExit(
            "GaiaXPy's calibration is not the linear map found here; its merging of BP and RP must have changed"
        )
    return table | {"wavelength_nm": wavelength_nm, "bp_weight": bp_weight}


def main(arguments: list[str]) -> None:
    """Write the table to the file named, by default ``data/gaia_xp_sampling.npz`` of this checkout."""
    import gaiaxpy

    default = Path(__file__).parents[2] / "data" / "gaia_xp_sampling.npz"
    path = Path(arguments[0]) if arguments else default
    provenance = {
        "source": f"GaiaXPy {gaiaxpy.__version__} (gaiaxpy.calibrate, truncation=False, default sampling)",
        "calibration_model": f"bp {MODELS['bp']}, rp {MODELS['rp']}",
        "release": "Gaia DR3",
        "unit": "W m-2 nm-1 per unit coefficient",
        "derived_by": "python -m indexer.derive.xp_sampling",
    }
    np.savez_compressed(path, allow_pickle=False, provenance=np.array(json.dumps(provenance)), **derive())


if __name__ == "__main__":
    main(sys.argv[1:])
