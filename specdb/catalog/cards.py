"""What is stored about a catalogue, and the views that follow from it.

A catalogue's file is never changed after it was added. How its rows belong to spectra is found out when a question is asked,
so that spectra that come later are matched as well: by joining ids in SQL, or by a table of positional matches that is made
anew, in memory, where spectra have come since it was stored.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from specdb.catalog.matches import PositionKey, current_matches, fingerprint
from specdb.catalog.view import Opener, View, opened_ids, opened_parts, quoted, without_deleted
from specdb.store import Store

__all__ = ["ROW", "STEM", "Card", "IdKey", "label_views", "read_cards"]

#: Numbers the rows of a catalogue that is matched by position.
ROW = "catalogue_row"

#: What is taken off a file name before names are compared: folders, archive, and the endings of FITS files.
STEM = r"^.*[/:]|\.fits?(\.gz)?$"


@dataclass(frozen=True)
class IdKey:
    """Rows belong to the spectra whose `on` equals the catalogue's `column`; source files are compared by their stem."""

    column: str
    on: str


@dataclass(frozen=True)
class Card:
    """One catalogue of the database.

    Attributes
    ----------
    name : str
    key : IdKey or PositionKey
    file, sha256 : str
        Where it came from.
    rows : int
        Rows of that file: `stored`, `duplicates` and `far` add up to it.
    stored : int
    duplicates : int
        Rows left out because their key had occurred before.
    without_key : int
        Stored rows that have no key and so match nothing.
    sentinels : dict
        Column -> {value: how many became null}.
    left_out : tuple of str
        Columns that could not be stored.
    complete_for : str
        Fingerprint of the spectra among which every key was found when the catalogue was added; empty where some were not.
    far : int
        Rows left out because no spectrum is near.
    nearby_to : str
        Fingerprint of the spectra that the rows are near to; empty where all rows were taken.
    """

    name: str
    key: IdKey | PositionKey
    file: str
    sha256: str
    rows: int
    stored: int
    duplicates: int
    without_key: int
    sentinels: dict[str, dict[str, int]]
    left_out: tuple[str, ...]
    complete_for: str = ""
    far: int = 0
    nearby_to: str = ""

    @property
    def path(self) -> str:
        """Its file, relative to the database."""
        return f"labels/{self.name}.parquet"

    def provenance(self) -> dict[str, Any]:
        """Return the record for the manifest."""
        kind = "id" if isinstance(self.key, IdKey) else "position"
        return {"kind": "labels", "key_kind": kind} | asdict(self)

    @classmethod
    def read(cls, record: dict[str, Any]) -> Card:
        """Return the card of a record in the manifest."""
        facts = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        key = facts["key"]
        if record["key_kind"] == "id":
            made: IdKey | PositionKey = IdKey(**key)
        else:
            made = PositionKey(**key | {"pm": key["pm"] and tuple(key["pm"])})
        return cls(**facts | {"key": made, "left_out": tuple(facts["left_out"])})


def read_cards(store: Store) -> dict[str, Card]:
    """Return the database's catalogues by name."""
    cards = [Card.read(store.provenance(name)) for name in store.tables("labels")]
    return {card.name: card for card in cards}


def label_views(store: Store) -> list[View]:
    """Return a view per catalogue, keyed by spectrum_id, one of all its rows as they came, and `labels` of everything."""
    cards = read_cards(store)
    views = [without_deleted(store, _matched(store, card), store.modalities()) for card in cards.values()]
    everything = [
        View(
            f"{card.name}_all",
            f"every row of {card.file}, matched or not",
            _source(store, card),
            f"FROM {quoted(card.path)}",
        )
        for card in cards.values()
    ]
    return [*views, *everything, *([_long(store, cards, views)] if views else [])]


def _source(store: Store, card: Card) -> dict[str, Opener]:
    return {card.path: partial(opened_parts, store, [card.path])}


