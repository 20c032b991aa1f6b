"""Make `data/xp_instrument.npz`: what Gaia XP adds to a star, learnt from real spectra without labels.

Each bright real star is fitted by the emulator with dust (`indexer.simulate.light`) at the resolution of XP; what remains,
as a function of colour and in its scatter, is the systematic deviation of the two. The coefficients' means and covariances,
errors and correlations are measured directly. Kept are means, covariances and a few principal components; no spectrum.

Run as ``python -m indexer.derive.xp_instrument DATA data/xp_instrument.npz`` with the folder that holds
`gaia_xp_field2000/xp_continuous.fits`, `gaia_xp_vosa2815/xp_coefficients.npz` (hot stars), `gaia_xp_instrument/` (dispersion
and response of Weiler et al. 2023, A&A 671, A52) and, for the correlations, an archive file with full rows,
`gaia_xp_formats/ten_sources_xp_continuous.csv.gz`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy.ndimage import gaussian_filter1d

from indexer.simulate.emulator import Emulator
from indexer.simulate.light import starlight
from indexer.simulate.population import draw_stars
from indexer.simulate.xp_instrument import (
    UNIT,
    XpStatistics,
    binned,
    colour,
    g_magnitude,
    merged_basis,
    noise_roots,
    smoothing,
)
from specdb.spectra.xp_sampling import N_BASES, load_xp_sampling

ARMS = (("bp", "bpC03_v375wi"), ("rp", "rpC03_v142r"))
RESOLUTION_SAMPLES = (0.6, 0.8, 1.0, 1.3)  # candidates for the FWHM in samples of the spectrograph
BRIGHT, VERY_BRIGHT = 16.3, 14.5  # G of the stars that teach mean deviations, and their scatter and the coefficients' one
EXCLUDED = (349511554371328, 120435178731136, 319343704120704)  # stars of the real pairs, kept for the test
N_SYSTEMATIC, N_ERROR = 10, 6
MODEL_ERROR, WHITE_ERROR, LINE_PRIOR = 0.03, 0.002, 0.01  # relative


def read_field(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return source_id (n,), coefficients and errors (n, 110) of the stars in the field, without `EXCLUDED`."""
    table = fits.getdata(path, 1)
    names = [f"{arm}_coeff_{i}" for arm, _ in ARMS for i in range(N_BASES)]
    values = [np.stack([np.asarray(table[p + name], float) for name in names], axis=1) for p in ("", "e_")]
    ids = np.asarray(table["source_id"], np.int64)
    keep = ~np.isin(ids, EXCLUDED) & np.isfinite(values[0]).all(axis=1) & np.isfinite(values[1]).all(axis=1)
    return ids[keep], values[0][keep], values[1][keep]


def read_correlations(path: Path) -> np.ndarray:
    """Return the mean correlations (2, 1485) of archive sources."""
    csv.field_size_limit(1 << 20)
    with gzip.open(path, "rt") as handle:
        rows = list(csv.DictReader(line for line in handle if not line.startswith("#")))
    both = []
    for arm, _ in ARMS:
        texts = [row[f"{arm}_coefficient_correlations"].strip("()[] ") for row in rows]
        both.append(np.mean([np.array(text.split(","), float) for text in texts if text], axis=0))
    return np.stack(both)


