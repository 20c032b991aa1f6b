"""Make `data/lrs_instrument.npz`: what LAMOST adds to a star, learnt from real DR10 spectra with known labels.

Each real spectrum is compared with the emulator at its own labels and velocity. The smooth part of the ratio is the error of
the flux calibration together with reddening, whose mean and scatter (`draw_ebv`) are taken out; derivatives of the flux tell
resolution and wavelength scale; what remains, as function of the labels and in its scatter, is telluric absorption,
interstellar lines, the flat field and lines that the emulator does not know; the inverse variances, relative to the smoothed
flux, show throughput, arms and sky. Kept are means, covariances and a few principal components; no spectrum.

Run as ``python -m indexer.derive.lrs_instrument DR10 data/lrs_instrument.npz`` with the folder that holds `labels.csv` and
`packed_flux*.npz` (flux relative to the median as float16, relative errors as 8-bit logarithms, 255 for bad pixels).
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d, median_filter, uniform_filter1d

from indexer.simulate.emulator import Emulator
from indexer.simulate.instrument import (
    ARMS_MEET,
    LRS_WAVELENGTH,
    SPEED_OF_LIGHT_KMS,
    LrsStatistics,
    band,
    continuum_design,
    line_design,
    residual_features,
    shift_to_observer,
)
from indexer.simulate.light import extinction_law, lrs_pixels
from indexer.simulate.population import draw_ebv

N_ERROR, N_RESIDUAL = 10, 20
BAD = 255


@dataclass(frozen=True)
class RealSpectra:
    """Labelled spectra on the LRS pixels: `flux` over its median and `sigma` (n, p; NaN where bad), `labels` (n, 3).

    `velocity` in km/s, `log_median` (ln of the median counts) and `obsid` are ndarrays (n,).
    """

    flux: np.ndarray
    sigma: np.ndarray
    labels: np.ndarray
    velocity: np.ndarray
    log_median: np.ndarray
    obsid: np.ndarray

    def take(self, rows: np.ndarray) -> RealSpectra:
        """Return the given rows."""
        return RealSpectra(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def snr(self) -> np.ndarray:
        """Median S/N per pixel in g (n,)."""
        return np.nanmedian((self.flux / self.sigma)[:, band("g")], axis=1)


def read_packed(folder: Path) -> RealSpectra:
    """Read what `labels.csv` and `packed_flux*.npz` hold, without spectra that lack pixels, are very faint or very hot."""
    with (folder / "labels.csv").open() as handle:
        rows = {int(row["obsid"]): row for row in csv.DictReader(handle)}
    parts = []
    for name in ("packed_flux.npz", "packed_flux_more.npz"):
        with np.load(folder / name) as z:
            code, of_file = z["err_code"], [rows[int(i)] for i in z["obsid"]]
            bad = (code == BAD) | ~np.isfinite(z["flux_norm"])
            parts.append(
                (
                    np.where(bad, np.nan, z["flux_norm"]).astype(float),
                    np.where(bad, np.nan, 10 ** (8 * code.astype(float) / 250 - 5)),
                    np.array([[float(row[k]) for k in ("teff", "logg", "feh")] for row in of_file]),
                    np.array([float(row["z"]) for row in of_file]) * SPEED_OF_LIGHT_KMS,
                    np.log(z["flux_scale"]),
                    z["obsid"].astype(np.int64),
                )
            )
    real = RealSpectra(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    keep = (np.isfinite(real.sigma).mean(axis=1) > 0.95) & (real.snr > 8) & (real.snr < 1000) & (real.labels[:, 0] < 12000)
    return real.take(keep)


def fill(values: np.ndarray) -> np.ndarray:
    """Interpolate NaN linearly along the rows."""
    pixel = np.arange(values.shape[1])
    return np.array([np.interp(pixel, pixel[g], v[g]) for v, g in zip(values, np.isfinite(values), strict=True)])


def components(values: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean (p,), principal components (rank, p) and coefficients (n, rank) of the rows."""
    mean = values.mean(axis=0)
    left, scale, right = np.linalg.svd(values - mean, full_matrices=False)
    return mean, right[:rank], left[:, :rank] * scale[:rank]


def line_terms(model: np.ndarray) -> np.ndarray:
    """Return relative second and first differences of ln model flux (n, p), of each arm: (n, 4, p), see `LrsStatistics`."""
    flux = np.exp(model)
    red = LRS_WAVELENGTH > ARMS_MEET
    return np.stack([np.where(arm, part / flux, 0) for part in line_design(flux) for arm in (~red, red)], axis=1)