def _matched(store: Store, card: Card) -> View:
    rows, sources = quoted(card.path), _source(store, card)
    about = f"{card.file}, one row per matched spectrum"
    if isinstance(card.key, PositionKey):
        hidden = f"matches/{card.name}"
        sources[hidden] = partial(current_matches, store, card.name, card.key, card.path)
        sql = f"SELECT m.spectrum_id, c.* EXCLUDE ({ROW}), m.separation_arcsec FROM {quoted(hidden)} m JOIN {rows} c "
        sql += f"USING ({ROW})"
        notes = {"separation_arcsec": {"unit": "arcsec", "description": "distance of the catalogue's position"}}
        return View(card.name, about, sources, sql, notes)
    key = quoted(card.key.column)
    others = f"* EXCLUDE ({key})" if card.key.column.lower() == "spectrum_id" else "*"
    if card.key.on == "spectrum_id":
        sql = f"SELECT CAST({key} AS BIGINT) AS spectrum_id, {others} FROM {rows}"
        if card.complete_for == fingerprint(store):  # asking again would cost a join of everything
            return View(card.name, about, sources, f"{sql} WHERE {key} IS NOT NULL")
        sources["spectra/ids"] = partial(_spectrum_ids, store)
        return View(card.name, about, sources, f'{sql} c SEMI JOIN "spectra/ids" s ON s.spectrum_id = c.{key}')
    on, left, right, text = quoted(card.key.on), "s.key", f"c.{key}", False
    for modality in store.modalities():
        parts = store.spectra_parts(modality)
        if parts and card.key.on in (dataset := opened_parts(store, parts)).schema.names:
            sources[f"spectra/{modality}"] = partial(opened_parts, store, parts)
            text = pa.types.is_string(dataset.schema.field(card.key.on).type)
    held = [name for name in sources if name != card.path]
    if not held:
        return View(
            card.name, about, sources, f"SELECT CAST(NULL AS BIGINT) AS spectrum_id, {others} FROM {rows} WHERE false"
        )
    if card.key.on == "source_file":
        left, right = (f"regexp_replace({side}, '{STEM}', '', 'g')" for side in (left, right))
    elif text:
        right = f"CAST({right} AS VARCHAR)"
    keys = " UNION ALL ".join(f"SELECT spectrum_id, {on} AS key FROM {quoted(name)}" for name in held)
    sql = f"SELECT s.spectrum_id, c.{others} FROM ({keys}) s JOIN {rows} c ON {left} = {right}"
    return View(card.name, about, sources, sql)


def _spectrum_ids(store: Store) -> pa.Table:
    parts = [store.spectra_parts(modality) for modality in store.modalities()]
    none = pa.table({"spectrum_id": pa.array([], pa.int64())})
    return pa.concat_tables([none, *(opened_ids(store, one) for one in parts if one)])


def _long(store: Store, cards: dict[str, Card], views: list[View]) -> View:
    """Everything known about a spectrum: one row per catalogue and label, each with its own unit."""
    parts: list[str] = []
    sources: dict[str, Opener] = {}
    for card, view in zip(cards.values(), views, strict=True):
        sources |= view.sources
        entries = []
        for one in opened_parts(store, [card.path]).schema:
            if pa.types.is_nested(one.type) or one.name in (ROW, card.key.column if isinstance(card.key, IdKey) else None):
                continue
            number = pa.types.is_integer(one.type) or pa.types.is_floating(one.type)
            value = f"CAST({quoted(one.name)} AS {'DOUBLE' if number else 'VARCHAR'})"
            unit = (one.metadata or {}).get(b"unit")
            of = _literal(unit.decode()) if unit else "NULL"
            known = (value, "CAST(NULL AS VARCHAR)") if number else ("CAST(NULL AS DOUBLE)", value)
            entries.append(f"{{'label': {_literal(one.name)}, 'value': {known[0]}, 'text': {known[1]}, 'unit': {of}}}")
        if entries:
            parts.append(
                f"SELECT spectrum_id, '{card.name}' AS catalogue, unnest([{', '.join(entries)}], recursive := true) "
                f"FROM ({view.sql})"
            )
    notes = {
        "value": {"description": "the label's value where it is a number"},
        "text": {"description": "the label's value where it is none"},
    }
    sql = f"SELECT * FROM ({' UNION ALL '.join(parts)}) WHERE value IS NOT NULL OR text IS NOT NULL"
    return View("labels", "all catalogues, one row per spectrum and label", sources, sql, notes)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
