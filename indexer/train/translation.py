"""The error model of translation: fitted to pairs that the encoder has not seen, and written beside its weights.

::

    python -m indexer.train.translation --encoder data/encoders/specclip-mini --pairs simulated --seed 0

The model is described in `specdb.search.error_model`. Three fifths of the pairs fit it, a fifth stretches the intervals, and
the coverage that is reported is that of the last fifth.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from indexer.evaluate.pairs import CALIBRATION_SEED, PairSet, simulated_pairs
from specdb.encoders import Encoder, encoder_folder, load_encoder
from specdb.encoders.clip import ClipModel
from specdb.errors import InputError, TrainingError
from specdb.search.error_model import ErrorModel, decode, save_error_models

__all__ = ["CalibrationSettings", "calibrate_translation", "coverage", "main"]

#: Shares of the intervals, and half their widths in standard deviations of a Gaussian.
INTERVALS = ((0.6827, 1.0), (0.95, 1.959964))


@dataclass(frozen=True)
class CalibrationSettings:
    """How the error model is fitted.

    Attributes
    ----------
    members : int
        Thinned decoders.
    dropout : float
        Share of hidden units each lacks; the decoder's own rate where it was trained with one.
    axes : int
        Directions of the embedding that the scatter may depend on.
    steps, batch_size : int
    lr : float
        Of Adam.
    freedom : float
        Degrees of freedom of the Student distribution whose likelihood is maximised: residuals have heavier tails than a
        Gaussian, and single stars must not decide.
    smooth : int
        Samples that the stretch is averaged over.
    """

    members: int = 16
    dropout: float = 0.1
    axes: int = 8
    steps: int = 300
    batch_size: int = 512
    lr: float = 0.03
    freedom: float = 5.0
    smooth: int = 15


def calibrate_translation(
    encoder: Encoder, pairs: PairSet, settings: CalibrationSettings | None = None, seed: int = 0
) -> dict[str, ErrorModel]:
    """Fit the error models of an encoder, by target modality.

    Parameters
    ----------
    encoder : Encoder
        With cross-modal decoders.
    pairs : PairSet
        Stars that the encoder was not trained on; some thousands.
    settings : CalibrationSettings, optional
    seed : int
        Of the order of the pairs.

    Raises
    ------
    InputError
        When the encoder has no such decoders, or there are fewer than 100 pairs.
    TrainingError
        When predictions or errors are not finite.
    """
    settings = settings or CalibrationSettings()
    model = encoder.model
    if not isinstance(model, ClipModel) or not model.config.predicts:
        raise InputError(f"encoder {encoder.name} has no cross-modal decoders; translation needs variant p, pr or split")
    if len(pairs) < 100:
        raise InputError(f"{len(pairs)} pairs; a calibration needs 100 or more, and some thousands to be good")
    order = np.random.default_rng(seed).permutation(len(pairs))
    fit, stretch, check = np.split(order, [3 * len(order) // 5, 4 * len(order) // 5])
    found = {}
    for source, target in ((a, b) for a in encoder.modalities for b in encoder.modalities if a != b):
        found[target] = _calibrate(encoder, pairs, source, target, (fit, stretch, check), settings, seed)
    return found


def _calibrate(
    encoder: Encoder,
    pairs: PairSet,
    source: str,
    target: str,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    settings: CalibrationSettings,
    seed: int,
) -> ErrorModel:
    fit, stretch, check = parts
    decoder = encoder.model.get_submodule(f"{target}_cross_decoder")
    dropout = encoder.model.config.decoder.dropout or settings.dropout
    shared = encoder.encode(pairs.flux[source], source, normalise=False)["shared"]
    predicted = decode(decoder, shared, settings.members, dropout)
    residual = pairs.flux[target] - predicted.flux
    if not np.isfinite(residual).all():
        raise TrainingError(f"{encoder.name} predicts {target} spectra that are not finite; check its training")
    noise, snr = pairs.sigma(target), pairs.snr[source]
    n_grid = residual.shape[1]
    model = ErrorModel(
        weights=np.zeros((3 + settings.axes, n_grid), np.float32),
        spread_factor=np.ones(n_grid, np.float32),
        **_directions(shared[fit], settings.axes),
        snr=np.nanquantile(snr[fit], [0.005, 0.25, 0.995]).astype(np.float32),
        stretch=np.ones((2, n_grid), np.float32),
        members=settings.members,
        dropout=float(dropout),
    )
    phi = model.features(shared, snr)
    weights, factor = _maximum_likelihood(phi[fit], predicted.spread[fit], residual[fit], noise[fit], settings, seed)
    model = replace(model, weights=weights, spread_factor=factor)
    s = model.scale(shared, snr, predicted.spread)
    factors = [_stretch(residual[stretch], noise[stretch], s[stretch], *i, settings.smooth) for i in INTERVALS]
    model = replace(model, stretch=np.stack(factors).astype(np.float32))
    half = model.half_widths(shared[check], snr[check], predicted.spread[check])
    third = np.searchsorted(np.nanquantile(snr[check], [1 / 3, 2 / 3]), snr[check])
    facts = {
        "source": source,
        "pairs": {"fit": len(fit), "stretch": len(stretch), "check": len(check)},
        "coverage": coverage(residual[check], noise[check], *half),
        "coverage_by_snr_third": [
            coverage(residual[check][third == i], noise[check][third == i], *(h[third == i] for h in half)) for i in range(3)
        ],
        "median_absolute_residual": float(np.median(np.abs(residual[check]))),
        "median_half_width_68": float(np.median(half[0])),
    }
    return replace(model, facts=facts)


def _directions(shared: np.ndarray, n: int) -> dict[str, Any]:
    """Return the mean (d,) of the unit embeddings and their `n` strongest directions (d, n), scaled to unit variance."""
    unit = shared / np.linalg.norm(shared, axis=1, keepdims=True)
    mean = unit.mean(axis=0)
    _, strength, axes = np.linalg.svd(unit - mean, full_matrices=False)
    scale = np.sqrt(len(unit)) / np.maximum(strength, 1e-6 * strength[0])
    directions = np.zeros((shared.shape[1], n), np.float32)
    used = min(n, len(axes))
    directions[:, :used] = (axes[:used] * scale[:used, None]).T
    return {"mean": mean.astype(np.float32), "axes": directions}


def _maximum_likelihood(
    phi: np.ndarray,
    spread: np.ndarray,
    residual: np.ndarray,
    noise: np.ndarray,
    settings: CalibrationSettings,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return W (f, n_grid) and a (n_grid,): the variance of a residual is that of the model plus that of the observation."""
    generator = torch.Generator().manual_seed(seed)
    x, d, r, n = (torch.from_numpy(np.ascontiguousarray(a, np.float32)) for a in (phi, spread, residual, noise))
    known = torch.isfinite(n)
    n = torch.where(known, n, 0)
    w = torch.zeros(x.shape[1], r.shape[1])
    w[0] = (torch.where(known, r.abs(), torch.nan).nanmedian(dim=0).values * 1.48 + 1e-6).log()
    log_a = torch.full((r.shape[1],), -1.0)
    w.requires_grad_(), log_a.requires_grad_()
    optimiser = torch.optim.Adam([w, log_a], lr=settings.lr)
    nu = settings.freedom
    for step in range(settings.steps):
        optimiser.param_groups[0]["lr"] = settings.lr * (1 - step / settings.steps)
        rows = torch.randint(len(x), (min(settings.batch_size, len(x)),), generator=generator)
        variance = torch.exp(2 * (x[rows] @ w).clamp(-20, 10)) + (log_a.exp() * d[rows]) ** 2 + n[rows] ** 2 + 1e-12
        nll = (nu + 1) / 2 * torch.log1p(r[rows] ** 2 / (nu * variance)) + variance.log() / 2
        loss = (nll * known[rows]).sum() / known[rows].sum()
        if not torch.isfinite(loss):
            raise TrainingError(f"the likelihood of step {step} is not finite; the pairs hold values no spectrum has")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return w.detach().numpy(), log_a.detach().exp().numpy()


