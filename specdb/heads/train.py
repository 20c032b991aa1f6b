"""Training a head from a database, and finding the heads that a database has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from specdb.errors import DatabaseError, InputError, ProvenanceError
from specdb.heads.config import HeadConfig
from specdb.heads.head import Head, HeadCard, fit_head
from specdb.heads.inputs import LabelledInputs, gather_labelled, input_parts
from specdb.heads.kinds import Report
from specdb.store import Store

__all__ = ["check_source", "head_folder", "input_source", "list_heads", "load_head", "train_head"]


def head_folder(store: Store, name: str) -> Path:
    """Return the folder of a head of the database.

    Raises
    ------
    InputError
        For a name that is no folder name.
    """
    if not name or not all(c.isalnum() or c in "._-" for c in name) or name.startswith((".", "-")):
        raise InputError(f"{name!r} cannot be the name of a head; use letters, digits, '.', '_' and '-'")
    return store.root / "heads" / name


def list_heads(store: Store) -> list[str]:
    """Return the names of the database's heads, sorted."""
    return sorted(path.parent.name for path in (store.root / "heads").glob("*/head.json"))


def load_head(store: Store, name: str) -> Head:
    """Read a head of the database.

    Raises
    ------
    InputError
        Where there is none of that name.
    CheckpointError
        Where it is damaged.
    """
    known = list_heads(store)
    if name not in known:
        raise InputError(f"the database has no head {name!r}; it has {', '.join(known) or 'none: `specdb heads train`'}")
    return Head.load(head_folder(store, name))


def train_head(
    store: Store,
    labels: pa.Table,
    name: str,
    config: HeadConfig | None = None,
    *,
    modality: str | None = None,
    test_fraction: float = 0.0,
    provenance: dict[str, Any] | None = None,
    report: Report | None = None,
) -> Head:
    """Train a head on stored embeddings (or prepared spectra) and save it in the database, replacing one of that name.

    Parameters
    ----------
    store : Store
    labels : pyarrow.Table
        ``spectrum_id``, one numeric column per label, and ``<label>_err`` where errors are known; for example the answer to
        ``SELECT spectrum_id, teff, logg, feh FROM lasp``.
    name : str
    config : HeadConfig, optional
    modality : str, optional
        By default the one that most of the ids belong to.
    test_fraction : float
        Share of the stars that is kept from the head altogether, for `specdb.heads.evaluate_head`.
    provenance : dict, optional
        Where the labels came from; kept on the head's card.
    report : callable, optional

    Raises
    ------
    InputError
        For labels that cannot be used; see `specdb.heads.fit_head` and `specdb.heads.gather_labelled`.
    """
    folder = head_folder(store, name)
    config = config or HeadConfig()
    modality = modality or _modality_of(store, labels)
    data = gather_labelled(store, labels, modality, config.inputs, store.default_encoder)
    if not 0 <= test_fraction < 1:
        raise InputError(f"test_fraction is {test_fraction}; give a share from 0 to below 1")
    if test_fraction:
        data = data.take(np.isin(data.star, held_out(data.star, test_fraction, config.seed), invert=True))
    head = fit_on(store, data, name, config, modality, provenance, report)
    with store.writing():
        head.save(folder)
    return head


def held_out(star: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return the stars, of those numbered in `star` (n,), that a share is kept from; at random, at least one."""
    stars = np.unique(star)
    count = max(1, round(share * len(stars)))
    return np.random.default_rng(seed).choice(stars, count, replace=False)


def fit_on(
    store: Store,
    data: LabelledInputs,
    name: str,
    config: HeadConfig,
    modality: str,
    provenance: dict[str, Any] | None = None,
    report: Report | None = None,
) -> Head:
    """Fit a head on gathered data without saving it; see `train_head`."""
    encoder, weights, preparation = input_source(store, modality, config.inputs)
    card = HeadCard(
        name=name,
        modality=modality,
        encoder=encoder,
        weight_hash=weights,
        labels=data.labels,
        config=config,
        preparation=preparation,
        data={
            "database": store.name,
            "spectra": len(data.ids),
            "stars": len(np.unique(data.star)),
            "left_out": data.dropped,
            **(provenance or {}),
        },
    )
    return fit_head(data.x, data.y, data.star, card, ids=data.ids, y_err=data.y_err, x_err=data.x_err, report=report)


def check_source(store: Store, head: Head) -> None:
    """Refuse a head that was trained on other embeddings than the database holds.

    Raises
    ------
    ProvenanceError
    DatabaseError
        Where the database has no such embeddings.
    """
    card = head.card
    encoder, weights, preparation = input_source(store, card.modality, card.config.inputs)
    if card.config.inputs == "pixels":
        if preparation != card.preparation:
            raise ProvenanceError(
                f"head {card.name} reads spectra prepared with {card.preparation}, the database holds {preparation}"
            )
    elif weights != card.weight_hash:
        raise ProvenanceError(
            f"head {card.name} reads embeddings by {card.encoder} with weights {card.weight_hash[:16]}, the database holds "
            f"those of {encoder} with {weights[:16]}; train a head on these"
        )


def input_source(store: Store, modality: str, inputs: str) -> tuple[str, str, dict[str, Any]]:
    """Return encoder, weight hash and preparation of a kind of input; what does not matter for it is empty."""
    part = input_parts(store, modality, inputs, store.default_encoder)[0]
    record = store.provenance(part)
    if inputs == "pixels":
        return "", "", {k: record[k] for k in ("preparation", "preparation_version") if k in record}
    return record["encoder"], record["weight_hash"], {}


def _modality_of(store: Store, labels: pa.Table) -> str:
    if "spectrum_id" not in labels.column_names:
        raise InputError(f"the labels have the columns {', '.join(labels.column_names)}; one must be spectrum_id")
    wanted = labels["spectrum_id"].drop_null().cast(pa.int64()).to_numpy()
    hits = {m: int(np.isin(store.ids(m), wanted).sum()) for m in store.modalities()}
    if not hits:
        raise DatabaseError(f"{store.root} holds no spectra yet; fill it with `specdb build-index`")
    best = max(hits, key=lambda m: hits[m])
    if not hits[best]:
        raise InputError(f"none of the {len(wanted)} labelled ids is a spectrum of the database")
    return best
