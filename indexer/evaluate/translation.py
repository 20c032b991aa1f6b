"""Translation: how far are predicted spectra from observed ones, and do their error bars tell?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from indexer.evaluate.baselines import LinearMap
from indexer.evaluate.measures import unit_rows
from indexer.evaluate.section import Context, Section, Skip, markdown_table
from indexer.train.translation import coverage
from specdb.encoders.clip import ClipModel
from specdb.plots.evaluation import coverage_figure, deviation_figure, prediction_figure
from specdb.search.translation import Observed, Translation, by_decoder, by_neighbours
from specdb.spectra import get_modality

__all__ = ["relative_error", "translation"]

_TEFF_EDGES = (0, 4500, 5500, 6500, 8000, np.inf)
_TEFF_NAMES = ("< 4500 K", "4500-5500 K", "5500-6500 K", "6500-8000 K", "> 8000 K")
_BRIGHT_G, _BRIGHT_SNR = 12.0, 100.0
_FEW = 10
_PERCENTILES = np.linspace(0.02, 0.98, 25)


def relative_error(predicted: np.ndarray, observed: np.ndarray, ivar: np.ndarray) -> np.ndarray:
    """Return |predicted - observed| / |observed| (m, n_grid); NaN where nothing was observed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ivar > 0, np.abs(predicted - observed) / np.abs(observed), np.nan)


def translation(context: Context) -> Section:
    """Compare predicted with observed spectra, by the decoder, neighbours and a linear map."""
    model = context.encoder.model
    if not isinstance(model, ClipModel) or not model.config.predicts:
        raise Skip(f"{context.encoder.name} has no cross-modal decoders")
    simulated = {to: _simulated(context, source, to) for source, to in _directions(context)}
    table: list[dict[str, str]] = []
    metrics: dict[str, Any] = {"simulated": {}}
    for to, found in simulated.items():
        metrics["simulated"][to] = found["metrics"]
        table += found["table"]
    text = [
        f"Median over samples and spectra of |predicted - observed| / |observed|, for {len(context.pairs)} simulated pairs "
        "that neither the encoder nor the baselines have seen. The nearest neighbour, and the "
        f"{context.settings.neighbours} nearest, are those by shared embedding among "
        f"{len(context.reference)} other simulated spectra; the linear map is ridge "
        "regression on pixels fitted to the same. *Standards* are the bright ones among the pairs, as CALSPEC's are: "
        f"G < {_BRIGHT_G:g} and S/N > {_BRIGHT_SNR:g}, hot to cool.",
        _coverage_text(context, simulated),
    ]
    to_xp = simulated["gaia_xp"]
    figures = {
        "translation_error": deviation_figure(
            get_modality("gaia_xp").wavelength, to_xp["by_wavelength"], "median relative error", "LAMOST to XP, simulated"
        ),
        "translation_coverage": coverage_figure(
            _PERCENTILES, {f"to {to}": found["held"] for to, found in simulated.items() if found["held"] is not None}
        ),
    }
    real = _real(context)
    if real:
        metrics["real"] = real["metrics"]
        figures["translation_real"] = real["figure"]
        text += [
            f"Real pairs ({real['metrics']['spectra']} LAMOST spectra of {real['metrics']['stars']} stars, XP observed; "
            "neighbours among the other XP sources):",
            markdown_table(real["table"]),
            real["text"],
        ]
    return Section("translation", "Predicting the other survey's spectrum", table, text, metrics, figures)


def _directions(context: Context) -> list[tuple[str, str]]:
    names = context.encoder.modalities
    return [(a, b) for a in names for b in names if a != b]


def _observed(modality: str, flux: np.ndarray, snr: np.ndarray) -> Observed:
    n = len(flux)
    return Observed(modality, flux, snr, [""] * n, np.full(n, -1), [{} for _ in range(n)])


