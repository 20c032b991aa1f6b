"""Whether joint posteriors are right: ranks of the truth, and coverage of regions in the space of all labels.

Both are done by the diagnostics of the `sbi` package, on draws that are already there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specdb.heads.card import HeadCard

if TYPE_CHECKING:
    from specdb.heads.head import Head

__all__ = ["PosteriorChecks", "card_checks", "check_draws", "check_head", "chosen_rows"]

#: Fewer stars with all labels tell nothing about ranks.
_LEAST = 100
_MOST = 4000
_DRAWS = 500
_BINS = 20
_LEVELS = np.linspace(0, 1, 21)


@dataclass(frozen=True)
class PosteriorChecks:
    """Checks of a joint posterior on stars that it had not seen.

    Attributes
    ----------
    n : int
        Stars with all labels.
    labels : tuple of str
    ranks : tuple of tuple of int
        Per label a histogram of the rank of the truth among the draws (simulation-based calibration, Talts et al. 2018,
        arXiv 1804.06788): flat where the posterior is right.
    rank_p_values : tuple of float
        Of a Kolmogorov-Smirnov test that the ranks are uniform.
    levels, coverage : tuple of float
        Credibility and the share of stars inside such regions about random points (TARP, Lemos et al. 2023, arXiv
        2302.03026): equal where the joint posterior is right.
    tarp_p_value : float
        Of a test that they are.
    """

    n: int
    labels: tuple[str, ...]
    ranks: tuple[tuple[int, ...], ...]
    rank_p_values: tuple[float, ...]
    levels: tuple[float, ...]
    coverage: tuple[float, ...]
    tarp_p_value: float

    def to_json(self) -> dict[str, Any]:
        """Return them as plain values."""
        return asdict(self)


class _Drawn:
    """Stands in for an `sbi` posterior whose draws (s, n, L) have been made."""

    def __init__(self, draws: Any) -> None:
        self._draws = draws

    def sample_batched(self, sample_shape: Any, x: Any, show_progress_bars: bool = False) -> Any:
        """Return the draws."""
        return self._draws


def check_head(head: Head, x: np.ndarray, y: np.ndarray, seed: int = 0) -> PosteriorChecks | None:
    """Check a head on inputs (n, d) with labels (n, L) that it has not seen; None without a posterior or with few stars."""
    rows = chosen_rows(y, seed)
    if not head.joint or len(rows) < _LEAST:
        return None
    return check_draws(head.sample(x[rows], _DRAWS, seed), y[rows], head.label_names, seed)


def check_draws(draws: np.ndarray, y: np.ndarray, labels: tuple[str, ...], seed: int = 0) -> PosteriorChecks | None:
    """Check draws (n, s, L) against the labels (n, L) of stars; None for fewer than a hundred stars."""
    if len(y) < _LEAST:
        return None
    import torch
    from sbi.diagnostics import check_tarp, run_sbc, run_tarp
    from sbi.diagnostics.sbc import check_uniformity_frequentist

    truth = torch.from_numpy(y.astype(np.float32))
    posterior: Any = _Drawn(torch.from_numpy(np.ascontiguousarray(draws.transpose(1, 0, 2))))
    stand_in = torch.zeros(len(y), 1)  # the draws are made already
    n = draws.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ranks, _ = run_sbc(truth, stand_in, posterior, n, show_progress_bar=False)
        share, credibility = run_tarp(
            truth, stand_in, posterior, num_posterior_samples=n, show_progress_bar=False, num_bins=50
        )
    _, tarp_p_value = check_tarp(share, credibility)
    return PosteriorChecks(
        n=len(y),
        labels=labels,
        ranks=tuple(tuple(np.histogram(column, _BINS, (0, n + 1))[0].tolist()) for column in ranks.numpy().T),
        rank_p_values=tuple(check_uniformity_frequentist(ranks, n).tolist()),
        levels=tuple(_LEVELS.tolist()),
        coverage=tuple(np.interp(_LEVELS, credibility.numpy(), share.numpy()).tolist()),
        tarp_p_value=float(tarp_p_value),
    )


def card_checks(card: HeadCard) -> PosteriorChecks | None:
    """Return the checks that were made in training, of stars left out."""
    found = card.metrics.get("posterior")
    if not found:
        return None
    return PosteriorChecks(**{k: _tuples(v) for k, v in found.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def chosen_rows(y: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows of labels (n, L) that checks use: complete ones, at random where they are many."""
    rows = np.flatnonzero(np.isfinite(y).all(axis=1))
    return rows if len(rows) <= _MOST else np.sort(np.random.default_rng(seed).choice(rows, _MOST, replace=False))
