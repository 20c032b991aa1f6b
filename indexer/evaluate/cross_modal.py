"""Cross-modal retrieval: does a LAMOST spectrum find its star among Gaia XP spectra, and the other way round?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from indexer.evaluate.baselines import CanonicalSpace, LinearMap, standard_rows
from indexer.evaluate.measures import partner_ranks, recalls
from indexer.evaluate.retrieval import interval
from indexer.evaluate.section import Context, Section, Skip, markdown_table
from specdb.plots.evaluation import binned_figure, recall_figure

__all__ = ["cross_modal"]

_DEPTHS = (1, 10, 100)
_SNR_EDGES = (0, 15, 30, 60, 120, np.inf)
_SNR_NAMES = ("< 15", "15-30", "30-60", "60-120", "> 120")
_CANONICAL = "50 principal components, canonical"
_WAYS = ("lamost_lrs -> gaia_xp", "gaia_xp -> lamost_lrs")

#: Coordinates of pairs of spectra: (LRS flux, XP flux) -> two matrices whose rows are compared by cosine.
Vectors = tuple[np.ndarray, np.ndarray]


def cross_modal(context: Context) -> Section:
    """Search partners among simulated held-out pairs, and the real pairs among the real XP sources."""
    if not context.aligned:
        raise Skip(f"{context.encoder.name} encodes {', '.join(context.encoder.modalities)} only")
    lrs, xp = (context.pairs.flux[m] for m in ("lamost_lrs", "gaia_xp"))
    spaces = _spaces(context)
    ranks = {name: _both_ways(space(lrs, xp), name != _CANONICAL) for name, space in spaces.items()}
    snr = context.pairs.snr["lamost_lrs"]
    bins = np.digitize(snr, _SNR_EDGES) - 1
    table: list[dict[str, str]] = []
    metrics: dict[str, Any] = {"simulated": {}, "pairs": len(lrs)}
    curves, binned = {}, {}
    for name, (there, back) in ranks.items():
        metrics["simulated"][name] = {}
        for way, rank in zip(_WAYS, (there, back), strict=True):
            measured = recalls(rank, _DEPTHS)
            table.append({"representation": name, "way": way} | {f"recall@{r.k}": interval(r) for r in measured})
            metrics["simulated"][name][way] = {
                "recall": [asdict(r) for r in measured],
                "median_rank": float(np.median(rank)),
                "by_snr": {
                    step: [asdict(r) for r in recalls(rank[bins == b], _DEPTHS)] for b, step in enumerate(_SNR_NAMES)
                },
            }
        curves[name] = there
        shares = [[float((rank[bins == b] <= 10).mean()) for b in range(5)] for rank in (there, back)]
        binned[name] = np.array(shares)
    text = [
        f"{len(lrs)} simulated pairs that neither the encoder nor the baselines have seen (their own seed); each spectrum "
        "is searched among all spectra of the other modality by cosine. The baselines are linear maps, fitted to "
        f"{len(context.reference)} other pairs: ridge regression of XP pixels on LAMOST pixels, and the ratio of "
        "likelihoods that canonical correlations of 50 principal components give.",
    ]
    figures = {
        "cross_modal_recall": recall_figure(curves, len(lrs), f"LAMOST to XP: {len(lrs)} simulated pairs"),
        "cross_modal_snr": binned_figure(
            binned, _SNR_NAMES, "median S/N per pixel (LAMOST)", [f"recall@10, {way}" for way in _WAYS]
        ),
    }
    real = _real(context, spaces)
    if real:
        metrics["real"] = real
        n = len(context.real.xp)  # type: ignore[arg-type]
        text += [
            f"Real pairs: {len(context.real.pairs)} LAMOST spectra of {real[context.encoder.name]['stars']} stars, searched "
            f"among {n} XP sources:",
            markdown_table(
                [
                    {
                        "representation": name,
                        "median rank, LAMOST -> XP": f"{row['median_rank']:g}",
                        "ranks": ", ".join(map(str, row["ranks"])),
                    }
                    for name, row in real.items()
                ]
            ),
            "An XP spectrum that belongs to a pair may have been trained on alone, without its partner, as the card says.",
        ]
    return Section("cross_modal", "Finding a star in the other survey", table, text, metrics, figures)


def _spaces(context: Context) -> dict[str, Any]:
    """Return by name what turns (LRS flux, XP flux) into comparable vectors, baselines first."""
    reference = context.reference
    a, b = reference.flux["lamost_lrs"], reference.flux["gaia_xp"]
    linear, canonical = LinearMap.fit(a, b), CanonicalSpace.fit(a, b)
    centre = standard_rows(b).mean(axis=0)

    def pixels(lrs: np.ndarray, xp: np.ndarray) -> Vectors:
        return standard_rows(linear(lrs)) - centre, standard_rows(xp) - centre

    def components(lrs: np.ndarray, xp: np.ndarray) -> Vectors:
        return canonical(lrs, 0), canonical(xp, 1)

    spaces: dict[str, Any] = {"pixels, linear map": pixels, _CANONICAL: components}
    for name, encoder in context.encoders.items():
        if {"lamost_lrs", "gaia_xp"} <= set(encoder.modalities):

            def embed(lrs: np.ndarray, xp: np.ndarray, encoder: Any = encoder) -> Vectors:
                if encoder is context.encoder and lrs is context.pairs.flux["lamost_lrs"]:
                    return context.pair_embeddings["lamost_lrs"], context.pair_embeddings["gaia_xp"]
                return context.shared(encoder, lrs, "lamost_lrs"), context.shared(encoder, xp, "gaia_xp")

            spaces[name] = embed
    return spaces


def _both_ways(vectors: Vectors, normalise: bool) -> tuple[np.ndarray, np.ndarray]:
    a, b = vectors
    return partner_ranks(a, b, normalise=normalise), partner_ranks(b, a, normalise=normalise)


def _real(context: Context, spaces: dict[str, Any]) -> dict[str, dict[str, Any]]:
    real = context.real
    if real.lrs is None or real.xp is None or not len(real.pairs):
        return {}
    rows, partner = real.pairs.T
    found = {}
    for name, space in spaces.items():
        query, bank = space(real.lrs.flux[rows], real.xp.flux)
        ranks = partner_ranks(query, bank, partner, normalise=name != _CANONICAL)
        found[name] = {
            "ranks": ranks.tolist(),
            "median_rank": float(np.median(ranks)),
            "sources": len(bank),
            "stars": len(np.unique(partner)),
        }
    return found
