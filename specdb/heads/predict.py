"""Predictions of a head for every spectrum of a survey: Parquet in, Parquet out, part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from specdb.heads.card import Prediction
from specdb.heads.config import Flag
from specdb.heads.head import Head
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


def prediction_table(head: Head, ids: np.ndarray, prediction: Prediction, quantiles: Sequence[float] = ()) -> pa.Table:
    """Return predictions as rows: ``spectrum_id``, each label with ``<label>_sigma``, ``flags``, ``distance``.

    Quantiles that were asked for are columns such as ``<label>_q16``.
    """
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
        for level, values in zip(quantiles, prediction.quantiles[:, i].T, strict=True):
            about = {"description": f"{level:.4g} quantile of {facts.name}"}
            fields.append(pa.field(f"{facts.name}_q{level * 100:g}".replace(".", "_"), pa.float32(), metadata=about | unit))
            columns.append(pa.array(values.astype(np.float32), from_pandas=True))
    flags = ", ".join(f"{flag.value}: {flag.name.lower()}" for flag in Flag if flag.name)
    fields += [
        pa.field("flags", pa.int32(), metadata={"description": f"bits: {flags}"}),
        pa.field("distance", pa.float32(), metadata={"description": "from the training cloud; above 1 is outside"}),
    ]
    columns += [pa.array(prediction.flags), pa.array(prediction.distance)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def predict_survey(
    store: Store,
    head: Head,
    *,
    quantiles: Sequence[float] = (),
    start: Callable[[int], None] | None = None,
    advance: Callable[[int], None] | None = None,
) -> PredictReport:
    """Predict labels for all spectra of the head's modality and store them under ``predictions/<head>/<modality>/``.

    Parts that this very head has predicted are kept, so that a run that was killed goes on, and new spectra cost only
    themselves. While one part is predicted the next is read and the one before is written.

    Parameters
    ----------
    store : Store
    head : Head
    quantiles : sequence of float
        Levels that get columns of their own, besides value and sigma.
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
    made: dict[str, Any] = {"kind": "predictions", "head": card.name, "head_sha256": weights, "modality": card.modality}
    made |= {"quantiles": list(quantiles)} if quantiles else {}
    flagged = dict.fromkeys((flag.name or "" for flag in Flag), 0)
    advance = advance or (lambda n: None)
    with store.writing() as writer:
        files, folder = store.manifest().files, f"predictions/{card.name}/{card.modality}"
        todo: list[tuple[str, str, dict[str, Any]]] = []
        parts = input_parts(store, card.modality, card.config.inputs, store.default_encoder)
        if start is not None:
            start(sum(files[part].rows for part in parts))
        for part in parts:
            name, record = f"{folder}/{part.rsplit('/', 1)[1]}", made | {"source_sha256": files[part].sha256}
            if name in files and _same(store.provenance(name), record):
                advance(files[part].rows)
            else:
                todo.append((part, name, record))
        with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
            coming = [reading.submit(read_part, store, part, card.config.inputs) for part, _, _ in todo[:1]]
            going: list[Future[int]] = []
            for number, (_, name, record) in enumerate(todo):
                piece = coming.pop().result()
                coming += [
                    reading.submit(read_part, store, p, card.config.inputs) for p, _, _ in todo[number + 1 : number + 2]
                ]
                prediction = head.predict(piece.x, quantiles)
                for flag in Flag:
                    flagged[flag.name or ""] += int((prediction.flags & flag.value > 0).sum())
                for done in going:
                    advance(done.result())
                going = [writing.submit(writer.put, name, prediction_table(head, piece.ids, prediction, quantiles), record)]
            for done in going:
                advance(done.result())
    predicted = sum(files[part].rows for part, _, _ in todo)
    return PredictReport(predicted, sum(files[part].rows for part in parts) - predicted, flagged)


def _same(stored: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether a stored part was made by this head, of this source, with these quantiles."""
    return all(stored.get(key) == record.get(key) for key in {*record, "quantiles"})
