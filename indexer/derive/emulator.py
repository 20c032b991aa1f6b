"""Make `data/emulator.npz`: the simulator's stellar spectra and the instrument statistics, from public libraries.

The model is one smooth function of the labels per pixel, ``ln flux = features(Teff, logg, [Fe/H]) @ weights``
(`indexer.simulate.emulator.features`). It is fitted in two steps: first to ATLAS9 model atmospheres, which know the energy
distribution everywhere; then to what observed stars (MILES in the blue, STELIB in the red) show beyond ATLAS9. The second
fit is a ridge fit, so that where no star was observed the model falls back to ATLAS9. What [alpha/Fe] does is known from two
BOSZ model spectra that differ in nothing else; for other stars it is scaled with the strength of their metal lines.

Run as ``python -m indexer.derive.emulator LIBRARIES data/emulator.npz`` with the folder of the libraries. Only fitted
weights are written; no library spectrum can be read back from them.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from indexer.simulate.emulator import DLOG10, Emulator, features

LOG10_START, N_PIX = 3.50, 5400
RESOLUTION = 1800.0
NORMALISATION = (5450.0, 5550.0)  # Angstrom; every spectrum has mean ln flux 0 here
MILES_FWHM, STELIB_FWHM = 2.5, 3.0  # Angstrom
TELLURIC = (7580.0, 7720.0)  # Angstrom in air; the O2 band that STELIB keeps and LAMOST corrects
STELIB_END = 9250.0  # Angstrom; water beyond
SEAM = 7200.0, 7390.0  # Angstrom; MILES hands over to STELIB between these
SOURCES = (
    "ATLAS9 energy distributions: Castelli & Kurucz 2004 (arXiv:astro-ph/0405087)",
    "MILES spectra: Sanchez-Blazquez et al. 2006 MNRAS 371, 703; Falcon-Barroso et al. 2011 A&A 532, A95",
    "MILES labels: Cenarro et al. 2007 MNRAS 374, 664",
    "STELIB: Le Borgne et al. 2003 A&A 402, 433",
    "BOSZ: Bohlin et al. 2017 AJ 153, 234",
)
ALPHA_PAIR = "amm03cp00op00t5500g45", "amm03cp00op03t5500g45"  # BOSZ models, [alpha/M] = 0 and 0.3
ALPHA_LABELS, ALPHA_STEP, BOSZ_RESOLUTION = np.array([[5500.0, 4.5, -0.3]]), 0.3, 2000.0
#: Nodes, vacuum Angstrom, of the windows in which the effect of [alpha/Fe] is scaled: Ca H and K, CH, Mg b, Ca II, ...
ALPHA_NODES = (3400.0, 3700.0, 3950.0, 4230.0, 4400.0, 4700.0, 5180.0, 5600.0, 6200.0, 7000.0, 8000.0, 8600.0, 9500.0)
FWHM_TO_SIGMA = 1 / np.sqrt(8 * np.log(2))


def air_to_vacuum(wavelength: np.ndarray) -> np.ndarray:
    """Convert air to vacuum wavelengths in Angstrom, inverting Morton (2000, ApJS 130, 403, equation 8)."""
    vacuum = wavelength.copy()
    for _ in range(3):
        s2 = (1e4 / vacuum) ** 2
        vacuum = wavelength * (1 + 8.34254e-5 + 2.406147e-2 / (130 - s2) + 1.5998e-4 / (38.9 - s2))
    return vacuum


def grid() -> np.ndarray:
    """Return the emulator's vacuum wavelengths in Angstrom (N_PIX,)."""
    return 10 ** (LOG10_START + DLOG10 * np.arange(N_PIX))


def normalise(log_flux: np.ndarray) -> np.ndarray:
    """Subtract the mean of ln flux over `NORMALISATION`; rows are spectra on `grid`."""
    window = (grid() >= NORMALISATION[0]) & (grid() <= NORMALISATION[1])
    return log_flux - log_flux[:, window].mean(axis=1, keepdims=True)