def _predict(
    context: Context,
    observed: Observed,
    to: str,
    shared: np.ndarray,
    bank: np.ndarray,
    bank_shared: np.ndarray,
    excluded: np.ndarray | None = None,
) -> dict[str, Translation]:
    """Return predictions by the decoder, the nearest neighbour and several neighbours.

    `excluded` (m,) names a row of the bank that is the star itself.
    """
    k = context.settings.neighbours
    unit = unit_rows(bank_shared)
    order, cosine = [], []
    for start in range(0, len(shared), 1024):
        similarity = unit_rows(shared[start : start + 1024]) @ unit.T
        if excluded is not None:
            similarity[np.arange(len(similarity)), excluded[start : start + 1024]] = -1
        best = np.argpartition(-similarity, k, axis=1)[:, :k]
        value = np.take_along_axis(similarity, best, axis=1)
        by_score = np.argsort(-value, axis=1)
        order.append(np.take_along_axis(best, by_score, axis=1))
        cosine.append(np.take_along_axis(value, by_score, axis=1))
    rows, scores = np.concatenate(order), np.concatenate(cosine)

    def of_neighbours(n: int) -> Translation:
        parts = []
        for start in range(0, len(rows), 512):
            at = slice(start, start + 512)
            some = _observed(observed.modality, observed.flux[at], observed.snr[at])
            parts.append(by_neighbours(context.encoder, some, to, bank[rows[at, :n]], scores[at, :n]))
        return _joined(parts)

    return {
        "nearest neighbour": of_neighbours(1),
        f"{k} neighbours": of_neighbours(k),
        context.encoder.name: by_decoder(context.encoder, observed, to, context.errors.get(to), context.device),
    }


def _joined(parts: list[Translation]) -> Translation:
    names = ("flux", "sigma", "half_95", "ids")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
    return replace(parts[0], names=[name for p in parts for name in p.names], **arrays)


