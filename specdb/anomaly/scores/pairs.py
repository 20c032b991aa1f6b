"""The same star in two modalities: do its embeddings agree, and is one spectrum what the other one predicts?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specdb.anomaly.scores.score import FittedScore, Unavailable, loaded_encoder
from specdb.errors import DatabaseError, SpecdbError
from specdb.store import read_table

if TYPE_CHECKING:
    from specdb.anomaly.survey import Block, Survey

__all__ = ["PairDisagreement", "Partners", "TranslationResidual"]


@dataclass(frozen=True)
class Partners:
    """Who belongs to whom.

    Attributes
    ----------
    modality : str
        Of the partners.
    of : dict of int to int
        spectrum_id of a partner by spectrum_id.
    """

    modality: str
    of: dict[int, int]

    @classmethod
    def find(cls, survey: Survey) -> Partners:
        """Read the pairs of a database: tables in ``pairs/``, else the spectra's own Gaia source_id.

        Raises
        ------
        Unavailable
            Where there are none, or no second modality.
        """
        db, own = survey.db, survey.modality
        others = [name for name in db.modalities if name != own]
        if not others:
            raise Unavailable(f"the database has no modality but {own}")
        for other in others:
            known = set(db.store.ids(other).tolist())
            for name in db.store.tables("pairs"):
                table = read_table(db.store.root / name)
                if {own, other} <= set(table.column_names):
                    couples = zip(table[own].to_pylist(), table[other].to_pylist(), strict=True)
                    if of := {a: b for a, b in couples if b in known}:
                        return cls(other, of)
            if other == "gaia_xp":
                sources = survey.metadata["gaia_source_id"].to_pylist()
                if of := {a: b for a, b in zip(survey.ids.tolist(), sources, strict=True) if b in known}:
                    return cls(other, of)
        raise Unavailable("no spectrum has a partner; `specdb crossmatch` finds pairs")

    def rows(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of a block that have a partner, and the partners' spectrum_ids."""
        couples = [(row, self.of[i]) for row, i in enumerate(block.ids.tolist()) if i in self.of]
        return tuple(np.array(couples, np.int64).reshape(-1, 2).T)  # type: ignore[return-value]


class PairDisagreement:
    """One minus the cosine of the two modalities' embeddings of one star."""

    name = "pair_disagreement"
    title = "its partner in the other survey looks like another star"
    needs = ("embedding", "pairs")
    votes = True
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Find the partners; the encoder must have both modalities in one space."""
        partners = Partners.find(survey)
        encoder = loaded_encoder(survey)
        if partners.modality not in encoder.modalities:
            raise Unavailable(f"encoder {encoder.name} does not encode {partners.modality}")
        try:
            index = survey.db.index(partners.modality)
        except DatabaseError as error:
            raise Unavailable(f"the index of {partners.modality} cannot be used: {error}") from error

        def score(block: Block) -> np.ndarray:
            out = np.full(len(block.ids), np.nan)
            rows, ids = partners.rows(block)
            if len(rows):
                cosine = (block.spectra.vectors[rows] * index.vectors(ids)).sum(axis=1, dtype=np.float64)
                out[rows] = np.maximum(1 - cosine, 1e-9)
            return out

        return score


class TranslationResidual:
    """Chi-squared of the spectrum against what the encoder predicts from the partner's, with the prediction's errors."""

    name = "translation_residual"
    title = "it is not what the spectrum of the other survey predicts"
    needs = ("spectra", "pairs", "decoder")
    votes = True
    replaces = ()

    def fit(self, survey: Survey) -> FittedScore:
        """Find the partners and load the decoder."""
        from specdb.encoders import encoder_folder
        from specdb.search.error_model import load_error_models
        from specdb.search.translation import by_decoder, gather

        db, target = survey.db, survey.modality
        partners, encoder = Partners.find(survey), loaded_encoder(survey)
        if not {partners.modality, target} <= set(encoder.modalities):
            raise Unavailable(f"encoder {encoder.name} does not encode both {partners.modality} and {target}")
        if not getattr(encoder.model.config, "predicts", False):
            raise Unavailable(f"encoder {encoder.name} has no decoder that predicts {target}")
        try:
            errors = load_error_models(encoder_folder(db.store.encoder_location), encoder.weight_hash).get(target)
        except SpecdbError as error:
            raise Unavailable(str(error)) from error

        def score(block: Block) -> np.ndarray:
            out = np.full(len(block.ids), np.nan)
            rows, ids = partners.rows(block)
            if len(rows):
                observed = gather(db, ids.tolist(), target, partners.modality)
                predicted = by_decoder(encoder, observed, target, errors, db.device)
                ivar = block.spectra.ivar[rows]
                with np.errstate(divide="ignore"):
                    variance = predicted.sigma**2 + np.where(ivar > 0, 1 / ivar, 0)
                usable = (ivar > 0) | ~(ivar > 0).any(axis=1, keepdims=True)
                squares = (block.spectra.flux[rows] - predicted.flux) ** 2 / np.maximum(variance, 1e-12)
                # The median of the squares: a few lines belong to `feature`, this one is about the whole.
                out[rows] = np.nanmedian(np.where(usable, squares, np.nan), axis=1)
            return out

        return score