def broaden(flux: np.ndarray, fwhm: float) -> np.ndarray:
    """Degrade spectra of constant FWHM (Angstrom) to `RESOLUTION` on `grid`; where they are coarser they stay as they are.

    On the logarithmic grid the wanted width is constant and the missing width changes slowly with wavelength, so the result
    is interpolated, in variance, between copies smoothed with a few fixed Gaussians.
    """
    pixel = np.log(10) * DLOG10
    want, have = FWHM_TO_SIGMA / RESOLUTION / pixel, FWHM_TO_SIGMA * fwhm / grid() / pixel
    variance = np.clip(want**2 - have**2, 0, None)
    nodes = np.linspace(0, want**2, 6)
    filled = np.where(np.isfinite(flux), flux, 0)
    copies = [filled] + [gaussian_filter1d(filled, np.sqrt(v), axis=1) for v in nodes[1:]]
    weights = np.maximum(0, 1 - np.abs(variance - nodes[:, None]) / nodes[1])
    smooth = sum(w * c for w, c in zip(weights, copies, strict=True))
    return np.where(np.isfinite(flux), smooth, np.nan)


def read_labels(path: Path) -> np.ndarray:
    """Read Teff, logg and [Fe/H] (n, 3) of a CSV file, NaN where empty."""
    with path.open() as handle:
        return np.array([[float(row[c] or "nan") for c in ("teff", "logg", "feh")] for row in csv.DictReader(handle)])


def library(flux: np.ndarray, wavelength_air: np.ndarray, fwhm: float) -> np.ndarray:
    """Bring library spectra (n, m) in air onto `grid` as ln flux (n, N_PIX), NaN where they have nothing usable."""
    vacuum = air_to_vacuum(wavelength_air)
    flux = np.where(flux > 0.005, flux, np.nan).astype(float)  # fainter than this the libraries hold no information
    on_grid = np.array([np.interp(grid(), vacuum, f, left=np.nan, right=np.nan) for f in flux])
    with np.errstate(divide="ignore", invalid="ignore"):
        return normalise(np.log(broaden(on_grid, fwhm)))


def usable(labels: np.ndarray) -> np.ndarray:
    """Tell which labels lie in the range that is modelled (with a margin beyond the range of validity)."""
    teff, logg, feh = labels.T
    return (teff > 3000) & (teff < 15000) & (logg > -0.5) & (logg < 5.5) & (feh > -3.2) & (feh < 0.8)


