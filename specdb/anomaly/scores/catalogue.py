"""What a head predicts against what a catalogue says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from specdb.anomaly.scores.score import FittedScore, Unavailable
from specdb.store import read_table

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["CatalogueDisagreement"]


class CatalogueDisagreement:
    """The largest difference between a predicted label and a catalogue's, in sigmas of the prediction.

    Every label with a column in one of the `predictions`, its ``<label>_sigma`` beside it, and a column of the same name in
    one of the `labels` counts.
    """

    name = "catalogue_disagreement"
    title = "its labels are not those that its spectrum predicts"
    needs = ("predictions",)
    votes = True
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Join predictions with catalogues."""
        store = survey.db.store
        predictions, labels = (
            [t for t in (read_table(store.root / name) for name in store.tables(folder)) if "spectrum_id" in t.column_names]
            for folder in ("predictions", "labels")
        )
        if not predictions:
            raise Unavailable("there are no predictions; `specdb heads predict` makes them")
        largest = np.full(len(survey), np.nan)
        place = np.argsort(survey.ids)
        for predicted in predictions:
            for catalogue in labels:
                both = set(predicted.column_names) & set(catalogue.column_names)
                for label in sorted(n for n in both if f"{n}_sigma" in predicted.column_names):
                    found = _column(predicted, label, survey.ids, place)
                    sigma = _column(predicted, f"{label}_sigma", survey.ids, place)
                    known = _column(catalogue, label, survey.ids, place)
                    with np.errstate(divide="ignore", invalid="ignore"):
                        largest = np.fmax(largest, np.abs(found - known) / sigma)
        if not np.isfinite(largest).any():
            raise Unavailable("no spectrum has both a prediction with its sigma and a catalogue's value of the same label")

        def score(block: Block) -> np.ndarray:
            return largest[block.rows]

        return score


def _column(table: pa.Table, name: str, ids: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return a column in the order of `ids`, NaN where the table has no row."""
    own = table["spectrum_id"].to_numpy()
    at = np.minimum(np.searchsorted(ids, own, sorter=place), len(ids) - 1)
    rows = place[at]
    there = ids[rows] == own
    out = np.full(len(ids), np.nan)
    out[rows[there]] = table[name].to_numpy(zero_copy_only=False).astype(np.float64)[there]
    return out
