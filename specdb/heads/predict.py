"""Predictions of a head for every spectrum of a survey: Parquet in, Parquet out, part by part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from specdb.heads.config import Flag
from specdb.heads.head import Head, Prediction
from specdb.heads.inputs import input_parts, read_part
from specdb.heads.train import check_source, head_folder
from specdb.store import Store
from specdb.store.files import sha256_file

__all__ = ["PredictReport", "predict_survey", "prediction_table"]


@dataclass(frozen=True)
class PredictReport:
    """What `predict_survey` did.

    Attributes
    ----------
    predicted, kept : int
        Spectra predicted now, and found predicted already.
    flagged : dict
        Name of a `Flag` -> spectra that have it, of those predicted now.
    """

    predicted: int
    kept: int
    flagged: dict[str, int]


def prediction_table(head: Head, ids: np.ndarray, prediction: Prediction) -> pa.Table:
    """Return predictions as rows: ``spectrum_id``, each label with ``<label>_sigma``, ``flags``, ``distance``."""
    fields = [pa.field("spectrum_id", pa.int64())]
    columns = [pa.array(ids, pa.int64())]
    for i, facts in enumerate(head.card.labels):
        note = {"description": f"{facts.description or facts.name} predicted by {head.card.name}"}
        unit = {"unit": facts.unit} if facts.unit else {}
        error = {"description": f"uncertainty of {facts.name}: 68 % of stars lie within one sigma"}
        fields += [
            pa.field(facts.name, pa.float32(), metadata=note | unit),
            pa.field(f"{facts.name}_sigma", pa.float32(), metadata=error | unit),
        ]
        columns += [pa.array(v[:, i].astype(np.float32), from_pandas=True) for v in (prediction.mean, prediction.sigma)]
    flags = ", ".join(f"{flag.value}: {flag.name.lower()}" for flag in Flag if flag.name)
    fields += [
        pa.field("flags", pa.int32(), metadata={"description": f"bits: {flags}"}),
        pa.field("distance", pa.float32(), metadata={"description": "from the training cloud; above 1 is outside"}),
    ]
    columns += [pa.array(prediction.flags), pa.array(prediction.distance)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def predict_survey(
    store: Store, head: Head, *, start: Callable[[int], None] | None = None, advance: Callable[[int], None] | None = None
) -> PredictReport:
    """Predict labels for all spectra of the head's modality and store them under ``predictions/<head>/<modality>/``.

    Parts that this very head has predicted are kept, so that a run that was killed goes on, and new spectra cost only
    themselves.

    Parameters
    ----------
    store : Store
    head : Head
    start, advance : callable, optional
        Receive the number of spectra in all, and of each part when it is done.

    Raises
    ------
    ProvenanceError
        For a head of another encoder, by weight hash, or of another preparation.
    """
    check_source(store, head)
    card = head.card
    weights = sha256_file(head_folder(store, card.name) / "head.safetensors")
    provenance = {"kind": "predictions", "head": card.name, "head_sha256": weights, "modality": card.modality}
    parts = input_parts(store, card.modality, card.config.inputs, store.default_encoder)
    predicted = kept = 0
    flagged = dict.fromkeys((flag.name or "" for flag in Flag), 0)
    with store.writing() as writer:
        manifest = store.manifest()
        if start is not None:
            start(sum(manifest.files[part].rows for part in parts))
        for part in parts:
            name = f"predictions/{card.name}/{card.modality}/{part.rsplit('/', 1)[1]}"
            source = manifest.files[part].sha256
            wanted = provenance | {"source_sha256": source}
            rows = manifest.files[part].rows
            if name in manifest.files and wanted.items() <= store.provenance(name).items():
                kept += rows
            else:
                piece = read_part(store, part, card.config.inputs)
                prediction = head.predict(piece.x)
                writer.put(name, prediction_table(head, piece.ids, prediction), wanted)
                predicted += rows
                for flag in Flag:
                    flagged[flag.name or ""] += int((prediction.flags & flag.value > 0).sum())
            if advance is not None:
                advance(rows)
    return PredictReport(predicted, kept, flagged)
