"""Strategies side by side: how good each is on target stars left out, with how many labels, on which inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from specdb.errors import InputError
from specdb.heads.head import LEAST_STARS, Head, HeadCard, Prediction
from specdb.heads.inputs import LabelledInputs
from specdb.heads.measures import label_figures
from specdb.heads.transfer.fit import transfer_head
from specdb.heads.transfer.strategies import resolve, transfer_strategies

__all__ = ["METAL_POOR", "PARTS", "Comparison", "TransferPlan", "aligned", "compare_strategies", "metallicity"]

METAL_POOR = -1.0  #: [Fe/H] that parts metal-poor from metal-rich stars, as in arXiv 2602.15021
PARTS = ("full", "poor", "rich")
_METALLICITIES = ("feh", "fe_h", "mh", "m_h")
_ALPHAS = ("alphafe", "alpha_fe", "alpham", "alpha_m")
#: Fewer test stars say nothing about a strategy.
_LEAST_TEST = 20


@dataclass(frozen=True)
class TransferPlan:
    """What is compared.

    Attributes
    ----------
    strategies : tuple of str
        By default all.
    sizes : tuple of int
        Numbers of labelled target stars to learn from; by default all that are not kept for judging.
    seeds : int
        Repetitions with other stars to learn from, folds and weights.
    test_fraction : float
        Share of the target's stars that is kept for judging.
    settings : dict
        Strategy -> its settings.
    """

    strategies: tuple[str, ...] = field(default_factory=lambda: tuple(transfer_strategies()))
    sizes: tuple[int, ...] = ()
    seeds: int = 1
    test_fraction: float = 0.3
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.strategies:
            resolve(name, self.settings.get(name, {}))
        if stray := sorted(set(self.settings) - set(self.strategies)):
            raise InputError(f"there are settings for {', '.join(stray)}, which is not among {', '.join(self.strategies)}")
        if not self.strategies or self.seeds < 1 or not 0 < self.test_fraction < 1:
            raise InputError(
                f"{len(self.strategies)} strategies, {self.seeds} seeds and a test fraction of {self.test_fraction} were "
                "asked for; give at least one of the first two and a share above 0 and below 1"
            )
        if self.sizes and min(self.sizes) < LEAST_STARS:
            raise InputError(f"{min(self.sizes)} labelled stars were asked for; at least {LEAST_STARS} are needed")


@dataclass(frozen=True)
class Comparison:
    """Figures of all fits, and the heads from the most stars.

    Attributes
    ----------
    rows : list of dict
        ``inputs``, ``strategy``, ``stars`` (learnt from), ``seed``, ``label``, ``part`` (of `PARTS`) and the figures of
        `specdb.heads.measures.label_figures` on the test stars.
    heads : dict
        (inputs, strategy) -> head, of the first seed and the largest size.
    predictions : dict
        (inputs, strategy) -> its predictions of `test`.
    test : LabelledInputs
        The stars that judged, with the inputs of the first head.
    """

    rows: list[dict[str, Any]]
    heads: dict[tuple[str, str], Head]
    predictions: dict[tuple[str, str], Prediction]
    test: LabelledInputs

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple(facts.name for facts in self.test.labels)

    def best(self) -> tuple[str, str]:
        """Return inputs and strategy of the head with the smallest errors of stars left out among those learnt from.

        The squared errors are in units of each label's variance, and averaged. The test stars have no part in the choice.
        """

        def error(key: tuple[str, str]) -> float:
            t = self.heads[key].training
            return float(np.mean(np.nanmean((t.mean - t.y) ** 2, axis=0) / np.nanvar(t.y, axis=0)))

        return min(self.heads, key=error)

    def table(self, label: str, figure: str = "r2", n: int | None = None) -> list[dict[str, str]]:
        """Return rows as published: a strategy each, and per input the figure of full / metal-poor / metal-rich stars.

        `n` is the number of stars learnt from, by default the largest. Several seeds are averaged.
        """
        chosen = [
            row for row in self.rows if row["label"] == label and row["stars"] == (n or max(r["stars"] for r in self.rows))
        ]
        out: dict[str, dict[str, str]] = {}
        for inputs, strategy in dict.fromkeys((row["inputs"], row["strategy"]) for row in chosen):
            cells = []
            for part in PARTS:
                key = (inputs, strategy, part)
                values = [
                    row[figure] for row in chosen if (row["inputs"], row["strategy"], row["part"]) == key and figure in row
                ]
                cells.append(f"{np.mean(values):.3f}" if values else "-")
            out.setdefault(strategy, {"strategy": strategy})[inputs] = " / ".join(cells)
        return list(out.values())

    def halves(self) -> tuple[tuple[np.ndarray, np.ndarray], dict[tuple[str, str], np.ndarray]] | None:
        """Return [Fe/H] and [alpha/Fe] (n, 2) of test stars for `discrepancy`, None where the labels are not among these.

        True values of two halves of the stars, and what each head predicts for the first half, to be compared with the true
        values of the second: stars in both samples would make them look more alike than they are.
        """
        names = self.labels
        iron, alpha = metallicity(names), next((names.index(name) for name in _ALPHAS if name in names), None)
        if iron is None or alpha is None:
            return None
        at = [iron, alpha]
        half = np.isin(self.test.star, np.random.default_rng(0).permutation(np.unique(self.test.star))[::2])
        truth = self.test.y[half][:, at], self.test.y[~half][:, at]
        if min(np.isfinite(one).all(axis=1).sum() for one in truth) < LEAST_STARS:
            return None
        return truth, {key: one.mean[half][:, at] for key, one in self.predictions.items()}


def compare_strategies(
    sources: Mapping[str, Head],
    targets: Mapping[str, LabelledInputs],
    cards: Mapping[str, HeadCard],
    plan: TransferPlan,
    *,
    known: np.ndarray | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Fit every strategy on every input with every number of labels, and judge all on the same test stars.

    Parameters
    ----------
    sources, targets, cards : mapping of inputs to Head, LabelledInputs, HeadCard
        Source heads; the target's stars, row by row the same for all inputs (see `aligned`); what the new heads' cards say.
    plan : TransferPlan
    known : ndarray of int64, optional
        spectrum_ids that a source has learnt from: their stars judge nothing.
    report : callable, optional
        Receives what is being fitted, and the number of fits done and in all.

    Raises
    ------
    InputError
        For too few stars; and what `transfer_head` raises.
    """
    first = next(iter(targets.values()))
    train, test = _split(first, plan, np.zeros(0, np.int64) if known is None else known)
    stars = len(np.unique(first.star[train]))
    sizes = plan.sizes or (stars,)
    if max(sizes) > stars:
        raise InputError(
            f"{max(sizes)} labelled stars were asked for; the target has {stars}, and {len(np.unique(first.star[test]))} "
            "more that judge: ask for fewer, or keep fewer with a smaller test fraction"
        )
    rows: list[dict[str, Any]] = []
    heads: dict[tuple[str, str], Head] = {}
    predictions: dict[tuple[str, str], Prediction] = {}
    names = tuple(facts.name for facts in first.labels)
    jobs = [
        (n, seed, key, s) for n in sorted(sizes) for seed in range(plan.seeds) for key in sources for s in plan.strategies
    ]
    for done, (n, seed, key, strategy) in enumerate(jobs):
        if report is not None:
            report(f"{strategy} on {key}, {n} stars", done, len(jobs))
        learn = _some(first.star, train, n, seed)
        data, held = targets[key].take(learn), targets[key].take(test)
        card = cards[key]
        facts = {"spectra": len(data.ids), "stars": n, "left_out": data.dropped}
        head = transfer_head(
            sources[key],
            data.x,
            data.y,
            data.star,
            replace(card, data=card.data | facts),
            strategy,
            plan.settings.get(strategy),
            seed=seed,
            ids=data.ids,
            y_err=data.y_err,
            x_err=data.x_err,
        )
        prediction = head.predict(held.x)
        about = {"inputs": key, "strategy": strategy, "stars": n, "seed": seed}
        rows += [about | row for row in _judge(held.y, prediction, names)]
        if seed == 0:
            heads[key, strategy], predictions[key, strategy] = head, prediction
    return Comparison(rows, heads, predictions, first.take(test))


