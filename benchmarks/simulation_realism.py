"""How real the simulated spectra are: classifiers told to separate them from real prepared ones, and what gives them away.

    python benchmarks/simulation_realism.py DATA [--figures docs/figures] [--skip lamost_lrs|gaia_xp]

DATA holds `lamost_dr10_afg` and `gaia_xp_field2000`. Every real spectrum gets a simulated twin: LAMOST at the star's
published labels, velocity and S/N, with an instrument measured on the other half of the stars; XP at the parameters that
fit it, and its G. Classifiers are trained on four fifths of the stars (a star and its twin stay together) and judged on the
last; 0.5 is chance. kNN transfer asks what matters more: are labels found for real stars from simulated ones as well as
from real ones?
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import machine, write_results
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from indexer.derive.lrs_instrument import RealSpectra, measure, read_packed
from indexer.derive.xp_instrument import fit_stars, model, read_field
from indexer.simulate.emulator import Emulator
from indexer.simulate.instrument import LRS_COEFF0, LRS_WAVELENGTH, LrsStatistics, observe_lrs
from indexer.simulate.light import lrs_pixels, starlight
from indexer.simulate.population import draw_ebv
from indexer.simulate.xp_instrument import XpStatistics, colour, g_magnitude, merged_basis, observe_xp, smoothing
from specdb.spectra import Spectra, get_modality
from specdb.spectra.xp_sampling import load_xp_sampling

CLASSIFIERS: dict[str, Callable] = {
    "logistic": lambda: LogisticRegression(C=0.1, max_iter=300),
    "forest": lambda: RandomForestClassifier(100, min_samples_leaf=3, random_state=0),
    "MLP": lambda: MLPClassifier((64,), alpha=1e-2, early_stopping=True, max_iter=30, tol=1e-3, random_state=0),
}


@dataclass(frozen=True)
class Twins:
    """Real and simulated prepared spectra of the same stars, row by row."""

    real: np.ndarray  # (n, p)
    simulated: np.ndarray  # (n, p)
    star: np.ndarray  # (n,)
    wavelength_nm: np.ndarray  # (p,)
    parameters: dict[str, np.ndarray]  # (n,) each

    def stacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return spectra (2n, p), 1 where simulated (2n,), stars (2n,)."""
        n = len(self.star)
        return np.concatenate([self.real, self.simulated]), np.repeat([0, 1], n), np.tile(self.star, 2)


