"""All that a query can name.

Files are handed to DuckDB as Arrow datasets, with projections and filters pushed down into them, and only those that a
statement names.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pyarrow as pa

from specdb.catalog.cards import label_views
from specdb.catalog.view import Opener, View, opened_ids, opened_parts, quoted, without_deleted
from specdb.store import REJECTED, Store

__all__ = ["all_views"]


def all_views(store: Store) -> dict[str, View]:
    """Return the views of a database by name."""
    derived, heads = _derived(store)
    others = [*_modalities(store), _rejected(store), *derived, *label_views(store)]
    taken = {view.name.lower() for view in others}
    return {view.name: view for view in [*others, *(head for head in heads if head.name.lower() not in taken)]}


def _modalities(store: Store) -> list[View]:
    spectra, vectors = [], []
    for modality in store.modalities():
        if parts := store.spectra_parts(modality):
            source: dict[str, Opener] = {f"spectra/{modality}": partial(opened_parts, store, parts)}
            whole = View(modality, f"spectra of {modality}", source, f"FROM {quoted(f'spectra/{modality}')}")
            spectra.append(without_deleted(store, whole, [modality]))
        for encoder in store.encoders(modality):
            name = f"embeddings/{encoder}/{modality}"
            opener = partial(opened_parts, store, store.embedding_parts(encoder, modality))
            ids: Opener = partial(opened_ids, store, store.embedding_parts(encoder, modality))
            wide = frozenset(column.lower() for column in opener().schema.names) - {"spectrum_id"}
            sql = f"SELECT *, '{modality}' AS modality FROM {quoted(name)}"
            view = View(name, "", {name: opener}, sql, {}, {name: ids}, wide)
            vectors.append((encoder, without_deleted(store, view, [modality])))
    views = list(spectra)
    if spectra:
        views.append(_union("spectra", "prepared spectra of all modalities", spectra))
    for encoder in dict.fromkeys(encoder for encoder, _ in vectors):
        default = encoder == store.default_encoder
        name = "embeddings" if default else f"embeddings_{''.join(c if c.isalnum() else '_' for c in encoder)}"
        comment = f"embeddings by {encoder}{', the default encoder' if default else ''}"
        notes = {"modality": {"description": "modality of the spectrum"}}
        views.append(_union(name, comment, [view for e, view in vectors if e == encoder], notes))
    return views


def _union(name: str, comment: str, views: list[View], notes: dict[str, dict[str, str]] | None = None) -> View:
    """Unite views on all of their columns; vectors of different lengths meet as lists."""
    if len(views) == 1:
        sql = views[0].sql
    else:
        loose = _loose([view.sources for view in views])
        replaced = f" REPLACE ({', '.join(f'CAST({quoted(c)} AS FLOAT[]) AS {quoted(c)}' for c in loose)})" if loose else ""
        sql = " UNION ALL BY NAME ".join(f"(SELECT *{replaced} FROM ({view.sql}))" for view in views)
    sources = {key: opener for view in views for key, opener in view.sources.items()}
    narrow = {key: opener for view in views for key, opener in view.narrow.items()}
    return View(name, comment, sources, sql, notes or {}, narrow, frozenset().union(*(view.wide for view in views)))


def _loose(sources: list[dict[str, Opener]]) -> list[str]:
    schemas = [opener().schema for source in sources for opener in source.values()]
    types: dict[str, set[pa.DataType]] = {}
    for schema in schemas:
        for one in schema:
            types.setdefault(one.name, set()).add(one.type)
    differing = [name for name, kinds in types.items() if len(kinds) > 1 and all(map(pa.types.is_fixed_size_list, kinds))]
    return [name for name in differing if all(name in schema.names for schema in schemas)]


def _rejected(store: Store) -> View:
    def read() -> pa.Table:
        tables = [REJECTED.empty_table().append_column("modality", pa.array([], pa.string()))]
        for modality in store.modalities():
            table = store.rejected(modality)
            tables.append(table.append_column("modality", pa.array([modality] * table.num_rows, pa.string())))
        return pa.concat_tables(tables)

    return View("rejected", "what did not get in, and why", {"rejected/all": read}, 'FROM "rejected/all"')


def _derived(store: Store) -> tuple[list[View], list[View]]:
    """Return views over what heads, scores and crossmatches have left, and one of each head's predictions under its name."""
    found, heads = [], []
    for folder, column, comment in (
        ("predictions", "head", "labels that heads predicted, with their uncertainties"),
        ("anomalies", "modality", "anomaly scores"),
        ("deviations", "modality", "where unusual spectra are not as expected, one row per feature"),
        ("maps", "encoder", "places of spectra on the map of embeddings that the explorer shows"),
        ("pairs", None, "the same star in two modalities: one column of spectrum_ids per modality"),
    ):
        groups: dict[str, list[str]] = {}
        for name in store.tables(folder):
            groups.setdefault(name.removeprefix(f"{folder}/").split("/")[0].removesuffix(".parquet"), []).append(name)
        views = []
        for group, parts in groups.items():
            hidden = f"{folder}/{group}"
            opener = partial(opened_parts, store, parts)
            has = column is None or column in opener().schema.names
            constant = "" if has else f", '{group}' AS {column}"
            view = View(hidden, "", {hidden: opener}, f"SELECT *{constant} FROM {quoted(hidden)}")
            if column is not None:
                view = without_deleted(store, view, store.modalities())
            for modality in set(store.modalities()) & set(opener().schema.names) if column is None else ():
                view = without_deleted(store, view, [modality], modality)
            views.append(view)
            if folder == "predictions":
                heads.append(replace(view, name=group, comment=f"labels that the head {group} predicted"))
        if views:
            found.append(_union(folder, comment, views))
    return found, heads
