"""Translation: what one modality would show of a star that another one observed, with errors.

Two methods. ``decoder`` lets the encoder's cross-modal decoder predict the spectrum from the shared embedding; its error is
the calibrated `specdb.search.error_model`. ``neighbours`` takes the mean of the nearest spectra of the target modality in
the database, and their scatter: the baseline, and the only method for encoders without decoders.

Predicting a spectrum's own modality is reconstruction, which hides nothing from the model and so says nothing about another
instrument; it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from specdb.encoders import Encoder, encoder_folder
from specdb.encoders.clip import ClipModel
from specdb.errors import InputError, QueryError
from specdb.search.asked import modality_of
from specdb.search.error_model import ErrorModel, decode, load_error_models
from specdb.search.flux_scale import scale_from_metadata, user_scale
from specdb.search.query import Query, parse_question
from specdb.search.translated import LRS_RELATIVE, XP_RELATIVE, Translation, translation_rows
from specdb.spectra import Spectra, get_modality
from specdb.store import matrix

if TYPE_CHECKING:
    from specdb.database import Database

__all__ = ["METHODS", "Method", "Observed", "Translation", "by_decoder", "by_neighbours", "gather", "translate"]

Method = Literal["decoder", "neighbours"]
METHODS = ("decoder", "neighbours")

#: Thinned decoders of an encoder that has not been calibrated, and the share of units each lacks.
_UNCALIBRATED = (16, 0.1)
_Z95 = 1.959964


@dataclass(frozen=True)
class Observed:
    """Prepared spectra of one modality that are to be translated.

    Attributes
    ----------
    modality : str
    flux : ndarray (m, n_grid), float32
    snr : ndarray (m,), float32
        Median S/N per pixel; NaN without errors.
    names : list of str
        For people: ids, file names.
    ids : ndarray (m,), int64
        spectrum_id; -1 where it has none.
    metadata : list of dict
        What the survey says of each; may be empty dictionaries.
    """

    modality: str
    flux: np.ndarray
    snr: np.ndarray
    names: list[str]
    ids: np.ndarray
    metadata: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.flux)


def translate(
    db: Database,
    query: Query | Sequence[Query],
    to: str,
    *,
    modality: str | None = None,
    method: Method = "decoder",
    k: int = 10,
    g_mag: float | Sequence[float] | None = None,
    flux_550: float | Sequence[float] | None = None,
) -> Translation:
    """Predict spectra of another modality; see `specdb.database.Database.translate`."""
    target = get_modality(to)
    if method not in METHODS:
        raise QueryError(f"method {method!r} is unknown; choose {' or '.join(METHODS)}")
    if to != "gaia_xp" and (g_mag is not None or flux_550 is not None):
        raise QueryError(f"{to} has no absolute scale to set: its flux is relative to the continuum; leave G and flux away")
    observed = gather(db, query, to, modality)
    if method == "decoder":
        errors = load_error_models(encoder_folder(db.store.encoder_location), db.encoder.weight_hash)
        result = by_decoder(db.encoder, observed, to, errors.get(to), db.device)
    else:
        if to not in db.modalities:
            has = ", ".join(db.modalities) or "none"
            raise QueryError(f"there are no {to} spectra to take neighbours from; the database has {has}")
        if k < 1:
            raise QueryError(f"k is {k}; take at least one neighbour")
        vectors = db.encoder.encode(observed.flux, observed.modality, device=db.device)["shared"]
        scores, ids = db.index(to).search(vectors, k, source=observed.modality)
        distinct, place = np.unique(ids, return_inverse=True)
        bank = matrix(db.spectra(distinct, to)["flux"])
        result = by_neighbours(db.encoder, observed, to, bank[place.reshape(ids.shape)], scores)
    if target.name != "gaia_xp":
        return result
    given = user_scale(result.flux, g_mag, flux_550)
    return result.scaled(*(given or scale_from_metadata(result.flux, observed.metadata)))


def gather(db: Database, query: Query | Sequence[Query], to: str, modality: str | None = None) -> Observed:
    """Read and prepare what is to be translated: ids of the database, files, or arrays; one, or a sequence of them.

    Raises
    ------
    QueryError
        For an empty sequence, spectra of several modalities or of the target's own, and what a preparation declines.
    """
    single = isinstance(query, str | Path | int | np.integer | Spectra)
    queries: list[Query] = [query] if single else list(query)  # type: ignore[list-item, arg-type]
    if not queries:
        raise QueryError("there is nothing to translate: the list of queries is empty")
    known = list(db.encoder.served)
    others = [name for name in known if name != to]
    usual = [name for name in db.encoder.modalities if name != to]  # arrays that say nothing are of what it was trained on
    parts: list[Observed] = []
    ids: list[int] = []

    def flush() -> None:
        if ids:
            parts.append(_stored(db, np.array(ids, np.int64), modality))
            ids.clear()

    for item in queries:
        if isinstance(item, Spectra):
            flush()
            of = modality or (usual[0] if len(usual) == 1 else None)
            if of is None:
                raise QueryError(f"say of which modality the spectra are: {', '.join(known)}")
            parts.append(_prepared(item, of, [f"spectrum {i} of the arrays" for i in range(len(item))]))
            continue
        question = parse_question(item, [modality] if modality else [*others, *(m for m in known if m == to)])
        if question.spectrum_id is not None:
            ids.append(question.spectrum_id)
            continue
        flush()
        assert question.spectra is not None
        assert question.modality is not None
        parts.append(_prepared(question.spectra, question.modality, [question.name]))
    flush()
    found = {part.modality for part in parts}
    if len(found) > 1:
        raise QueryError(f"the queries are of {' and '.join(sorted(found))}; translate one modality at a time")
    if found == {to}:
        raise QueryError(
            f"{parts[0].names[0]} is a {to} spectrum already; translation predicts another modality: "
            f"--to {' or '.join(name for name in db.encoder.modalities if name != to) or 'another one'}"
        )
    return Observed(
        parts[0].modality,
        np.concatenate([p.flux for p in parts]),
        np.concatenate([p.snr for p in parts]),
        [name for p in parts for name in p.names],
        np.concatenate([p.ids for p in parts]),
        [row for p in parts for row in p.metadata],
    )


def _stored(db: Database, ids: np.ndarray, modality: str | None) -> Observed:
    modality = modality or modality_of(db, int(ids[0]))
    table = db.spectra(ids, modality)
    metadata = table.drop_columns(["flux", "ivar"]).to_pylist()
    return Observed(modality, matrix(table["flux"]), table["snr"].to_numpy(), [str(i) for i in ids], ids, metadata)


def _prepared(spectra: Spectra, modality: str, names: list[str]) -> Observed:
    prepared = get_modality(modality).preparation([spectra])
    if prepared.rejections:
        first = prepared.rejections[0]
        raise QueryError(f"{names[first.row]} cannot be translated: {first.reason}: {first.detail}")
    rows: list[dict[str, Any]] = spectra.metadata.to_pylist() or [{} for _ in names]
    ids = np.array([-1 if row.get("spectrum_id") is None else row["spectrum_id"] for row in rows], np.int64)
    return Observed(modality, prepared.flux, prepared.snr, names, ids, rows)


def by_decoder(encoder: Encoder, observed: Observed, to: str, errors: ErrorModel | None, device: str = "cpu") -> Translation:
    """Predict with the encoder's cross-modal decoder.

    Raises
    ------
    InputError
        When the encoder has no such decoder.
    """
    _require_both(encoder, observed.modality, to)
    model = encoder.model
    if not isinstance(model, ClipModel) or not model.config.predicts:
        variant = getattr(model.config, "variant", model.config.architecture)
        raise InputError(
            f"encoder {encoder.name} ({variant}) has no cross-modal decoders, so it predicts no spectra; take the method "
            "neighbours, or an encoder of variant p, pr or split"
        )
    shared = encoder.encode(observed.flux, observed.modality, device=device, normalise=False)["shared"]
    members, dropout = (errors.members, errors.dropout) if errors else _UNCALIBRATED
    predicted = decode(model.get_submodule(f"{to}_cross_decoder"), shared, members, dropout)
    if errors:
        sigma, half_95 = errors.half_widths(shared, observed.snr, predicted.spread)
        notes = {"coverage": errors.facts.get("coverage", {}), "calibration": errors.facts.get("origin", "")}
    else:
        sigma, half_95, notes = predicted.spread, _Z95 * predicted.spread, {}
    return _translation(observed, to, (predicted.flux, sigma, half_95), "decoder", encoder, bool(errors), notes)


def by_neighbours(encoder: Encoder, observed: Observed, to: str, bank: np.ndarray, cosine: np.ndarray) -> Translation:
    """Predict by the weighted mean of the nearest spectra of the target modality.

    A neighbour's weight is exp(15.5 cosine), as in the softmax of the contrastive loss; the error is the weighted scatter,
    widened for the small number: by sqrt(1 + 1 / n) with n the effective number of neighbours.

    Parameters
    ----------
    encoder : Encoder
    observed : Observed
    to : str
    bank : ndarray (m, k, n_grid), float32
        Prepared spectra of the neighbours.
    cosine : ndarray (m, k)
        Their similarities.
    """
    _require_both(encoder, observed.modality, to)
    multiplier = getattr(encoder.model.config, "logit_multiplier", 15.5)
    weight = np.exp(multiplier * (cosine - cosine.max(axis=1, keepdims=True)))
    weight = (weight / weight.sum(axis=1, keepdims=True))[..., None]  # (m, k, 1)
    flux = (weight * bank).sum(axis=1)
    effective = 1 / (weight**2).sum(axis=1)  # (m, 1)
    unbiased = effective / np.maximum(effective - 1, 1e-3)
    variance = (weight * (bank - flux[:, None]) ** 2).sum(axis=1) * unbiased * (1 + 1 / effective)
    sigma = np.sqrt(variance) if bank.shape[1] > 1 else np.full_like(flux, np.nan)
    notes = {"neighbours": int(bank.shape[1])}
    return _translation(observed, to, (flux, sigma, _Z95 * sigma), "neighbours", encoder, False, notes)


def _require_both(encoder: Encoder, source: str, to: str) -> None:
    for name, known in ((source, encoder.served), (to, encoder.modalities)):
        if name not in known:
            raise InputError(
                f"encoder {encoder.name} knows no {name}, only {', '.join(known)}; translation needs one that aligns both "
                "modalities"
            )
    if encoder.input_of(source) == to:
        raise InputError(
            f"{source} spectra are read as {to} ones by encoder {encoder.name}, which therefore does not translate one into "
            "the other; name another modality"
        )


def _translation(
    observed: Observed,
    to: str,
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
    method: str,
    encoder: Encoder,
    calibrated: bool,
    notes: dict[str, Any],
) -> Translation:
    flux, sigma, half_95 = (a.astype(np.float32) for a in arrays)
    wavelength, unit = get_modality(to).wavelength, XP_RELATIVE if to == "gaia_xp" else LRS_RELATIVE
    return Translation(
        translation_rows(wavelength, flux, sigma, half_95, unit, observed.names, observed.ids),
        modality=to,
        source=observed.modality,
        wavelength=wavelength,
        flux=flux,
        sigma=sigma,
        half_95=half_95,
        unit=unit,
        names=observed.names,
        ids=observed.ids,
        method=method,
        encoder=encoder.name,
        calibrated=calibrated,
        notes=notes,
    )