def same_star(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Number the stars (n,) of positions in degrees: what lies within 3 arcsec is one."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    ra, dec = np.radians(ra), np.radians(dec)
    points = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
    one, two = cKDTree(points).query_pairs(np.radians(3 / 3600), output_type="ndarray").reshape(-1, 2).T
    return connected_components(coo_array((np.ones(len(one)), (one, two)), shape=(len(ra),) * 2), directed=False)[1]


def positions(folder: Path, obsid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import csv

    with (folder / "labels.csv").open() as handle:
        found = {int(row["obsid"]): (float(row["ra"]), float(row["dec"])) for row in csv.DictReader(handle)}
    ra, dec = np.array([found[int(i)] for i in obsid]).T
    return ra, dec


def simplified(statistics: LrsStatistics, what: str) -> LrsStatistics:
    """Return the statistics without a part of what they describe."""
    parts = {
        "no scatter in resolution and wavelength": {"line_mean": np.zeros(4), "line_scatter": 1e-8 * np.eye(4)},
        "no dependence of residuals on labels": {
            "residual_trend": statistics.residual_trend * (np.arange(6) == 0)[:, None],
        },
        "6 components of residuals, not 20": {"residual_basis": statistics.residual_basis[:6]},
    }
    chosen = {k: v for name, part in parts.items() if what in (name, "none of these") for k, v in part.items()}
    return replace(statistics, **chosen)


def lrs_twins(real: RealSpectra, star: np.ndarray, statistics: list[LrsStatistics], half: np.ndarray) -> Twins:
    """Return prepared spectra with twins; `statistics` are those for each `half` of the stars."""
    emulator, rng = Emulator.load(), np.random.default_rng(1)
    shape = real.flux.shape
    flux, ivar, masks = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty((2, *shape), np.int32)
    for which in (0, 1):
        for i in np.array_split(np.flatnonzero(half == which), 6):
            light = starlight(emulator, real.labels[i], real.velocity[i], draw_ebv(len(i), rng))[:, lrs_pixels(emulator)]
            seen = observe_lrs(light, real.snr[i], rng, statistics[which], labels=real.labels[i])
            flux[i], ivar[i], masks[0, i], masks[1, i] = seen.flux, seen.ivar, seen.and_mask, seen.or_mask
    observed = Spectra(
        LRS_WAVELENGTH, np.nan_to_num(real.flux).astype(np.float32), np.nan_to_num(1 / real.sigma**2).astype(np.float32)
    )
    preparation = get_modality("lamost_lrs").preparation
    one = preparation([observed])
    two = preparation([Spectra(LRS_WAVELENGTH, flux, ivar, *masks, log10_grid=(LRS_COEFF0, 1e-4))])
    both = np.intersect1d(one.rows, two.rows)
    names = ("teff", "logg", "feh")
    return Twins(
        one.flux[np.searchsorted(one.rows, both)],
        two.flux[np.searchsorted(two.rows, both)],
        star[both],
        get_modality("lamost_lrs").wavelength / 10,
        dict(zip(names, real.labels[both].T, strict=True)) | {"snr": real.snr[both]},
    )


def xp_twins(data: Path) -> Twins:
    """Return prepared field stars and their twins."""
    emulator, statistics, sampling = Emulator.load(), XpStatistics.load(), load_xp_sampling()
    ids, coefficients, errors = read_field(data / "gaia_xp_field2000" / "xp_continuous.fits")
    flux = coefficients @ merged_basis()
    magnitude = g_magnitude(flux, statistics.band)
    good = (magnitude < 16.3) & (magnitude > 9) & (flux > 0).all(axis=1) & (colour(flux) > -1.6)
    ids, flux, errors, magnitude = ids[good], flux[good], errors[good], magnitude[good]
    target = np.log(flux)
    target -= target.mean(axis=1, keepdims=True)
    matrix = smoothing(emulator, statistics.fwhm_nm)
    parameters, _ = fit_stars(target, emulator, matrix)
    observation = observe_xp(np.exp(model(emulator, matrix, parameters)), magnitude, np.random.default_rng(1), statistics)
    simulated, _ = observation.sampled()
    preparation = get_modality("gaia_xp").preparation
    nm = sampling.wavelength_nm
    one, two = (preparation([Spectra(nm * 10, values, np.full(values.shape, 1e34))]) for values in (flux, simulated))
    both = np.intersect1d(one.rows, two.rows)
    named = {
        "teff": np.exp(parameters[both, 0]),
        "logg": parameters[both, 1],
        "feh": parameters[both, 2],
        "G": magnitude[both],
    }
    return Twins(one.flux[np.searchsorted(one.rows, both)], two.flux[np.searchsorted(two.rows, both)], both, nm, named)


def told_apart(x: np.ndarray, y: np.ndarray, star: np.ndarray, make: Callable) -> np.ndarray:
    """Return which spectra (2n,), bool, are recognised for what they are by a classifier that never saw the star."""
    guess = cross_val_predict(make_pipeline(StandardScaler(), make()), x, y, groups=star, cv=GroupKFold(5))
    return guess == y


def with_error(right: np.ndarray) -> str:
    """Write a share with its standard error; a star's two spectra count as one draw."""
    of_star = right.reshape(2, -1).mean(axis=0)
    return f"{right.mean():.3f} ± {of_star.std() / np.sqrt(len(of_star)):.3f}"


def knn_transfer(twins: Twins, simulated: bool) -> dict[str, float]:
    """Return robust scatters of kNN(10) labels of a quarter of the real stars, from the others or from their twins."""
    fold = np.random.default_rng(0).permutation(twins.star.max() + 1)[twins.star] % 4
    test, train = fold == 0, fold > 0
    known = (twins.simulated if simulated else twins.real)[train]
    pca = PCA(50, random_state=0).fit(known)
    near = NearestNeighbors(n_neighbors=10).fit(pca.transform(known))
    rows = near.kneighbors(pca.transform(twins.real[test]), return_distance=False)
    found = {}
    for name in ("teff", "logg", "feh"):
        error = twins.parameters[name][train][rows].mean(axis=1) - twins.parameters[name][test]
        found[name] = float(1.4826 * np.median(np.abs(error - np.median(error))))
    return found


def row(name: str, twins: Twins, kinds: tuple[str, ...] = tuple(CLASSIFIERS)) -> tuple[dict[str, object], np.ndarray]:
    """Return the table's row of one simulation, and what the forest recognised in principal components (2n,)."""
    x, y, star = twins.stacked()
    inputs = {"50 PCs": PCA(50, random_state=0).fit_transform(x)}
    if len(kinds) == len(CLASSIFIERS):
        inputs["pixels"] = x
    right = {(kind, what): told_apart(z, y, star, CLASSIFIERS[kind]) for what, z in inputs.items() for kind in kinds}
    result: dict[str, object] = {"simulation": name}
    result |= {f"{kind}, {what}": with_error(values) for (kind, what), values in right.items()}
    if name.startswith("lamost"):
        text = "{teff:.0f} / {logg:.3f} / {feh:.3f}"
        result["kNN from simulated: Teff / logg / [Fe/H]"] = text.format(**knn_transfer(twins, True))
        result["from real"] = text.format(**knn_transfer(twins, False))
    print(result, flush=True)
    return result, right["forest", "50 PCs"]


def giveaways(name: str, twins: Twins, forest: np.ndarray, windows: int = 8) -> list[dict[str, object]]:
    """Return accuracies by wavelength window (logistic regression on it alone) and by parameter range (the forest)."""
    x, y, star = twins.stacked()
    rows: list[dict[str, object]] = []
    for pixels in np.array_split(np.arange(x.shape[1]), windows):
        part = PCA(min(20, len(pixels)), random_state=0).fit_transform(x[:, pixels])
        where = f"{twins.wavelength_nm[pixels[0]]:.0f}-{twins.wavelength_nm[pixels[-1]]:.0f} nm alone"
        alone = with_error(told_apart(part, y, star, CLASSIFIERS["logistic"]))
        rows.append({"modality": name, "of": where, "spectra": len(x), "logistic": alone})
    for parameter, values in twins.parameters.items():
        for low, high in pairwise(np.percentile(values, [0, 33, 67, 100])):
            chosen = np.tile((values >= low) & (values <= high), 2)
            about = {"modality": name, "of": f"{parameter} {low:.4g} to {high:.4g}", "spectra": int(chosen.sum())}
            rows.append(about | {"forest": with_error(forest[chosen])})
    return rows


def figure(path: Path, title: str, twins: Twins) -> None:
    """Draw four stars with their twins, and below what all have in common."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image

    teff, feh, logg = (twins.parameters[k] for k in ("teff", "feh", "logg"))
    quality = twins.parameters.get("snr", -twins.parameters.get("G", teff))
    good = quality > np.median(quality)
    wanted = [
        ("hot", teff),
        ("like the Sun", -np.abs(teff - 5772) - 500 * np.abs(feh)),
        ("giant", -logg),
        ("metal-poor", -feh),
    ]
    difference = twins.real - twins.simulated
    fig, axes = plt.subplots(3, 1, figsize=(9, 8), height_ratios=[4, 1, 1], sharex=True, layout="constrained")
    step = 0.0
    for label, score in wanted:
        order = np.argsort(np.where(good, score, -np.inf))[::-1]
        i = order[10]  # not the most extreme star
        spread = np.percentile(twins.real[i], 99) - np.percentile(twins.real[i], 1)
        axes[0].plot(twins.wavelength_nm, twins.real[i] + step, color="black", lw=0.7)
        axes[0].plot(twins.wavelength_nm, twins.simulated[i] + step, color="#d55e00", lw=0.7, alpha=0.8)
        text = f"{label}: {teff[i]:.0f} K, {logg[i]:.1f}, {feh[i]:+.1f}"
        axes[0].annotate(
            text, (twins.wavelength_nm[-1], step + np.percentile(twins.real[i], 99)), ha="right", va="bottom", fontsize=8
        )
        step += 1.15 * spread
    axes[0].set(title=f"{title}: real (black) and simulated (orange)", ylabel="prepared flux + constant", yticks=[])
    axes[1].plot(twins.wavelength_nm, difference.mean(axis=0), color="#0072b2", lw=0.8)
    axes[1].set_ylabel("mean of real\n- simulated", fontsize=8)
    axes[2].plot(twins.wavelength_nm, twins.real.std(axis=0), color="black", lw=0.7, label="real")
    axes[2].plot(twins.wavelength_nm, twins.simulated.std(axis=0), color="#d55e00", lw=0.7, label="simulated")
    axes[2].set_ylabel("scatter of\nall stars", fontsize=8)
    axes[2].set_xlabel("wavelength (nm, vacuum)")
    axes[2].legend(fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=80)
    plt.close(fig)
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(48)  # a third of the size, and nothing to see of it
    small.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--figures", type=Path, help="folder to draw side-by-side figures into")
    parser.add_argument("--skip", action="append", default=[], choices=["lamost_lrs", "gaia_xp"])
    parser.add_argument("--ablations", action="store_true", help="LAMOST without parts of its statistics, too")
    given = parser.parse_args()
    rows, details = [], []
    if "lamost_lrs" not in given.skip:
        folder = given.data / "lamost_dr10_afg"
        real = read_packed(folder)
        star = same_star(*positions(folder, real.obsid))
        half = np.random.default_rng(0).permutation(star.max() + 1)[star] % 2
        statistics = [measure(real.take(half != which), Emulator.load()) for which in (0, 1)]
        twins = lrs_twins(real, star, statistics, half)
        if given.figures:
            figure(given.figures / "simulated_lamost.png", "LAMOST LRS", twins)
        found, forest = row("lamost_lrs", twins)
        rows.append(found)
        details += giveaways("lamost_lrs", twins, forest)
        names = ("no scatter in resolution and wavelength", "no dependence of residuals on labels")
        for what in (*names, "6 components of residuals, not 20", "none of these") if given.ablations else ():
            less = lrs_twins(real, star, [simplified(s, what) for s in statistics], half)
            rows.append(row(f"lamost_lrs, {what}", less, ("logistic", "forest"))[0])
    if "gaia_xp" not in given.skip:
        twins = xp_twins(given.data)
        if given.figures:
            figure(given.figures / "simulated_gaia_xp.png", "Gaia XP", twins)
        found, forest = row("gaia_xp", twins)
        rows.append(found)
        details += giveaways("gaia_xp", twins, forest)
    write_results("simulation_realism", __doc__, rows, machine())
    write_results("simulation_giveaways", "What gives simulated spectra away", details, machine())


if __name__ == "__main__":
    main()
