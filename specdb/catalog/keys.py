"""The columns that tie a catalogue to spectra: checked in a first pass over the file, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.catalog.cards import STEM
from specdb.catalog.view import opened_parts
from specdb.errors import InputError
from specdb.store import Store, readable

__all__ = ["Matched", "check_ids", "choose_target", "count_matches", "find_column", "first_of_each"]

#: Columns of `spectra` that an id may mean, tried in this order.
_TARGETS = ("spectrum_id", "gaia_source_id", "source_file", "object_name", "input_name")

#: Gaia ids are multiples of 128 (the last 7 bits number components), so float64 keeps those below 2**60 whole.
_WHOLE_BELOW = 1 << 60


@dataclass(frozen=True)
class Matched:
    """How many rows of a catalogue have a spectrum, and how many spectra a row."""

    rows: int
    spectra: int


def find_column(schema: pa.Schema, name: str, what: str) -> str:
    """Return a column by its name, in any case.

    Raises
    ------
    InputError
        With the columns that there are.
    """
    if name in schema.names:
        return name
    alike = [one for one in schema.names if one.lower() == name.lower()]
    if len(alike) == 1:
        return alike[0]
    raise InputError(
        f"{what} has no column {name!r}; it has {', '.join(schema.names[:20])}{', ...' if len(schema) > 20 else ''}"
    )


def check_ids(ids: pa.ChunkedArray, column: str, what: str) -> pa.ChunkedArray:
    """Return ids as int64 or text, whole.

    Raises
    ------
    InputError
        For ids that lost digits as floating-point numbers, fractions, and types that cannot be an id.
    """
    kind = ids.type
    if pa.types.is_floating(kind):
        values = ids.drop_null().to_numpy()
        values = values[np.isfinite(values)]
        limit = 2.0**53 if kind == pa.float64() else 2.0**24
        if (large := np.abs(values) > limit).any():
            raise InputError(
                f"{what}: {column} is {kind}, and {int(large.sum())} ids (first {values[large][0]:.17g}) are above "
                f"{limit:.0f}, where floating-point numbers lose digits; write the ids as 64-bit integers or as text"
            )
        if (values % 1 != 0).any():
            raise InputError(
                f"{what}: {column} holds fractions, first {values[values % 1 != 0][0]:g}; an id is a whole number"
            )
        return pc.if_else(pc.is_nan(ids), pa.scalar(None, kind), ids).cast(pa.int64())
    if pa.types.is_integer(kind):
        if kind == pa.uint64() and (pc.max(ids).as_py() or 0) >= 1 << 63:
            raise InputError(f"{what}: {column} holds ids above 2**63; ids here have 63 bits")
        whole = ids.cast(pa.int64())
        _check_digits(whole.drop_null().to_numpy(), column, what)
        return whole
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.utf8_trim_whitespace(ids.cast(pa.string()))
        filled = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        scientific = filled.filter(pc.fill_null(pc.match_substring_regex(filled, r"^\d\.\d+[eE]\+?\d+$"), False))
        if len(scientific):
            raise InputError(
                f"{what}: {column} holds ids like {scientific[0].as_py()!r}, which have lost digits; "
                "write them as 64-bit integers or as text"
            )
        return filled
    raise InputError(f"{what}: {column} is {kind}; a key is a whole number or text")


def _check_digits(ids: np.ndarray, column: str, what: str) -> None:
    """Refuse integers that were floating-point numbers on the way: all of them multiples of what float64 can tell apart."""
    large = ids[np.abs(ids) >= _WHOLE_BELOW]
    if not large.size:
        return
    spacing = np.spacing(np.abs(large).astype(np.float64)).astype(np.int64)
    # A true Gaia id is such a multiple by chance in one of `spacing / 128` cases, others even more rarely.
    if (large % spacing == 0).all() and np.log2(spacing / 128).sum() >= 20:
        raise InputError(
            f"{what}: all {len(large)} ids in {column} above 2**60 are multiples of {int(spacing.min())}, so they were "
            f"floating-point numbers once and have lost digits (first {large[0]}); take them from the original as integers"
        )


def first_of_each(ids: pa.ChunkedArray) -> np.ndarray:
    """Return a mask (n,) of the rows whose id occurs there for the first time, or is null."""
    codes = ids.combine_chunks().dictionary_encode()
    codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    numbers = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    keep = np.zeros(len(numbers), bool)
    keep[np.unique(numbers, return_index=True)[1]] = True
    return keep | (numbers < 0)


def choose_target(store: Store, ids: pa.ChunkedArray, column: str, what: str) -> str:
    """Return the column of `spectra` that most of a catalogue's ids are found in.

    Raises
    ------
    InputError
        When none is found anywhere.
    """
    counts = {target: count_matches(store, ids, target).rows for target in _TARGETS}
    target = max(counts, key=counts.__getitem__)
    if counts[target]:
        return target
    example = ids.drop_null()
    raise InputError(
        f"{what}: no id in {column} (such as {example[0].as_py() if len(example) else None!r}) is one of a spectrum in the "
        f"database ({', '.join(_TARGETS)} were tried); name another column with --id, or say with --on what it means"
    )


def count_matches(store: Store, ids: pa.ChunkedArray, target: str) -> Matched:
    """Count catalogue rows and spectra that find each other through a column of `spectra`."""
    rows = np.zeros(len(ids), bool)
    spectra = 0
    for modality in store.modalities():
        parts = store.spectra_parts(modality)
        if not parts or target not in (dataset := opened_parts(store, parts)).schema.names:
            continue
        with readable(store.root):
            table = dataset.to_table(columns=list(dict.fromkeys(["spectrum_id", target])))
        here = ~np.isin(table["spectrum_id"].to_numpy(), store.deleted(modality))
        theirs = table[target].filter(pa.array(here))
        ours = ids
        if target == "source_file" and pa.types.is_string(ids.type):
            ours, theirs = (pc.replace_substring_regex(side, STEM, "") for side in (ids, theirs))
        elif pa.types.is_string(theirs.type) and not pa.types.is_string(ids.type):
            ours = ids.cast(pa.string())
        elif ours.type != theirs.type:
            continue
        rows |= pc.fill_null(pc.is_in(ours, theirs.combine_chunks().drop_null()), False).to_numpy()
        spectra += int(pc.sum(pc.is_in(theirs, ours.combine_chunks().drop_null())).as_py() or 0)
    return Matched(int(rows.sum()), spectra)
