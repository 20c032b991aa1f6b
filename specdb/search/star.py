"""Everything to look at about one spectrum: it, its neighbours, and what other instruments should and did see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from specdb.errors import InputError, QueryError, SpecdbError
from specdb.plots.spectra import Curve, card_figure
from specdb.search.asked import modality_of
from specdb.search.hits import Hits
from specdb.search.partners import partners_of
from specdb.search.query import Query, parse_question
from specdb.spectra import Quality, get_modality
from specdb.store import matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from specdb.database import Database
    from specdb.search.translated import Translation

__all__ = ["FLUX_LABELS", "StarView", "card", "curves_of", "star_view"]

#: Observed spectra of the same star that are shown beside a translation.
_PARTNERS = 3

#: What prepared fluxes are relative to.
FLUX_LABELS = {"gaia_xp": "flux / flux at 5500 Å"} | dict.fromkeys(("lamost_lrs", "sdss", "desi"), "flux / continuum")


@dataclass(frozen=True)
class StarView:
    """One spectrum and its company.

    Attributes
    ----------
    name : str
        Its id, or the name of its file.
    modality : str
    spectrum_id : int or None
        None where it is not in the database.
    curve : Curve
        Prepared flux, errors, repaired pixels.
    facts : dict
        Metadata that is known.
    hits : dict of str to Hits
        Nearest spectra by modality, with flux and ivar.
    translations : dict of str to Translation
        Predicted spectra by modality.
    observed : dict of str to list of Curve
        The same star as other modalities saw it, where `pairs` knows it.
    problems : dict of str to str
        What could not be made, and why.
    """

    name: str
    modality: str
    spectrum_id: int | None
    curve: Curve
    facts: dict[str, Any]
    hits: dict[str, Hits] = field(default_factory=dict)
    translations: dict[str, Translation] = field(default_factory=dict)
    observed: dict[str, list[Curve]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def neighbours(self, modality: str) -> list[Curve]:
        """Return the hits of a modality as curves, best first."""
        if modality not in self.hits:
            return []
        rows = self.hits[modality].rows
        names = [f"{i} ({s:.4f})" for i, s in zip(rows["spectrum_id"].to_pylist(), rows["score"].to_pylist(), strict=True)]
        return curves_of(rows, modality, names)


def curves_of(rows: pa.Table, modality: str, names: Sequence[str] | None = None) -> list[Curve]:
    """Turn rows with flux and ivar into curves.

    Parameters
    ----------
    rows : pyarrow.Table
        As `Database.spectra` and ``search(..., with_spectra=True)`` give them.
    modality : str
    names : sequence of str, optional
        By default the ids.
    """
    if rows.num_rows == 0:
        return []
    wavelength = get_modality(modality).wavelength
    labels = names or [str(i) for i in rows["spectrum_id"].to_pylist()]
    known = rows["quality"].to_numpy() & int(Quality.NO_ERRORS) == 0
    triples = zip(labels, matrix(rows["flux"]), matrix(rows["ivar"]), known.tolist(), strict=True)
    return [_curve(name, wavelength, flux, ivar, errors) for name, flux, ivar, errors in triples]


def _curve(name: str, wavelength: np.ndarray, flux: np.ndarray, ivar: np.ndarray, errors: bool) -> Curve:
    """Make a curve; a pixel without weight was filled in, unless the file had no errors at all."""
    good = ivar > 0
    sigma = np.where(good, 1 / np.sqrt(np.where(good, ivar, 1)), np.nan)
    return Curve(name, wavelength, flux, sigma, ~good if errors else np.zeros(len(flux), bool))


def star_view(
    db: Database,
    query: Query,
    *,
    modality: str | None = None,
    k: int = 5,
    where: str | None = None,
    exclude_star: bool = False,
    translate: bool = True,
) -> StarView:
    """Gather a spectrum, its neighbours in all modalities, and its translations.

    What needs an index, another modality or a decoder that is not there is left out and named in `problems`.

    Parameters
    ----------
    db : Database
    query : int, str, Path or Spectra
        See `Database.search`.
    modality : str, optional
        Of the query where it is not clear.
    k : int
        Neighbours per modality.
    where : str, optional
        Condition on the neighbours.
    exclude_star : bool
        Leave out the star's other spectra.
    translate : bool

    Raises
    ------
    QueryError
        For a query that makes no sense, or a spectrum that the preparation declines.
    """
    question = parse_question(query, [modality] if modality else db.modalities, foreign=modality is None)
    shown: Query
    if question.spectrum_id is not None:
        modality = modality or modality_of(db, question.spectrum_id)
        row = db.spectra([question.spectrum_id], modality)
        curve = curves_of(row, modality)[0]
        facts = row.drop_columns(["flux", "ivar"]).to_pylist()[0]
        shown = question.spectrum_id
    else:
        spectra, modality = question.spectra, question.modality or modality
        if spectra is None or modality is None:
            raise QueryError(f"say of which modality the spectrum is: {', '.join(db.modalities)}")
        known = get_modality(modality)
        prepared = known.preparation([spectra])
        if prepared.rejections:
            first = prepared.rejections[0]
            raise QueryError(f"the spectrum cannot be used: {first.reason}: {first.detail}")
        errors = not int(prepared.quality[0]) & Quality.NO_ERRORS
        curve = _curve(question.name, known.wavelength, prepared.flux[0], prepared.ivar[0], errors)
        facts = spectra.metadata.to_pylist()[0] if spectra.metadata.num_rows else {}
        facts |= {"snr": float(prepared.snr[0]), "n_repaired": int(prepared.n_repaired[0])}
        shown = spectra
    view = StarView(
        Path(question.name).name, modality, question.spectrum_id, curve, {k: v for k, v in facts.items() if v is not None}
    )
    for other in sorted(db.modalities, key=lambda name: name != modality):
        try:
            found = db.search(
                shown,
                k=k,
                to=other,
                modality=modality,
                where=where,
                exclude="star" if exclude_star else "row",
                with_spectra=True,
            )
            assert isinstance(found, Hits)
            view.hits[other] = found
        except SpecdbError as error:
            view.problems[f"neighbours in {other}"] = str(error)
        if other != modality and question.spectrum_id is not None:
            partners = [p.spectrum_id for p in partners_of(db, modality, question.spectrum_id, other)][:_PARTNERS]
            if partners:
                names = [f"{i} observed" for i in partners]
                view.observed[other] = curves_of(db.spectra(partners, other), other, names)
        if translate and _translates(modality, other):
            try:
                # Relative fluxes are what the neighbours have, whatever the star's magnitude.
                scale = 1.0 if other == "gaia_xp" else None
                view.translations[other] = db.translate(shown, other, modality=modality, flux_550=scale)
            except SpecdbError as error:
                view.problems[f"translation to {other}"] = str(error)
    return view


def _translates(modality: str, other: str) -> bool:
    """Whether encoders can predict the other modality: not one that they read as this one, or as a third."""
    return not get_modality(other).encoded_as and (get_modality(modality).encoded_as or modality) != other


def card(view: StarView) -> Figure:
    """Draw the card of a spectrum: its neighbours, and for other modalities the translation with the neighbours there.

    Raises
    ------
    InputError
        Where there is nothing to put beside the spectrum.
    """
    panels: list[tuple[Curve, Sequence[Curve], str, str]] = []
    for modality in view.hits:
        label = FLUX_LABELS.get(modality, "flux")
        title = get_modality(modality).title
        if modality == view.modality:
            panels.append((view.curve, view.neighbours(modality), label, f"{title}: nearest neighbours (cosine)"))
        elif modality in view.translations:
            found = view.translations[modality]
            predicted = Curve("translated", found.wavelength, found.flux[0], found.sigma[0])
            seen = view.observed.get(modality, [])
            beside = [*seen, *view.neighbours(modality)[: max(1, 4 - len(seen))]] if seen else view.neighbours(modality)
            what = (
                "translation, the star itself, and nearest spectra there"
                if seen
                else "translation, and nearest spectra there"
            )
            panels.append((predicted, beside, label, f"{title}: {what}"))
    if not panels:
        raise InputError("; ".join(f"{what}: {why}" for what, why in view.problems.items()) or "the database is empty")
    wanted = ("object_name", "ra", "dec", "class", "subclass", "snr", "z")
    facts = [f"{n} {v:.5g}" if isinstance(v, float) else f"{n} {v}" for n in wanted if (v := view.facts.get(n)) is not None]
    return card_figure(panels, f"{view.name} ({get_modality(view.modality).title})", [", ".join(facts)])
