"""What a head predicts against what a catalogue says."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from specdb.anomaly.scores.score import FittedScore, Unavailable
from specdb.catalog.selection import select_values
from specdb.store import read_schema, read_table

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["CatalogueDisagreement", "values_of"]


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
        tables = (read_table(store.root / name) for name in store.tables("predictions"))
        predictions = [table for table in tables if "spectrum_id" in table.column_names]
        if not predictions:
            raise Unavailable("there are no predictions; `specdb heads predict` makes them")
        largest = np.full(len(survey), np.nan)
        place = np.argsort(survey.ids)
        for predicted in predictions:
            for name in store.tables("labels"):
                both = set(predicted.column_names) & set(read_schema(store.root / name).names)
                for label in sorted(n for n in both if f"{n}_sigma" in predicted.column_names):
                    # Only SQL knows which spectra the rows of a catalogue have been matched to.
                    value = {label: f'CAST("{PurePath(name).stem}"."{label}" AS DOUBLE)'}
                    catalogue = select_values(store, survey.modality, value)
                    found = values_of(predicted, label, survey.ids, place)
                    sigma = values_of(predicted, f"{label}_sigma", survey.ids, place)
                    known = values_of(catalogue.drop_null(), label, survey.ids, place)
                    with np.errstate(divide="ignore", invalid="ignore"):
                        largest = np.fmax(largest, np.abs(found - known) / sigma)
        if not np.isfinite(largest).any():
            raise Unavailable("no spectrum has both a prediction with its sigma and a catalogue's value of the same label")

        def score(block: Block) -> np.ndarray:
            return largest[block.rows]

        return score


def values_of(table: pa.Table, name: str, ids: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return a column in the order of `ids`, NaN where the table has no row."""
    own = table["spectrum_id"].to_numpy()
    at = np.minimum(np.searchsorted(ids, own, sorter=place), len(ids) - 1)
    rows = place[at]
    there = ids[rows] == own
    out = np.full(len(ids), np.nan)
    out[rows[there]] = table[name].to_numpy(zero_copy_only=False).astype(np.float64)[there]
    return out