def _simulated(context: Context, source: str, to: str) -> dict[str, Any]:
    pairs, reference = context.pairs, context.reference
    observed = _observed(source, pairs.flux[source], pairs.snr[source])
    found = _predict(
        context,
        observed,
        to,
        context.pair_embeddings[source],
        reference.flux[to],
        context.reference_embeddings[to],
    )
    predicted = {"pixels, linear map": LinearMap.fit(reference.flux[source], reference.flux[to])(pairs.flux[source])}
    predicted |= {name: t.flux for name, t in found.items()}
    standards = (pairs.truth["magnitude"] < _BRIGHT_G) & (pairs.snr["lamost_lrs"] > _BRIGHT_SNR)
    bins = np.digitize(pairs.truth["teff"], _TEFF_EDGES) - 1
    table, by_wavelength = [], {}
    metrics: dict[str, Any] = {"standards": int(standards.sum())}
    for name, flux in predicted.items():
        error = relative_error(flux, pairs.flux[to], pairs.ivar[to])
        by_teff = {
            step: float(np.nanmedian(error[standards & (bins == b)])) if (standards & (bins == b)).sum() >= _FEW else None
            for b, step in enumerate(_TEFF_NAMES)
        }
        of_standards = float(np.nanmedian(error[standards])) if standards.any() else None
        metrics[name] = {"median": float(np.nanmedian(error)), "standards": of_standards, "standards_by_teff": by_teff}
        row = {"to": to, "by": name, "all": f"{metrics[name]['median']:.2%}", "standards": _percent(of_standards)}
        table.append(row | {step: _percent(value) for step, value in by_teff.items()})
        by_wavelength[name] = np.nanmedian(error, axis=0)
    metrics["coverage"], held = {}, None
    for name, t in found.items():
        if name == "nearest neighbour":
            continue
        noise = pairs.sigma(to)
        residual = pairs.flux[to] - t.flux
        metrics["coverage"][name] = {"calibrated": t.calibrated} | coverage(residual, noise, t.sigma, t.half_95)
        if t.calibrated:
            held = _held(residual, noise, t.sigma)
            thirds = np.searchsorted(np.nanquantile(observed.snr, [1 / 3, 2 / 3]), observed.snr)
            metrics["coverage"][name]["by_snr_third"] = [
                coverage(*(a[thirds == i] for a in (residual, noise, t.sigma, t.half_95))) for i in range(3)
            ]
    return {"table": table, "metrics": metrics, "by_wavelength": by_wavelength, "held": held}


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _held(residual: np.ndarray, noise: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Return the share of samples within Gaussian intervals of each nominal share of `_PERCENTILES` (25,)."""
    from scipy.stats import norm

    seen = np.isfinite(noise)
    z = np.abs(residual[seen]) / np.sqrt(sigma[seen] ** 2 + noise[seen] ** 2)
    return np.array([(z <= norm.ppf((1 + p) / 2)).mean() for p in _PERCENTILES])


def _coverage_text(context: Context, simulated: dict[str, dict[str, Any]]) -> str:
    if not context.errors:
        return (
            "The errors of this encoder are not calibrated: `python -m indexer.train.translation --encoder ENCODER` does "
            "it, in a few minutes."
        )
    parts = []
    for to, found in simulated.items():
        held = found["metrics"]["coverage"][context.encoder.name]
        thirds = " / ".join(f"{c['68%']:.0%}" for c in held.get("by_snr_third", []))
        parts.append(f"to {to} 68 % intervals hold {held['68%']:.1%} (by thirds of S/N {thirds}), 95 % {held['95%']:.1%}")
    return f"Coverage of the error estimate on these pairs: {'; '.join(parts)}."


def _real(context: Context) -> dict[str, Any] | None:
    real = context.real
    if real.lrs is None or real.xp is None or not len(real.pairs):
        return None
    rows, partner = real.pairs.T
    lrs = real.lrs.take(rows)
    shared = context.shared(context.encoder, lrs.flux, "lamost_lrs")
    bank_shared = context.shared(context.encoder, real.xp.flux, "gaia_xp")
    found = _predict(
        context, _observed("lamost_lrs", lrs.flux, lrs.snr), "gaia_xp", shared, real.xp.flux, bank_shared, partner
    )
    observed, ivar = real.xp.flux[partner], real.xp.ivar[partner]
    reference = context.reference
    linear = LinearMap.fit(reference.flux["lamost_lrs"], reference.flux["gaia_xp"])(lrs.flux)
    predicted = {"pixels, linear map": linear} | {name: t.flux for name, t in found.items()}
    metrics: dict[str, Any] = {"spectra": len(rows), "stars": len(np.unique(partner)), "median": {}, "by_star": {}}
    table = []
    for name, flux in predicted.items():
        error = relative_error(flux, observed, ivar)
        metrics["median"][name] = float(np.nanmedian(error))
        by_star = {str(real.xp.spectrum_id[p]): float(np.nanmedian(error[partner == p])) for p in np.unique(partner)}
        metrics["by_star"][name] = by_star
        table.append(
            {"by": name, "median relative error": f"{metrics['median'][name]:.2%}"}
            | {star: f"{value:.2%}" for star, value in by_star.items()}
        )
    decoded = found[context.encoder.name]
    with np.errstate(divide="ignore"):
        noise = 1 / np.sqrt(ivar)
    metrics["coverage"] = coverage(observed - decoded.flux, noise, decoded.sigma, decoded.half_95)
    first = [int(np.flatnonzero(partner == p)[0]) for p in np.unique(partner)][:3]
    figure = prediction_figure(
        decoded.wavelength,
        [(f"Gaia DR3 {real.xp.spectrum_id[partner[i]]}", decoded.flux[i], decoded.sigma[i], observed[i]) for i in first],
        "flux / flux at 550 nm",
    )
    held = metrics["coverage"]
    said = f"Their 68 % intervals hold {held['68%']:.0%} of the observed samples, 95 % intervals {held['95%']:.0%}" + (
        "." if decoded.calibrated else " (not calibrated)."
    )
    return {"metrics": metrics, "table": table, "figure": figure, "text": said}
