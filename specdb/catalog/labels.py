"""Catalogues of labels: adding, listing, removing.

A file is read twice: first to check its keys and to find out which values are sentinels, then to write it. So nothing is
written of a catalogue that cannot be used, and its size does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa

from specdb.catalog.cards import ROW, Card, IdKey, read_cards
from specdb.catalog.files import CatalogueFile, open_catalogue
from specdb.catalog.keys import Matched, check_ids, choose_target, count_matches, find_column, first_of_each
from specdb.catalog.matches import PositionKey, by_chance, fingerprint, match_catalogue, positions, stored_matches
from specdb.catalog.nearby import NearbyRows
from specdb.catalog.sentinels import Nulls, SentinelSurvey
from specdb.catalog.sphere import check_motion, check_positions
from specdb.catalog.view import opened_parts
from specdb.errors import InputError, QueryError
from specdb.store import Store, readable

__all__ = ["LabelReport", "add_labels", "describe_labels", "rematch", "remove_labels"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TAKEN = frozenset({"spectra", "embeddings", "labels", "predictions", "anomalies", "pairs", "rejected"})


@dataclass(frozen=True)
class LabelReport:
    """What became of a catalogue.

    Attributes
    ----------
    card : Card
        Rows in, rows stored, sentinels.
    matched : Matched
        Rows that have a spectrum now, and spectra that have a row.
    spectra : int
        Spectra in the database.
    ambiguous : int
        Spectra with several rows within the radius, of which they took the nearest.
    separation_arcsec : dict
        Quantiles of the separations, where positions were matched.
    expected_false : float or None
        Matched spectra that chance gives, counted with all spectra shifted; None where ids were matched.
    outdated : bool
        Only rows near the spectra of then were taken, and others have come since.
    """

    card: Card
    matched: Matched
    spectra: int
    ambiguous: int = 0
    separation_arcsec: dict[str, float] = field(default_factory=dict)
    expected_false: float | None = None
    outdated: bool = False

    def facts(self) -> dict[str, Any]:
        """Return it as JSON values."""
        facts = asdict(self.card) | {
            "matched_rows": self.matched.rows,
            "unmatched_rows": self.card.stored - self.matched.rows,
        }
        facts |= {"matched_spectra": self.matched.spectra, "spectra": self.spectra, "ambiguous": self.ambiguous}
        names = ("separation_arcsec", "expected_false", "outdated")
        return facts | {name: getattr(self, name) for name in names}


def add_labels(
    store: Store,
    file: str | Path,
    name: str,
    *,
    id: str | None = None,
    on: str | None = None,
    position: tuple[str, str] | None = None,
    radius_arcsec: float = 2.0,
    epoch: float | str | None = None,
    pm: tuple[str, str] | None = None,
    keep_sentinels: bool = False,
    nulls: Sequence[str] = (),
    duplicates: Literal["refuse", "first"] = "refuse",
    replace: bool = False,
    nearby: bool = False,
) -> LabelReport:
    """Add a catalogue; in SQL it is a view under its name, keyed by spectrum_id.

    Parameters
    ----------
    store : Store
    file : path-like
        FITS, VOTable, ECSV, CSV (also .gz) or Parquet, or the folder of a HATS catalogue.
    name : str
        Letters, digits and underscores.
    id : str, optional
        Column that names the spectrum, its star, or its file.
    on : str, optional
        Column of `spectra` that `id` is compared with; by default the one in which most ids are found.
    position : (str, str), optional
        Columns of right ascension and declination in degrees (ICRS): each spectrum takes the nearest row. A HATS catalogue
        names its own, which are taken where neither `id` nor `position` is given.
    radius_arcsec : float
    epoch : float or str, optional
        Of the catalogue's positions: a Julian year or a column; with `pm`, they are moved to the spectra's epochs.
    pm : (str, str), optional
        Columns of proper motion in mas/yr, that in right ascension including cos(dec).
    keep_sentinels : bool
        Keep -9999, 99 and the like as numbers.
    nulls : sequence of str
        Further values that mean "not measured".
    duplicates : {"refuse", "first"}
        What to do where a key occurs twice.
    replace : bool
        Replace the catalogue of that name.
    nearby : bool
        Keep only rows near a spectrum, with `position`; of a HATS catalogue, read only the cells where there are any.

    Returns
    -------
    LabelReport

    Raises
    ------
    InputError
        For a file, name or key that cannot be used; nothing is changed then.
    """
    path = Path(file)
    _check_name(store, name, replace)
    source = open_catalogue(path)
    position = position or (source.position if id is None else None)
    if (id is None) == (position is None):
        raise InputError("say how the catalogue belongs to spectra: by --id COLUMN, or by --position RA DEC")
    if pm is not None and epoch is None:
        raise InputError("--pm needs --epoch, the year of the catalogue's positions, such as --epoch 2016 for Gaia DR3")
    if nearby and position is None:
        raise InputError("--nearby goes with --position: ids are not near to anything")
    if ROW in source.schema.names:
        raise InputError(f"{path}: the column name {ROW} is used by specdb; rename that column")
    key: IdKey | PositionKey
    if id is not None:
        columns = [find_column(source.schema, id, str(path))]
    else:
        assert position is not None
        extra = [*(pm or ()), *([epoch] if isinstance(epoch, str) else [])]
        columns = [find_column(source.schema, one, str(path)) for one in (*position, *extra)]
    near: NearbyRows | None = None
    if position is not None:
        _check_numbers(source, columns)
        motion = (columns[2], columns[3]) if pm else None
        key = PositionKey(columns[0], columns[1], radius_arcsec, columns[-1] if isinstance(epoch, str) else epoch, motion)
        if nearby:
            near = NearbyRows(source, positions(store, store.modalities()), key)
            source = near.source
    survey = SentinelSurvey(source.schema, set(columns[:2]), keep=keep_sentinels, given=nulls)
    keys = _first_pass(source, columns, survey)
    far = near.far if near else 0
    if not keys.num_rows:
        nothing = f"has {far} rows, but none near a spectrum; are its positions in degrees (ICRS)?" if far else "has no rows"
        raise InputError(f"{path} {nothing}")
    kept: np.ndarray | None = None
    without_key = 0
    if id is not None:
        ids = check_ids(keys[columns[0]], columns[0], str(path))
        key = IdKey(columns[0], on or choose_target(store, ids, columns[0], str(path)))
        kept = _without_duplicates(ids, columns[0], str(path), duplicates)
        without_key = ids.null_count
        id_type = ids.type
        matched = count_matches(store, ids.filter(pa.array(kept)) if kept is not None else ids, key.on)
    else:
        fields = [source.schema.field(one) for one in columns]
        ra, dec = (keys[one].cast(pa.float64()).fill_null(np.nan).to_numpy() for one in columns[:2])
        units = tuple(((f.metadata or {}).get(b"unit") or b"").decode() or None for f in fields[:2])
        check_positions(ra, dec, (units[0], units[1]), str(path))
        _check_motion(keys, key, source, survey.result(), str(path))
        without_key = int((~(np.isfinite(ra) & np.isfinite(dec))).sum())
        id_type = None
    chosen = survey.result()
    total = keys.num_rows
    stored = total if kept is None else int(kept.sum())
    counts = {column: {str(value): n for value, n in found.items()} for column, found in chosen.counts.items()}
    every = isinstance(key, IdKey) and matched.rows == stored - without_key
    card = Card(
        name, key, path.name, source.fingerprint(), total + far, stored, total - stored, without_key, counts,
        source.left_out, fingerprint(store) if every else "", far, fingerprint(store) if near else "",
    )  # fmt: skip
    schema = _stored_schema(source.schema, columns[0] if id is not None else None, id_type)
    with store.writing() as writer:
        rows = pa.RecordBatchReader.from_batches(schema, _second_pass(source, schema, chosen, kept, columns[0]))
        writer.put(card.path, rows, card.provenance())
        if isinstance(key, PositionKey):
            return _match(store, writer, card, key)
        if stored_matches(name) in store.manifest().files:
            writer.remove([stored_matches(name)])
    return LabelReport(card, matched, _count(store))


def describe_labels(store: Store, name: str | None = None) -> list[LabelReport]:
    """Return what is known about all catalogues, or one, with what they match now.

    Raises
    ------
    QueryError
        For a catalogue that there is not.
    """
    cards = read_cards(store)
    if name is not None and name not in cards:
        raise QueryError(f"there is no catalogue {name!r}; there are {', '.join(sorted(cards)) or 'none yet'}")
    reports = []
    for card in [cards[name]] if name is not None else list(cards.values()):
        if isinstance(card.key, IdKey):
            with readable(store.root):
                ids = opened_parts(store, [card.path]).to_table(columns=[card.key.column])[card.key.column]
            reports.append(LabelReport(card, count_matches(store, ids, card.key.on), _count(store)))
        else:
            table, facts = match_catalogue(store, card.key, card.path)
            chance = by_chance(store, card.key, card.path) if name is not None else None
            reports.append(_report(store, card, table, facts | {"expected_false": chance}))
    return reports


def rematch(store: Store, name: str | None = None) -> list[LabelReport]:
    """Store the positional matches of all catalogues, or one, anew: questions are right without, and faster with it."""
    with store.writing() as writer:
        return [
            _match(store, writer, card, card.key)
            for card in read_cards(store).values()
            if name in (None, card.name) and isinstance(card.key, PositionKey)
        ]


def remove_labels(store: Store, name: str) -> None:
    """Remove a catalogue.

    Raises
    ------
    QueryError
        When there is none of that name.
    """
    cards = read_cards(store)
    if name not in cards:
        raise QueryError(f"there is no catalogue {name!r}; there are {', '.join(sorted(cards)) or 'none yet'}")
    with store.writing() as writer:
        paths = (cards[name].path, stored_matches(name))
        writer.remove([path for path in paths if path in store.manifest().files])


def _check_name(store: Store, name: str, replace: bool) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{name!r} cannot be the name of a catalogue: use letters, digits and '_', beginning with a letter")
    with duckdb.connect(":memory:") as session:
        reserved = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category = 'reserved'"
        keywords = session.execute(reserved).fetchall()
    taken = _TAKEN | set(store.modalities()) | {word for (word,) in keywords}
    if name.lower() in taken or name.lower().endswith("_all") or name.lower().startswith("embeddings_"):
        raise InputError(f"the name {name!r} has a meaning in SQL here; choose another")
    same = [other for other in read_cards(store) if other.lower() == name.lower()]
    if same and not (replace and same == [name]):
        raise InputError(f"there is a catalogue {same[0]!r} already; --replace replaces it, or choose another name")


def _check_numbers(source: CatalogueFile, columns: list[str]) -> None:
    for one in (source.schema.field(name) for name in columns):
        if not (pa.types.is_floating(one.type) or pa.types.is_integer(one.type)):
            raise InputError(f"{source.path}: the column {one.name} is {one.type}, positions must be numbers in degrees")


def _check_motion(keys: pa.Table, key: IdKey | PositionKey, source: CatalogueFile, nulls: Nulls, what: str) -> None:
    if isinstance(key, IdKey) or key.epoch is None:
        return
    clean = pa.Table.from_batches([nulls.apply(batch) for batch in keys.to_batches()], keys.schema)

    def values(name: str) -> np.ndarray:
        return clean[name].cast(pa.float64()).fill_null(np.nan).to_numpy()

    speed = np.hypot(*map(values, key.pm)) if key.pm else np.empty(0)
    epoch = values(key.epoch) if isinstance(key.epoch, str) else np.array([key.epoch])
    stated = [(source.schema.field(name).metadata or {}).get(b"unit", b"").decode() or None for name in key.pm or ()]
    check_motion(speed, epoch, stated, what)


def _first_pass(source: CatalogueFile, columns: list[str], survey: SentinelSurvey) -> pa.Table:
    """Return the columns that tie rows to spectra, and let the survey see everything."""
    held = []
    for batch in source.batches():
        survey.see(batch)
        held.append(batch.select(list(dict.fromkeys(columns))))
    schema = pa.schema([source.schema.field(one) for one in dict.fromkeys(columns)])
    return pa.Table.from_batches(held, schema)


def _without_duplicates(ids: pa.ChunkedArray, column: str, what: str, rule: str) -> np.ndarray | None:
    keep = first_of_each(ids)
    if keep.all():
        return None
    if rule == "refuse":
        again = ids.filter(pa.array(~keep))
        raise InputError(
            f"{what}: {len(again)} rows repeat a key in {column} that occurred before, first {again[0].as_py()}; "
            "a catalogue has one row per key: --duplicates first keeps the first of each"
        )
    return keep


def _stored_schema(schema: pa.Schema, key: str | None, id_type: pa.DataType | None) -> pa.Schema:
    if key is None:
        row = pa.field(ROW, pa.int64(), metadata={"description": "number of the row among those stored, from 0"})
        return pa.schema([row, *schema])
    return pa.schema([f.with_type(id_type) if f.name == key else f for f in schema])


def _second_pass(
    source: CatalogueFile, schema: pa.Schema, nulls: Nulls, kept: np.ndarray | None, key: str
) -> Iterator[pa.RecordBatch]:
    row = 0
    for batch in source.batches():
        n = batch.num_rows
        clean = nulls.apply(batch)
        columns = [
            pa.array(np.arange(row, row + n)) if f.name == ROW else _as_key(clean.column(f.name), f, key) for f in schema
        ]
        out = pa.RecordBatch.from_arrays(columns, schema=schema)
        yield out if kept is None else out.filter(pa.array(kept[row : row + n]))
        row += n


def _as_key(column: pa.Array, target: pa.Field, key: str) -> pa.Array:
    if target.name != key or column.type == target.type:
        return column
    return check_ids(pa.chunked_array([column]), key, "").combine_chunks()


def _match(store: Store, writer: Any, card: Card, key: PositionKey) -> LabelReport:
    table, facts = match_catalogue(store, key, card.path)
    facts["expected_false"] = by_chance(store, key, card.path)
    now = [fingerprint(store), store.manifest().files[card.path].sha256]
    writer.put(stored_matches(card.name), table, {"kind": "matches", "catalogue": card.name, "matched": now} | facts)
    return _report(store, card, table, facts)


def _report(store: Store, card: Card, table: pa.Table, facts: dict[str, Any]) -> LabelReport:
    rows = len(np.unique(table[ROW].to_numpy()))
    outdated = card.nearby_to not in ("", fingerprint(store))
    return LabelReport(
        card, Matched(rows, table.num_rows), _count(store), facts["ambiguous"], facts["separation_arcsec"],
        facts["expected_false"], outdated,
    )  # fmt: skip


def _count(store: Store) -> int:
    return sum(store.counts(modality)[0] for modality in store.modalities())
