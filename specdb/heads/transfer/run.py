"""`transfer`: from a head of one database to a head of the same or another one, judged on stars left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from specdb.errors import InputError
from specdb.heads.head import Head, HeadCard
from specdb.heads.inputs import LabelledInputs, gather_labelled
from specdb.heads.kinds import Report
from specdb.heads.train import fit_on, head_folder, input_source, list_heads, load_head
from specdb.heads.transfer.compare import Comparison, TransferPlan, aligned, compare_strategies
from specdb.heads.transfer.fit import check_match, moved_head, narrowed
from specdb.store import Store, read_schema

__all__ = ["TransferReport", "source_on", "transfer"]

_GRID = b"wavelength_vac_angstrom"


@dataclass(frozen=True)
class TransferReport:
    """What `transfer` did.

    Attributes
    ----------
    head : Head
        What was saved.
    comparison : Comparison or None
        Nothing is compared where the target has no labels.
    """

    head: Head
    comparison: Comparison | None


def transfer(
    store: Store,
    name: str,
    to: str,
    labels: pa.Table | None = None,
    *,
    target: Store | None = None,
    inputs: Sequence[str] = (),
    plan: TransferPlan | None = None,
    save_as: str | None = None,
    provenance: dict[str, Any] | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> TransferReport:
    """Make a head for another modality or other labels, and save the best in the target database.

    Parameters
    ----------
    store : Store
        That has the source head.
    name : str
        Of the source head.
    to : str
        Modality of the target.
    labels : pyarrow.Table, optional
        ``spectrum_id`` and labels of target stars, named as the head's. Without them the head is taken over as it is.
    target : Store, optional
        By default the same database.
    inputs : sequence of str
        What to compare, by default what the head reads. Where it is something else, a source head like it is trained on the
        head's own training stars and saved as ``<name>-<inputs>``.
    plan : TransferPlan, optional
    save_as : str, optional
        Name of the head that is saved, by default ``<name>-<modality>``.
    provenance : dict, optional
        Where the labels came from; kept on the card.
    report : callable, optional
        See `compare_strategies`.

    Raises
    ------
    InputError
        For labels that cannot be used, or a target on another grid; see `transfer_head` and `compare_strategies`.
    ProvenanceError
        For embeddings by other weights than the head's.
    """
    target = target or store
    save_as = save_as or f"{name}_{to}"
    folder = head_folder(target, save_as)
    if folder == head_folder(store, name):
        raise InputError(f"the transferred head would replace its source {name}; give it another name")
    source = load_head(store, name)
    wanted = tuple(dict.fromkeys(inputs)) or (source.card.config.inputs,)
    cards = {kind: _card(source, store, target, to, kind, save_as, provenance or {}) for kind in wanted}
    if labels is None:
        if plan is not None and set(plan.strategies) != {"zero-shot"}:
            raise InputError("without --labels the head can only be taken over as it is; give labels, or strategy zero-shot")
        if wanted != (source.card.config.inputs,):
            raise InputError(f"without labels nothing is compared; head {name} reads {source.card.config.inputs}")
        head, comparison = moved_head(source, cards[wanted[0]]), None
    else:
        given = {kind: gather_labelled(target, labels, to, kind, target.default_encoder) for kind in wanted}
        names = tuple(facts.name for facts in next(iter(given.values())).labels)
        narrowed(source, names)  # refuses other labels before anything is trained
        targets = aligned({kind: _with_units(data, source) for kind, data in given.items()})
        cards = {kind: replace(card, labels=targets[kind].labels) for kind, card in cards.items()}
        sources = {kind: source_on(store, source, kind) for kind in wanted}
        same = target.root == store.root and to == source.card.modality
        known = source.training.ids if same else None
        comparison = compare_strategies(sources, targets, cards, plan or TransferPlan(), known=known, report=report)
        head = comparison.heads[comparison.best()]
    with target.writing():
        head.save(folder)
    return TransferReport(head, comparison)


def source_on(store: Store, source: Head, inputs: str, report: Report | None = None) -> Head:
    """Return a head like `source` that reads other inputs, trained on the same stars; it is kept in the database."""
    card = source.card
    if inputs == card.config.inputs:
        return source
    name = f"{card.name}_{inputs}"
    if name in list_heads(store):
        found = load_head(store, name)
        if np.array_equal(np.sort(found.training.ids), np.sort(source.training.ids)):
            return found
    columns = {"spectrum_id": source.training.ids} | {n: source.training.y[:, i] for i, n in enumerate(source.label_names)}
    data = gather_labelled(store, pa.table(columns), card.modality, inputs, store.default_encoder)
    config = replace(card.config, inputs=inputs)  # type: ignore[arg-type]
    head = fit_on(store, _with_units(data, source), name, config, card.modality, {"like": card.name}, report)
    with store.writing():
        head.save(head_folder(store, name))
    return head


def _with_units(data: LabelledInputs, source: Head) -> LabelledInputs:
    """Return the data with units and descriptions of labels from the source where the table has none."""
    known = {facts.name: facts for facts in source.card.labels}
    return replace(data, labels=tuple(f if f.unit else known.get(f.name, f) for f in data.labels))


def _card(
    source: Head, store: Store, target: Store, to: str, inputs: str, name: str, provenance: dict[str, Any]
) -> HeadCard:
    """Return the card of a head of the target, if the source can be taken there."""
    encoder, weights, preparation = input_source(target, to, inputs)
    data = {"database": target.name} | provenance
    card = HeadCard(name, to, encoder, weights, source.card.labels, source.card.config, preparation, data)
    if inputs == "pixels":
        here, there = (_grid(s, modality) for s, modality in ((store, source.card.modality), (target, to)))
        if here is not None and here != there:
            raise InputError(
                f"{to} spectra are on another wavelength grid than those of {source.card.modality} that head "
                f"{source.card.name} was trained on; pixels can be transferred only between modalities of one grid"
            )
    elif source.card.config.inputs != "pixels":
        check_match(source.card, card)
    return card


def _grid(store: Store, modality: str) -> bytes | None:
    """Return the wavelength grid of a modality as it is stored, None where the database has no such spectra."""
    for part in store.spectra_parts(modality)[:1]:
        return (read_schema(store.root / part).metadata or {}).get(_GRID)
    return None