def _stretch(
    residual: np.ndarray, noise: np.ndarray, s: np.ndarray, share: float, deviations: float, smooth: int
) -> np.ndarray:
    """Return the factors q (n_grid,) for which |r| <= sqrt((q s)^2 + (z n)^2) holds for the given share of the pairs."""
    observed = np.isfinite(noise)
    excess = residual**2 - deviations**2 * np.where(observed, noise, 0.0) ** 2
    q = np.where(observed, np.sqrt(np.maximum(excess, 0)) / s, np.nan)
    factor = np.nanquantile(q, share, axis=0)
    kernel = np.ones(smooth) / smooth
    padded = np.pad(factor, smooth // 2, mode="edge")
    return np.convolve(padded, kernel, mode="valid")[: len(factor)]


def coverage(residual: np.ndarray, noise: np.ndarray, half_68: np.ndarray, half_95: np.ndarray) -> dict[str, float]:
    """Return the share of samples inside the intervals.

    Parameters
    ----------
    residual : ndarray (m, n_grid)
        Observed less predicted.
    noise : ndarray (m, n_grid)
        Error of the observation, which widens the intervals; infinite where there is none: such samples do not count.
    half_68, half_95 : ndarray (m, n_grid)
        Half-widths of the intervals.
    """
    observed = np.isfinite(noise)
    out = {}
    for (share, deviations), half in zip(INTERVALS, (half_68, half_95), strict=True):
        inside = residual**2 <= half**2 + (deviations * np.where(observed, noise, 0)) ** 2
        out[f"{share:.0%}"] = float(inside[observed].mean()) if observed.any() else float("nan")
    return out


def main(arguments: list[str] | None = None, log: Callable[[str], None] = print) -> None:
    """Calibrate a saved encoder from the command line."""
    parser = argparse.ArgumentParser(prog="python -m indexer.train.translation", description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", required=True, help="name or folder of an encoder with cross-modal decoders")
    parser.add_argument("--pairs", choices=["simulated"], default="simulated", help="where the pairs come from")
    parser.add_argument("--n", type=int, default=10_000, help="number of pairs")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    encoder = load_encoder(given.encoder)
    models = calibrate_translation(encoder, simulated_pairs(given.n, CALIBRATION_SEED + given.seed), seed=given.seed)
    marked: dict[str, ErrorModel] = {}
    for target, model in models.items():
        origin: dict[str, Any] = {"origin": "simulated", "simulator_seed": CALIBRATION_SEED + given.seed, "seed": given.seed}
        marked[target] = replace(model, facts=origin | model.facts)
        facts = model.facts
        held = ", ".join(f"{share} intervals hold {value:.1%}" for share, value in facts["coverage"].items())
        log(f"{facts['source']} -> {target}: {held}; median half-width {facts['median_half_width_68']:.4f}")
    log(f"saved {save_error_models(encoder_folder(given.encoder), encoder.weight_hash, marked)}")


if __name__ == "__main__":
    main()