def without_dust(tilt: np.ndarray, emulator: Emulator) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (6,) and covariance (6, 6) of the tilts (n, 6) without those that dust like that of `draw_ebv` causes."""
    ebv = draw_ebv(100_000, np.random.default_rng(0))
    law = -0.4 * np.log(10) * extinction_law(emulator)[lrs_pixels(emulator)]
    dust = np.linalg.lstsq(continuum_design(), law, rcond=None)[0]
    values, vectors = np.linalg.eigh(np.cov(tilt, rowvar=False) - np.clip(ebv, 0, 0.5).var() * np.outer(dust, dust))
    floor = 0.1 * np.median(values[values > 0])
    return tilt.mean(axis=0) - ebv.mean() * dust, (vectors * np.clip(values, floor, None)) @ vectors.T


def measure(real: RealSpectra, emulator: Emulator) -> LrsStatistics:
    """Return what the real spectra show, compared with the emulator."""
    labels, snr, g = real.labels, real.snr, band("g")
    flux, sigma = fill(real.flux), fill(real.sigma)

    # Errors: ln of variance over smoothed flux, zero in the g band; coefficients follow ln S/N with a scatter.
    smooth = np.clip(uniform_filter1d(flux, 15, axis=1), 0.02, None)
    error = np.log(sigma**2 / smooth)
    error -= np.median(error[:, g], axis=1, keepdims=True)
    mean, basis, coefficients = components(error, N_ERROR)
    design = np.column_stack([np.ones(len(snr)), np.log(snr / 50), np.log(snr / 50) ** 2])
    trend = np.linalg.lstsq(design, coefficients, rcond=None)[0]
    scatter = np.cov(coefficients - design @ trend, rowvar=False)
    sky = np.exp(0.5 * mean) - np.exp(0.5 * median_filter(mean, 121))

    # Calibration: ratio to the emulator, split into a smooth part, changes of the lines' width and place, and what recurs.
    bright = (snr > 60) & (labels[:, 0] > 4300) & (labels[:, 0] < 9500)
    model = shift_to_observer(emulator, labels[bright], real.velocity[bright])
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.clip(np.nan_to_num(np.log(np.clip(flux[bright], 1e-3, None)) - model), -3, 3)
    continuum = continuum_design()
    tilt = np.linalg.lstsq(continuum, ratio.T, rcond=None)[0].T
    residual = ratio - tilt @ continuum.T
    quiet = residual[:, 50:-50].std(axis=1) < 0.08  # the rest has a lost stretch or a label that is far off
    residual, terms = np.clip(residual[quiet], -0.3, 0.3), line_terms(model[quiet])
    phi = residual_features(labels[bright][quiet])
    lines, clean = np.zeros((len(residual), 4)), residual
    for _ in range(2):  # trend and lines in turn: what all stars share must not count as their width
        residual_trend = np.linalg.lstsq(phi, clean, rcond=None)[0]
        free = residual - phi @ residual_trend
        gram = np.einsum("nkp,nlp->nkl", terms, terms) + 0.5 * np.eye(4)
        lines = np.linalg.solve(gram, np.einsum("nkp,np->nk", terms, free)[..., None])[..., 0]
        clean = residual - np.einsum("nk,nkp->np", lines, terms)
    rest = gaussian_filter1d(clean - phi @ residual_trend, 1.0, axis=1)
    values, vectors = np.linalg.eigh(rest @ rest.T / len(rest))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = np.median(values[N_RESIDUAL : len(values) // 2])  # of the photons, spread evenly over the components
    strength = np.sqrt(np.clip(values[:N_RESIDUAL] - noise, 0, None))
    shapes = vectors[:, :N_RESIDUAL].T @ rest / np.sqrt(values[:N_RESIDUAL] * len(rest))[:, None]
    tilt_mean, tilt_scatter = without_dust(tilt[quiet], emulator)

    card = {
        "source": "LAMOST DR10 v2.9.8 low-resolution spectra of A, F and G stars (Luo et al. 2015 RAA 15, 1095)",
        "spectra_errors": len(snr),
        "spectra_calibration": int(quiet.sum()),
        "ln_snr_mean_std": [float(np.log(snr).mean()), float(np.log(snr).std())],
        "residual_rms_mean_and_all": [float(residual_trend[0].std()), float(residual.std())],
        "residual_rms_scatter": float(np.sqrt((strength**2 * (shapes**2).mean(axis=1)).sum())),
        "lines_mean": np.round(lines.mean(axis=0), 3).tolist(),
        "lines_std": np.round(lines.std(axis=0), 3).tolist(),
        "tilt_std": np.round(tilt.std(axis=0), 4).tolist(),
    }
    brightness = np.polyfit(np.log(snr / 50), real.log_median, 1)
    return LrsStatistics(
        error_mean=mean.astype(np.float32),
        error_basis=basis.astype(np.float32),
        error_trend=trend,
        error_scatter=scatter,
        sky=np.clip(sky, 0, None).astype(np.float32),
        tilt_mean=tilt_mean,
        tilt_scatter=tilt_scatter,
        residual_trend=residual_trend.astype(np.float32),
        residual_basis=(strength[:, None] * shapes).astype(np.float32),
        line_mean=np.median(lines, axis=0),
        line_scatter=np.cov(np.clip(lines, *np.percentile(lines, [2, 98], axis=0)), rowvar=False),
        brightness=np.append(brightness, np.std(real.log_median - np.polyval(brightness, np.log(snr / 50)))),
        card=card,
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure the statistics and write them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dr10", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    statistics = measure(read_packed(args.dr10), Emulator.load())
    statistics.save(args.out)
    print(json.dumps(statistics.card, indent=2))


if __name__ == "__main__":
    main()