def aligned(targets: Mapping[str, LabelledInputs]) -> dict[str, LabelledInputs]:
    """Return the spectra that all inputs know, in one order, with one numbering of stars.

    Raises
    ------
    InputError
        When there is none.
    """
    first = next(iter(targets.values()))
    ids = first.ids
    for data in targets.values():
        ids = np.intersect1d(ids, data.ids)
    if not len(ids):
        raise InputError(f"no labelled spectrum has all of the inputs {', '.join(targets)}; embed the target first")
    out = {}
    for key, data in targets.items():
        order = np.argsort(data.ids)
        out[key] = data.take(order[np.searchsorted(data.ids, ids, sorter=order)])
    star = next(iter(out.values())).star
    return {key: replace(data, star=star) for key, data in out.items()}


def metallicity(names: tuple[str, ...]) -> int | None:
    """Return which label is the metallicity, if one is."""
    return next((names.index(name) for name in _METALLICITIES if name in names), None)


def _split(data: LabelledInputs, plan: TransferPlan, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to learn from and to judge by; stars are not divided."""
    strangers = np.setdiff1d(data.star, data.star[np.isin(data.ids, known)])
    stars = len(np.unique(data.star))
    wanted = round(plan.test_fraction * stars)
    if stars - wanted < LEAST_STARS or wanted < _LEAST_TEST:
        need = int(np.ceil(max(LEAST_STARS / (1 - plan.test_fraction), _LEAST_TEST / plan.test_fraction))) + 1
        raise InputError(
            f"the target has {stars} labelled stars, of which {wanted} would judge; at least {LEAST_STARS} are needed to "
            f"learn from and {_LEAST_TEST} to judge: {need} in all with a test fraction of {plan.test_fraction}"
        )
    if len(strangers) < wanted:
        raise InputError(
            f"{stars - len(strangers)} of {stars} labelled stars are among those that the source head was trained on, and "
            f"{wanted} others are needed to judge; give labels of more stars, or a smaller test fraction"
        )
    chosen = np.random.default_rng(0).choice(strangers, wanted, replace=False)
    judging = np.isin(data.star, chosen)
    return np.flatnonzero(~judging), np.flatnonzero(judging)


def _some(star: np.ndarray, rows: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return the rows of `n` stars; those of fewer are among those of more."""
    stars = np.unique(star[rows])
    return rows[np.isin(star[rows], np.random.default_rng([seed, 1]).permutation(stars)[:n])]


def _judge(truth: np.ndarray, prediction: Prediction, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the figures of each label for all, metal-poor and metal-rich test stars."""
    parts = {"full": np.ones(len(truth), bool)}
    if (at := metallicity(names)) is not None:
        parts |= {"poor": truth[:, at] < METAL_POOR, "rich": truth[:, at] >= METAL_POOR}
    return [
        {"label": name, "part": part}
        | label_figures(truth[inside, i], prediction.mean[inside, i], prediction.sigma[inside, i])
        for i, name in enumerate(names)
        for part, inside in parts.items()
    ]