def fit_atlas(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Fit ATLAS9: weights (K, N_PIX) of the normalised ln flux and (K,) of ln surface flux density at 5500 Angstrom."""
    with np.load(path) as z:
        cube, wave = z["flux"].astype(float), z["wave"]
        labels = np.stack(np.meshgrid(z["feh"], z["teff"], z["logg"], indexing="ij"), -1).reshape(-1, 3)[:, [1, 2, 0]]
    flux = cube.reshape(len(labels), -1)
    there = (flux > 0).all(axis=1)
    flux, labels = np.log(flux[there]), labels[there]
    zero = np.array([np.interp(5500.0, wave, f) for f in flux])
    phi = features(labels)
    on_grid = normalise(np.array([np.interp(np.log(grid()), np.log(wave), f) for f in flux]))
    ridge = 1e-5 * len(phi) * np.eye(phi.shape[1])
    solution = np.linalg.solve(phi.T @ phi + ridge, phi.T @ np.column_stack([on_grid, zero]))
    return solution[:, :-1], solution[:, -1]


def fit_detail(phi: np.ndarray, target: np.ndarray, weight: np.ndarray, ridge: float) -> np.ndarray:
    """Fit every pixel by weighted ridge regression (K, N_PIX); pixels that share their coverage are solved together."""
    out = np.zeros((phi.shape[1], target.shape[1]))
    weight = np.where(np.isfinite(target), weight, 0)
    target = np.nan_to_num(target)
    patterns, which = np.unique(np.round(weight, 3), axis=1, return_inverse=True)
    for k, pattern in enumerate(patterns.T):
        pixels = which.ravel() == k
        gram = phi.T @ (pattern[:, None] * phi) + ridge * np.eye(phi.shape[1])
        out[:, pixels] = np.linalg.solve(gram, phi.T @ (pattern[:, None] * target[:, pixels]))
    return out


def flatten_to_model(log_flux: np.ndarray, model: np.ndarray, order: int) -> np.ndarray:
    """Remove a polynomial in ln wavelength from ``log_flux - model``: what reddening and flux calibration left."""
    x = np.linspace(-1, 1, N_PIX)
    design = np.polynomial.legendre.legvander(x, order)
    out = log_flux.copy()
    for row, residual in zip(out, log_flux - model, strict=True):
        good = np.isfinite(residual)
        row -= design @ np.linalg.lstsq(design[good], residual[good], rcond=None)[0]
    return out


def library_stars(folder: Path, atlas: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Return labels (n, 3), ln flux (n, N_PIX), weights (n, N_PIX) and the number of MILES stars, which come first."""
    with np.load(folder / "miles.npz") as z:
        miles = library(
            z["flux"].astype(float), float(z["wave0"]) + float(z["dwave"]) * np.arange(z["flux"].shape[1]), MILES_FWHM
        )
    with np.load(folder / "stelib.npz") as z:
        wave = float(z["wave0"]) + np.arange(z["flux_norm"].shape[1])
        ends = np.flatnonzero((wave > TELLURIC[0]) & (wave < TELLURIC[1]))[[0, -1]]
        flux = z["flux_norm"].astype(float)
        flux[:, ends[0] : ends[1] + 1] = np.linspace(flux[:, ends[0]], flux[:, ends[1]], ends[1] - ends[0] + 1, axis=1)
        flux[:, wave > STELIB_END] = np.nan
        stelib = library(flux, wave, STELIB_FWHM)
    labels_m, labels_s = read_labels(folder / "miles_params.csv"), read_labels(folder / "stelib_params.csv")
    miles, labels_m = miles[usable(labels_m)], labels_m[usable(labels_m)]
    keep = usable(labels_s) & (np.isfinite(stelib).mean(axis=1) > 0.5)  # zero point missing: all NaN
    stelib, labels_s = stelib[keep], labels_s[keep]
    stelib = normalise(flatten_to_model(stelib, features(labels_s) @ atlas, order=3))
    red = np.clip((grid() - SEAM[0]) / (SEAM[1] - SEAM[0]), 0, 1)
    weights = np.concatenate([np.broadcast_to(1 - red, miles.shape), np.broadcast_to(0.02 + 0.98 * red, stelib.shape)])
    return np.concatenate([labels_m, labels_s]), np.concatenate([miles, stelib]), weights, len(miles)


def robust_fit(labels: np.ndarray, target: np.ndarray, weights: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Fit, drop the stars that the fit cannot describe (binaries, variables, wrong labels), fit again; weights, kept."""
    phi = features(labels)
    keep = np.ones(len(phi), bool)
    for _ in range(2):
        detail = fit_detail(phi[keep], target[keep], weights[keep], ridge)
        residual = np.where(weights > 0.1, target - phi @ detail, np.nan)
        rms = np.sqrt(np.nanmean(residual**2, axis=1))
        cool = np.clip((4500 - labels[:, 0]) / 1000, 0, 1)  # the coolest spectra vary most; do not drop them for that
        keep = rms < 3 * np.nanmedian(rms) * (1 + 2 * cool)
    return fit_detail(phi[keep], target[keep], weights[keep], ridge), keep


def fit_alpha(path: Path, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the effect of [alpha/Fe] by windows (w, N_PIX) and how it scales with the labels (K, w), see `Emulator`.

    The scale in a window is the model's response to [Fe/H], without its smooth part, projected on that of the computed star.
    """
    with np.load(path) as z:
        rows = [next(i for i, name in enumerate(z["name"]) if str(name).startswith(model)) for model in ALPHA_PAIR]
        plain, enhanced = (np.interp(grid(), z["wave"], z["surface_intensity"][row].astype(float)) for row in rows)
    sigma = np.sqrt(RESOLUTION**-2 - BOSZ_RESOLUTION**-2) * FWHM_TO_SIGMA / np.log(10) / DLOG10
    plain, enhanced = (gaussian_filter1d(flux, sigma) for flux in (plain, enhanced))
    effect = normalise(np.log(enhanced / plain)[None])[0] / ALPHA_STEP
    x = np.log(grid())
    windows = np.stack([np.interp(x, np.log(ALPHA_NODES), row) for row in np.eye(len(ALPHA_NODES))])
    lines = weights - gaussian_filter1d(weights, 100, axis=1)
    response = features(ALPHA_LABELS, slope=True)[0] @ lines
    scale = lines @ (windows * response).T / (windows @ response**2)
    return windows * effect, scale


def held_out(labels: np.ndarray, target: np.ndarray, weights: np.ndarray, n_miles: int, ridge: float) -> dict[str, float]:
    """Ten-fold test on MILES: rms of ln flux per pixel, 3800-7200 Angstrom, with and without the continuum."""
    fold = np.arange(len(labels)) * 7 % 10
    residual = np.full(target.shape, np.nan)
    for k in range(10):
        test = fold == k
        weights_k, _ = robust_fit(labels[~test], target[~test], weights[~test], ridge)
        residual[test] = target[test] - features(labels[test]) @ weights_k
    band = (grid() > 3800) & (grid() < 7200)
    residual = residual[:n_miles, band]
    lines = residual - gaussian_filter1d(np.nan_to_num(residual), 60, axis=1)
    core = (labels[:n_miles, 0] > 4300) & (labels[:n_miles, 0] < 9000)

    def rms(values: np.ndarray) -> np.ndarray:
        return np.sqrt(np.nanmean(values**2, axis=1))

    return {
        "rms_ln_flux_median": float(np.median(rms(residual))),
        "rms_lines_median": float(np.median(rms(lines))),
        "rms_lines_4300_9000K_median": float(np.median(rms(lines[core]))),
        "rms_lines_4300_9000K_p90": float(np.percentile(rms(lines[core]), 90)),
    }


def main(arguments: list[str] | None = None) -> None:
    """Fit everything and write the weights with their provenance."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("libraries", type=Path, help="folder of the libraries")
    parser.add_argument("out", type=Path, help="file to write, e.g. data/emulator.npz")
    parser.add_argument("--ridge", type=float, default=0.3)
    args = parser.parse_args(arguments)
    atlas, zero = fit_atlas(args.libraries / "ck04_atlas9.npz")
    labels, stars, weights, n_miles = library_stars(args.libraries, atlas)
    target = stars - features(labels) @ atlas
    test = held_out(labels, target, weights, n_miles, args.ridge)
    detail, keep = robust_fit(labels, target, weights, args.ridge)
    final = (atlas + detail).astype(np.float32)
    shape, scale = fit_alpha(args.libraries / "bosz_r2000_subset.npz", final)
    card = {
        "sources": SOURCES,
        "resolution": RESOLUTION,
        "ridge": args.ridge,
        "stars_used": int(keep.sum()),
        "stars_offered": len(keep),
        "held_out": test,
        "valid": {"teff_k": [3500, 12000], "logg": [0, 5], "feh": [-3.0, 0.5], "alpha": [-0.2, 0.6]},
        "alpha_computed_for": ALPHA_LABELS[0].tolist(),
    }
    Emulator(LOG10_START, final, zero, shape.astype(np.float32), scale, card).save(args.out)
    print(json.dumps(card["held_out"], indent=2))


if __name__ == "__main__":
    main()
