"""`transfer_head`: a head of a target survey from one of a source survey and a few labelled target stars."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from specdb.errors import InputError, ProvenanceError
from specdb.heads.head import Head, HeadCard, LabelFacts, Training, calibrated_head, check_training, scaled_data
from specdb.heads.kinds import Report, kind_class
from specdb.heads.scaling import Domain, InputScale, LabelScale
from specdb.heads.transfer.strategies import resolve, strategy_class

__all__ = ["check_match", "moved_head", "narrowed", "transfer_head"]


def transfer_head(
    source: Head,
    x: np.ndarray,
    y: np.ndarray,
    star: np.ndarray,
    card: HeadCard,
    strategy: str,
    settings: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    ids: np.ndarray | None = None,
    y_err: np.ndarray | None = None,
    x_err: np.ndarray | None = None,
    report: Report | None = None,
) -> Head:
    """Fit and calibrate a head of the target.

    Members leave out folds of target stars as in `specdb.heads.fit_head`; what they predict for these calibrates the sigmas,
    whatever the strategy.

    Parameters
    ----------
    source : Head
    x, y, star, ids, y_err, x_err
        Target stars, as `specdb.heads.fit_head` takes them.
    card : HeadCard
        Of the target: name, modality, encoder, and labels, which the source must predict. Its configuration is replaced.
    strategy : str
        See `transfer_strategies`.
    settings : dict, optional
        Of the strategy.
    seed : int
        Of folds, weights and batches.
    report : callable, optional
        Receives steps and the error of stars left out.

    Raises
    ------
    InputError
        For labels that the source does not predict, that are constant or missing, for too few stars, inputs that are not
        finite, or a strategy that the source's kind does not allow.
    ProvenanceError
        When the source reads other embeddings.
    DependencyError
        When `peft` is not installed.
    """
    check_match(source.card, card)
    names = tuple(facts.name for facts in card.labels)
    source = narrowed(source, names)
    check_training(x, y, star, names)
    _check_width(source, x)
    chosen, given = strategy_class(strategy), resolve(strategy, settings or {})
    config = replace(chosen.config(replace(source.card.config, seed=seed), given), inputs=source.card.config.inputs)
    if chosen.keeps_scales:
        scale_x, scale_y = source.inputs, source.labels.widened(y)
    else:
        scale_x, scale_y = InputScale.of(x), LabelScale.of(names, y)
    data = scaled_data(x, y, star, config, scale_x, scale_y, y_err=y_err, x_err=x_err)
    fitted = chosen.fit(source, data, config, given, report)
    domain = source.domain.widened(data.x) if chosen.keeps_scales else Domain.of(data.x)
    origin = _origin(source.card) | {"strategy": strategy, "settings": asdict(given)}
    card = replace(card, config=config, data=card.data | {"transfer": origin})
    return calibrated_head(fitted, data, y, card, scale_x, scale_y, domain, ids)


def moved_head(source: Head, card: HeadCard) -> Head:
    """Return the source head for another modality as it is, where no target star has a label: nothing is recalibrated.

    Raises
    ------
    ProvenanceError
        When the source reads other embeddings.
    """
    check_match(source.card, card)
    origin = _origin(source.card) | {"strategy": "zero-shot", "settings": {}, "calibrated on": source.card.modality}
    card = replace(card, labels=source.card.labels, config=source.card.config, data=card.data | {"transfer": origin})
    return replace(source, card=card, training=_rows(source.training, np.zeros(0, np.int64)))


def check_match(source: HeadCard, target: HeadCard) -> None:
    """Refuse embeddings by other weights than those that the source head was trained on.

    Raises
    ------
    ProvenanceError
    """
    if source.config.inputs != "pixels" and source.weight_hash != target.weight_hash:
        raise ProvenanceError(
            f"head {source.name} reads embeddings by {source.encoder or 'an unnamed encoder'} with weights "
            f"{source.weight_hash[:16]}, the target holds those of {target.encoder} with {target.weight_hash[:16]}; embed "
            "the target with the same encoder, or transfer a head on pixels"
        )


def narrowed(head: Head, names: tuple[str, ...]) -> Head:
    """Return a head with only the given of its labels, in their order.

    Raises
    ------
    InputError
        For a label that the head does not predict, or a kind of head that predicts all of its labels at once.
    """
    own = head.label_names
    unknown = [name for name in names if name not in own]
    if unknown:
        free = next((name for name in own if name not in names), own[0])
        raise InputError(
            f"head {head.card.name} predicts {', '.join(own)}, the target's labels are {', '.join(names)}; give the same "
            f"names, for instance `SELECT spectrum_id, {unknown[0]} AS {free}`"
        )
    if names == own:
        return head
    if head.card.config.kind != "mlp":
        raise InputError(
            f"a {head.card.config.kind} head predicts {', '.join(own)} together; give target labels for all, in that order"
        )
    at = np.array([own.index(name) for name in names])
    tensors = head.model.tensors()
    last = f"{len(head.card.config.resolved().hidden)}"
    both = np.concatenate([at, at + len(own)])  # means, then log sigmas
    tensors |= {f"{part}.{last}": tensors[f"{part}.{last}"][..., both] for part in ("weights", "biases")}
    model = kind_class("mlp").from_tensors(tensors, head.card.config.resolved())
    scale = LabelScale(names, *(getattr(head.labels, k)[at] for k in ("mean", "scatter", "low", "high")))
    facts: tuple[LabelFacts, ...] = tuple(head.card.labels[i] for i in at)
    return replace(
        head,
        card=replace(head.card, labels=facts),
        model=model,
        labels=scale,
        factor=head.factor[at],
        training=Training(
            **{k: v if k == "ids" else v[:, at] for k, v in vars(head.training).items()},
        ),
    )


def _rows(training: Training, rows: np.ndarray) -> Training:
    return Training(**{name: value[rows] for name, value in vars(training).items()})


def _check_width(source: Head, x: np.ndarray) -> None:
    d = len(source.inputs.mean)
    if x.shape[1] != d:
        raise InputError(
            f"head {source.card.name} reads {d} numbers per spectrum, the target gives {x.shape[1]}; both surveys must be "
            "prepared onto the same grid, or embedded by the same encoder"
        )


def _origin(source: HeadCard) -> dict[str, Any]:
    """Return what the card of a transferred head says about its source."""
    kept = ("database", "spectra", "stars", "labels")
    return {
        "source": source.name,
        "source_modality": source.modality,
        "source_kind": source.config.kind,
        "source_data": {k: source.data[k] for k in kept if k in source.data},
    }