def read_instrument(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the width of a sample of the spectrograph in nm (343,) and the response in G (343,), sum 1."""
    sampling = load_xp_sampling()
    step, band = [], []
    for _, name in ARMS:
        dispersion = np.loadtxt(folder / f"{name}_dispersion.csv", delimiter=",")
        step.append(1 / np.abs(np.interp(sampling.wavelength_nm, dispersion[0], np.gradient(dispersion[1], dispersion[0]))))
        response = np.loadtxt(folder / f"{name}_response.csv", delimiter=",")
        band.append(np.interp(sampling.wavelength_nm, response[0], response[1]))
    total = band[0] + band[1]
    return sampling.bp_weight * step[0] + (1 - sampling.bp_weight) * step[1], total / total.sum()


def model(emulator: Emulator, matrix: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Return ln of the samples (n, 343), mean 0, for ln Teff, logg, [Fe/H] and ln E(B-V) (n, 4)."""
    labels = np.column_stack([np.exp(parameters[:, 0]), parameters[:, 1:3]])
    flux = binned(np.exp(starlight(emulator, labels, np.zeros(len(labels)), np.exp(parameters[:, 3])))) @ matrix
    log_flux = np.log(np.maximum(flux, 1e-6))
    return log_flux - log_flux.mean(axis=1, keepdims=True)


def fit_stars(target: np.ndarray, emulator: Emulator, matrix: np.ndarray, rounds: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Fit ln samples (n, 343) by the emulator; parameters (n, 4) and residuals (n, 343).

    The start is the nearest of drawn stars; then Gauss-Newton with a prior around it in logg, [Fe/H] and E(B-V), which XP
    alone hardly tells from temperature.
    """
    rng = np.random.default_rng(0)
    stars = draw_stars(4000, rng).labels
    start = np.column_stack([np.log(stars[:, 0]), stars[:, 1:], np.log(0.07) + 0.6 * rng.standard_normal(len(stars))])
    library = np.concatenate([model(emulator, matrix, part) for part in np.array_split(start, 8)])
    weight = 1 / np.where(load_xp_sampling().wavelength_nm < 400, 3 * MODEL_ERROR, MODEL_ERROR)
    weight /= 5  # neighbouring samples of XP share their errors
    distance = (
        ((target * weight) ** 2).sum(1)[:, None] - 2 * (target * weight**2) @ library.T + ((library * weight) ** 2).sum(1)
    )
    parameters = start[distance.argmin(axis=1)]
    prior, prior_sigma = parameters.copy(), np.array([0.2, 0.3, 0.3, 0.6])
    prior[:, 2], prior[:, 3] = 0.5 * prior[:, 2] - 0.15, 0.5 * prior[:, 3] + 0.5 * np.log(0.07)
    steps = np.array([0.01, 0.1, 0.1, 0.1])
    for _ in range(rounds):
        here = model(emulator, matrix, parameters)
        slopes = np.stack(
            [(model(emulator, matrix, parameters + s * e) - here) / s for s, e in zip(steps, np.eye(4), strict=True)], axis=2
        )
        left = np.einsum("npk,npl,p->nkl", slopes, slopes, weight**2) + np.diag(prior_sigma**-2.0)
        right = np.einsum("npk,np,p->nk", slopes, target - here, weight**2) + (prior - parameters) / prior_sigma**2
        parameters = parameters + np.clip(np.linalg.solve(left, right[..., None])[..., 0], -0.3, 0.3)
        low, high = [np.log(3550), 0.3, -2.5, np.log(0.002)], [np.log(12000), 5.0, 0.5, np.log(1.5)]
        parameters = np.clip(parameters, low, high)
    return parameters, target - model(emulator, matrix, parameters)


def components(covariance: np.ndarray, rank: int) -> np.ndarray:
    """Return the principal components (rank, p) of a covariance (p, p), each scaled to one standard deviation."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors[:, ::-1][:, :rank] * np.sqrt(np.clip(values[::-1][:rank], 0, None))).T


def noise_covariance(errors: np.ndarray, correlations: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Return the mean covariance (p, p) that errors (n, 110) cause in ``coefficients[i] @ design[i]``, (n, 110, p)."""
    roots = noise_roots(correlations)
    total = np.zeros((design.shape[2], design.shape[2]))
    for sigma, matrix in zip(errors, design, strict=True):
        scaled = (sigma[:, None] * matrix).reshape(2, N_BASES, -1)
        white = np.concatenate([root.T @ part for root, part in zip(roots, scaled, strict=True)])
        total += white.T @ white
    return total / len(errors)


def bumps(fwhm_nm: np.ndarray) -> np.ndarray:
    """Return lines (343, 343) of the width of XP, one at each sample: unusual stars have them, the real ones here not."""
    nm = load_xp_sampling().wavelength_nm
    return np.exp(-0.5 * ((nm - nm[:, None]) / (fwhm_nm[:, None] * 0.425)) ** 2)


def colour_trend(powers: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the cubic in colour (4, p) that fits the values (n, p), slightly damped."""
    return np.linalg.solve(powers.T @ powers + np.diag([0.0, 0.0, 1.0, 1.0]), powers.T @ values)


def systematics(
    flux: np.ndarray, residual: np.ndarray, steady: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return colour range, cubic in colour (4, 343), its residuals (m, 343) of ln real over model, and which stars (m,).

    The residuals are those of the stars `steady` (n,), bool, whose noise is small, without outliers.
    """
    colours = colour(flux)
    limits = np.percentile(colours, [1, 99])
    x = np.clip(2 * (colours - limits[0]) / (limits[1] - limits[0]) - 1, -1, 1)
    powers = np.vander(x, 4, increasing=True)
    clipped = np.clip(residual, -0.3, 0.3)
    trend = colour_trend(powers, clipped)
    rest = clipped - powers @ trend
    rms = np.sqrt((rest**2).mean(axis=1))
    kept = np.flatnonzero(steady & (rms < 3 * np.median(rms[steady])))
    return limits, trend, rest[kept], kept


def main(arguments: list[str] | None = None) -> None:
    """Measure the statistics and write them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    emulator, basis = Emulator.load(), merged_basis()
    step, band = read_instrument(args.data / "gaia_xp_instrument")
    correlations = read_correlations(args.data / "gaia_xp_formats" / "ten_sources_xp_continuous.csv.gz")
    _, coefficients, errors = read_field(args.data / "gaia_xp_field2000" / "xp_continuous.fits")
    with np.load(args.data / "gaia_xp_vosa2815" / "xp_coefficients.npz") as z:
        hot = z["coefficients"][z["y_binary"] == 0].astype(float)
    magnitude = g_magnitude(coefficients @ basis, band)
    hot = hot[g_magnitude(hot @ basis, band) < VERY_BRIGHT][::4]

    # Systematic deviations from the model, at the resolution that leaves the least of them.
    flux = coefficients @ basis
    good = (magnitude < BRIGHT) & (flux > 0).all(axis=1) & (colour(flux) > -1.6)
    flux, steady = flux[good], magnitude[good] < VERY_BRIGHT
    target = np.log(flux)
    target -= target.mean(axis=1, keepdims=True)
    trials = {}
    for width in RESOLUTION_SAMPLES:
        _, residual = fit_stars(target[steady], emulator, smoothing(emulator, width * step), rounds=2)
        rest = systematics(flux[steady], residual, steady[steady])[2]
        trials[width] = float((rest - gaussian_filter1d(rest, 12, axis=1)).std())  # lines, not the energy distribution
    best = min(trials, key=trials.__getitem__)
    parameters, residual = fit_stars(target, emulator, smoothing(emulator, best * step))
    rms, teff = np.sqrt((residual**2).mean(axis=1)), np.exp(parameters[:, 0])
    quiet = (rms < 0.15) & (teff > 3700) & (teff < 11500)  # the rest are no stars of the emulator's range
    limits, trend, rest, kept = systematics(flux[quiet], residual[quiet], steady[quiet])
    kept = np.flatnonzero(good)[quiet][kept]
    log_design = basis / (coefficients[kept] @ basis)[:, None, :]
    excess = rest.T @ rest / len(rest) - noise_covariance(errors[kept], correlations, log_design)
    scatter = components(excess, N_SYSTEMATIC)

    # How coefficients follow from samples: regression with the covariance of real stars as prior.
    bright = magnitude < VERY_BRIGHT
    learn = np.concatenate([coefficients[bright], hot])
    scaled = learn / (learn @ basis).mean(axis=1, keepdims=True) / UNIT
    mean = scaled.mean(axis=0)
    spread = np.clip(scaled, *np.percentile(scaled, [0.5, 99.5], axis=0)) - mean
    relative = errors[bright] / (coefficients[bright] @ basis).mean(axis=1, keepdims=True) / UNIT
    noise = noise_covariance(relative, correlations, np.broadcast_to(np.eye(2 * N_BASES), (len(relative), 110, 110)))
    likely = components(spread.T @ spread / len(spread) - noise, 2 * N_BASES)
    samples = basis * UNIT
    level = np.diag((mean @ samples * WHITE_ERROR) ** 2)
    lines = bumps(best * step) @ np.linalg.solve(samples.T @ samples + level, samples.T) * LINE_PRIOR
    covariance = likely.T @ likely + lines.T @ lines
    gain = np.linalg.solve(samples.T @ covariance @ samples + level, samples.T @ covariance)

    # Errors against brightness and colour; noise in the last coefficients, where stars have no signal.
    faint = (magnitude > 9) & (magnitude < 18.5)
    g = (magnitude[faint] - 15) / 3
    design = np.stack([np.ones(faint.sum()), g, g**2, np.clip(colour(coefficients[faint] @ basis), -2.5, 2)], axis=1)
    log_error = np.log(errors[faint])
    error_trend = np.linalg.lstsq(design, log_error, rcond=None)[0]
    error_rest = log_error - design @ error_trend
    typical = np.sqrt((error_rest**2).mean(axis=1))
    error_rest = error_rest[typical < 4 * np.median(typical)]
    error_basis = components(np.cov(error_rest, rowvar=False), N_ERROR)
    pull = (coefficients / errors)[magnitude > 16.5]
    widths = (np.percentile(pull, 84, axis=0) - np.percentile(pull, 16, axis=0)) / 2
    last = np.r_[35:N_BASES], N_BASES + np.r_[35:N_BASES]
    noise_factor = np.repeat([np.median(widths[part]) for part in last], N_BASES)

    card = {
        "sources": [
            "Gaia DR3 XP spectra (De Angeli et al. 2023 A&A 674, A2; Montegriffo et al. 2023 A&A 674, A3)",
            "XP dispersion and response: Weiler et al. 2023 A&A 671, A52",
        ],
        "stars_systematic": int(quiet.sum()),
        "stars_errors": int(faint.sum()),
        "fwhm_in_samples": best,
        "fwhm_trials_rms": trials,
        "residual_rms_all_and_scatter": [float(residual[quiet].std()), float(np.sqrt((scatter**2).sum(0).mean()))],
        "teff_percentiles": np.exp(np.percentile(parameters[quiet, 0], [1, 50, 99])).round().tolist(),
        "ebv_median": float(np.exp(np.median(parameters[quiet, 3]))),
        "noise_factor": np.unique(noise_factor.round(3)).tolist(),
    }
    statistics = XpStatistics(
        fwhm_nm=best * step,
        colour_range=limits,
        systematic=trend,
        systematic_basis=scatter,
        mean=mean,
        gain=gain,
        offset=np.zeros((4, 2 * N_BASES)),
        error_trend=error_trend,
        error_basis=error_basis,
        correlations=correlations,
        band=band,
        noise_factor=noise_factor,
        card=card,
    )
    # Close the loop: what the fitted stars, sent through all of this, still lack on average.
    found = np.exp(model(emulator, smoothing(emulator, best * step), parameters[quiet]))
    real = coefficients[good][quiet] / flux[quiet].mean(axis=1, keepdims=True) / UNIT
    lack = real - statistics.coefficients(found, np.zeros((len(found), N_SYSTEMATIC)))
    lack = np.clip(lack, *np.percentile(lack, [2, 98], axis=0))
    replace(statistics, offset=colour_trend(statistics.colour_powers(found), lack)).save(args.out)
    print(json.dumps(card, indent=2))


if __name__ == "__main__":
    main()
