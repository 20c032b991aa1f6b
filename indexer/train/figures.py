"""The figures of `specclip-mini` on its card: within LAMOST, within Gaia XP, across both, and translated spectra."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from indexer.evaluate.measures import (
    biweight_sigma,
    evaluate,
    neighbour_labels,
    partner_ranks,
    principal_components,
    r_squared,
    recalls,
)
from indexer.train.data import TrainingSet
from indexer.train.pairs import PAIR_LABELS, TrainingPairs
from specdb.encoders.clip import ClipModel
from specdb.encoders.encoder import Encoder

__all__ = ["SNR_EDGES", "in_modal_figures", "pair_figures", "real_pair_figures"]

DEPTHS = (1, 10, 100)
SNR_EDGES = (0, 15, 30, 60, 120, np.inf)  #: of the median S/N per pixel of the LAMOST spectrum


def in_modal_figures(encoder: Encoder, data: TrainingSet, test: np.ndarray) -> dict[str, Any]:
    """Return repeat visits and labels of neighbours, on the stars of the test rows, of encoder, pixels and components."""
    spectra = {
        encoder.name: encoder.encode(data.flux, "lamost_lrs")["shared"],
        "pixels": data.flux,
        "pca50": principal_components(data.flux, np.flatnonzero(~test)),
    }
    return {
        "what": "held-out stars: visits by cosine among their spectra, labels by the mean of 10 neighbours in the rest",
        "n_test_spectra": int(test.sum()),
        **{name: evaluate(x, data.star, data.labels, test) for name, x in spectra.items()},
    }


def pair_figures(encoder: Encoder, pairs: TrainingPairs) -> dict[str, Any]:
    """Return the figures on simulated pairs that were not trained on.

    Recall of the partner among all pairs, both ways and by S/N; labels of XP neighbours against the truth, a fifth of the
    pairs searched among the others; errors of translated spectra beside those of the nearest neighbour's spectrum.
    """
    lrs_flux = pairs.lrs_flux.astype(np.float32)
    lrs = encoder.encode(lrs_flux, "lamost_lrs")["shared"]
    xp = encoder.encode(pairs.xp_flux, "gaia_xp")["shared"]
    found: dict[str, Any] = {"n_pairs": len(pairs)}
    ranks = {"lamost_lrs -> gaia_xp": partner_ranks(lrs, xp), "gaia_xp -> lamost_lrs": partner_ranks(xp, lrs)}
    for way, rank in ranks.items():
        by_snr = {}
        for low, high in pairwise(SNR_EDGES):
            inside = (pairs.snr >= low) & (pairs.snr < high)
            by_snr[f"{low:g} to {high:g}"] = [asdict(r) for r in recalls(rank[inside], DEPTHS)]
        found[way] = {
            "recall": [asdict(r) for r in recalls(rank, DEPTHS)],
            "median_rank": float(np.median(rank)),
            "by_snr": by_snr,
        }
    test = np.arange(len(pairs)) % 5 == 0
    components = principal_components(pairs.xp_flux, np.flatnonzero(~test))
    found["xp_neighbours"] = {
        name: _neighbour_errors(x, pairs.labels, test) for name, x in ((encoder.name, xp), ("pca50", components))
    }
    found["translation"] = {
        "gaia_xp": _translation(encoder, lrs_flux[test], pairs.xp_flux[test], lrs[test], xp[~test], pairs.xp_flux[~test])
    }
    return found


def real_pair_figures(encoder: Encoder, lrs: np.ndarray, xp: np.ndarray, partner: np.ndarray) -> dict[str, Any]:
    """Return ranks of the true source among XP spectra, and errors of translated spectra, for real LAMOST spectra.

    Parameters
    ----------
    lrs : ndarray (q, 1462)
        Flux of the LAMOST spectra.
    xp : ndarray (n, 343)
        Flux of all XP sources.
    partner : ndarray (q,), int
        Row of `xp` that is the same star.
    """
    query, bank = encoder.encode(lrs, "lamost_lrs")["shared"], encoder.encode(xp, "gaia_xp")["shared"]
    ranks = partner_ranks(query, bank, partner)
    others = np.setdiff1d(np.arange(len(xp)), partner)
    return {
        "n_visits": len(lrs),
        "n_stars": len(np.unique(partner)),
        "n_sources": len(xp),
        "ranks": ranks.tolist(),
        "median_rank": float(np.median(ranks)),
        "translation": _translation(encoder, lrs, xp[partner], query, bank[others], xp[others]),
    }


def _neighbour_errors(x: np.ndarray, labels: np.ndarray, test: np.ndarray) -> dict[str, dict[str, float]]:
    predicted, truth = neighbour_labels(x[~test], labels[~test], x[test]), labels[test]
    return {
        name: {"sigma": biweight_sigma(predicted[:, i] - truth[:, i]), "r2": r_squared(truth[:, i], predicted[:, i])}
        for i, name in enumerate(PAIR_LABELS)
    }


def _translation(
    encoder: Encoder, flux: np.ndarray, truth: np.ndarray, query: np.ndarray, bank: np.ndarray, bank_flux: np.ndarray
) -> dict[str, float]:
    """Return median relative errors per sample of the decoder and of the spectrum of the nearest neighbour across."""
    assert isinstance(encoder.model, ClipModel)
    raw = encoder.encode(flux, "lamost_lrs", normalise=False)["shared"]
    with torch.inference_mode():
        predicted = encoder.model.predict({"shared": torch.from_numpy(raw)}, "gaia_xp").numpy()
    nearest = bank_flux[(query @ bank.T).argmax(axis=1)]
    return {
        "median_relative_error": float(np.median(np.abs(predicted / truth - 1))),
        "nearest_neighbour": float(np.median(np.abs(nearest / truth - 1))),
    }
