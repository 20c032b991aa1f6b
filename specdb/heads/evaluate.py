"""How good a head is on stars whose labels it has not seen, and whether its uncertainties are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from specdb.errors import InputError
from specdb.heads.diagnose import PosteriorChecks, card_checks, check_head
from specdb.heads.head import Head
from specdb.heads.inputs import Observed, gather_labelled
from specdb.heads.measures import binned_figures, label_figures
from specdb.heads.train import check_source
from specdb.spectra.stars import star_groups
from specdb.store import Store

__all__ = ["HeadEvaluation", "evaluate_head"]

#: What figures are split by: S/N of the prepared spectrum, and labels where there are any.
_SNR = np.array([0, 20, 50, 100, np.inf])
_TEFF = np.array([0, 5000, 6000, 7000, np.inf])
_FEH = np.array([-np.inf, -1.0, np.inf])


@dataclass(frozen=True)
class HeadEvaluation:
    """Predictions beside catalogue labels, and their figures.

    Attributes
    ----------
    head : str
    what : str
        Which stars these are.
    labels : tuple of str
    ids : ndarray (n,), int64
    truth, mean, sigma : ndarray (n, L)
    snr : ndarray (n,)
    pit : ndarray (n, L)
        Share of each predicted distribution that lies below the truth.
    posterior : PosteriorChecks, optional
        Of a head that holds a joint posterior.
    """

    head: str
    what: str
    labels: tuple[str, ...]
    ids: np.ndarray
    truth: np.ndarray
    mean: np.ndarray
    sigma: np.ndarray
    snr: np.ndarray
    pit: np.ndarray
    posterior: PosteriorChecks | None = None

    def figures(self) -> dict[str, Any]:
        """Return per label the figures of all stars (see `specdb.heads.measures`) and in bins of S/N, Teff and [Fe/H]."""
        by = {"snr": (self.snr, _SNR)}
        for name, edges in (("teff", _TEFF), ("feh", _FEH)):
            if name in self.labels:
                by[name] = (self.truth[:, self.labels.index(name)], edges)
        out: dict[str, Any] = {"head": self.head, "what": self.what, "n": len(self.ids), "labels": {}}
        for i, name in enumerate(self.labels):
            columns = self.truth[:, i], self.mean[:, i], self.sigma[:, i]
            binned = {key: binned_figures(x, edges, *columns) for key, (x, edges) in by.items()}
            out["labels"][name] = label_figures(*columns) | {"by": binned}
        if self.posterior is not None:
            out["posterior"] = self.posterior.to_json()
        return out


def evaluate_head(store: Store, head: Head, labels: pa.Table | None = None) -> HeadEvaluation:
    """Compare a head's predictions with labels that it has not seen.

    Parameters
    ----------
    store : Store
    head : Head
    labels : pyarrow.Table, optional
        ``spectrum_id`` and labels of the head's names. Spectra of stars that the head was trained on are left out. Without
        a table the training stars are judged by predictions of members that had not seen them.

    Raises
    ------
    InputError
        When no star is left, or the table lacks a label of the head.
    ProvenanceError
        For a head of another encoder.
    """
    card = head.card
    check_source(store, head)
    if labels is None:
        t = head.training
        observed = Observed.of(store, card.modality)
        at = observed.rows_of(t.ids)
        here = at >= 0
        snr = observed.snr[at[here]]
        what = "training stars, each predicted by members that had not seen it"
        stars = t.ids[here], t.y[here], t.mean[here], t.sigma[here]
        return HeadEvaluation(card.name, what, head.label_names, *stars, snr, t.pit[here], card_checks(card))
    missing = [name for name in head.label_names if name not in labels.column_names]
    if len(missing) == len(head.label_names):
        raise InputError(f"head {card.name} predicts {', '.join(head.label_names)}; the table has none of them")
    for name in missing:
        labels = labels.append_column(name, pa.nulls(labels.num_rows, pa.float64()))
    data = gather_labelled(
        store,
        labels.select(["spectrum_id", *head.label_names]),
        card.modality,
        card.config.inputs,
        store.default_encoder,
    )
    strangers = ~np.isin(data.ids, _siblings(store, card.modality, head.training.ids))
    if not strangers.any():
        raise InputError(
            f"head {card.name} was trained on all {len(data.ids)} of these stars; give labels of others, evaluate without "
            "a table (out-of-fold predictions), or train with a test fraction"
        )
    data = data.take(strangers)
    prediction = head.predict(data.x)
    what = f"{len(np.unique(data.star))} stars that the head was not trained on"
    found = data.ids, data.y, prediction.mean, prediction.sigma, data.snr, head.pit(data.x, data.y)
    return HeadEvaluation(card.name, what, head.label_names, *found, check_head(head, data.x, data.y))


def _siblings(store: Store, modality: str, ids: np.ndarray) -> np.ndarray:
    """Return the ids of all spectra of the stars that some ids belong to."""
    observed = Observed.of(store, modality)
    star = star_groups(observed.ra, observed.dec)
    return observed.ids[np.isin(star, np.unique(star[np.isin(observed.ids, ids)]))]
