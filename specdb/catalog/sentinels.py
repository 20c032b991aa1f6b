"""Numbers that stand for "not measured", turned into nulls by a stated rule.

1. NaN is null.
2. -999, -9999, -99999, also with nines or a zero behind the point, are null.
3. -99, 99, 999, 9999, 99999, likewise, are null where they stand apart: all other values of the column lie between minus and
   plus half of them; and unless they have nines behind the point, they must occur at least twice.
4. In text, the empty string, ``null``, ``nan``, ``N/A`` and ``--`` are null.

Keys and positions are never touched. What was replaced is counted per column and value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["RULE", "Nulls", "SentinelSurvey"]

#: In one line, for reports.
RULE = "-999..., -9999...; -99, 99, 999, 9999 (99.9, 99.99, ...) where they stand apart; NaN; empty text, null, nan, N/A, --"

_TAILS = (0.0, 0.9, 0.99, 0.999, 0.9999)
_CERTAIN = np.array([-(n + t) for n in (999, 9999, 99999) for t in _TAILS])
_APART = np.array([s * (n + t) for n in (99, 999, 9999, 99999) for t in _TAILS for s in (1, -1)])
_APART = _APART[~np.isin(_APART, _CERTAIN)]
_TEXT = pa.array(["", "null", "NULL", "nan", "NaN", "N/A", "--"])


@dataclass
class _Column:
    """What one column holds: how often each candidate, and the range of everything else."""

    counts: Counter = field(default_factory=Counter)
    low: float = np.inf
    high: float = -np.inf

    def chosen(self, given: np.ndarray, automatic: bool) -> dict[str | float, int]:
        found: dict[str | float, int] = {value: n for value, n in self.counts.items() if value in given}
        if automatic:
            found |= {value: n for value, n in self.counts.items() if np.isclose(value, _CERTAIN, rtol=1e-6, atol=0).any()}
            # A candidate may itself hide among others (99 and 9999): the others are what is not a candidate at all.
            for value, n in self.counts.items():
                apart = -abs(value) / 2 < self.low and self.high < abs(value) / 2 and self.low <= self.high
                if value not in found and apart and (n > 1 or value % 1):
                    found[value] = n
        return found


@dataclass(frozen=True)
class Nulls:
    """The values that become null, by column.

    Attributes
    ----------
    counts : dict
        Column -> {value: how often}.
    """

    counts: dict[str, dict[str | float, int]]

    def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return a batch with the chosen values as nulls."""
        columns = []
        for one, column in zip(batch.schema, batch.columns, strict=True):
            if values := self.counts.get(one.name):
                column = pc.if_else(pc.is_in(column, _as(values, one.type)), pa.scalar(None, one.type), column)
            if pa.types.is_floating(one.type):
                column = pc.if_else(pc.is_nan(column), pa.scalar(None, one.type), column)
            columns.append(column)
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


class SentinelSurvey:
    """Looks at all rows first, because whether 99 stands apart is known only at the end.

    Parameters
    ----------
    schema : pyarrow.Schema
    spared : set of str
        Keys and positions.
    keep : bool
        Keep sentinels; only `given` values and NaN become null.
    given : sequence of float or str
        The user's own.
    """

    def __init__(self, schema: pa.Schema, spared: set[str], *, keep: bool, given: Iterable[str]) -> None:
        self._keep = keep
        self._given_text = list(given)
        self._given = np.array([number for text in self._given_text if (number := _number(text)) is not None])
        self._numbers = [f for f in schema if _numeric(f.type) and f.name not in spared]
        self._text = [f for f in schema if pa.types.is_string(f.type) and f.name not in spared]
        self._columns = {f.name: _Column() for f in self._numbers}
        self._words: dict[str, Counter] = {f.name: Counter() for f in self._text}
        self._candidates = np.unique(np.concatenate([_CERTAIN, _APART, self._given]))

    def see(self, batch: pa.RecordBatch) -> None:
        """Take in one batch."""
        for one in self._numbers:
            column, seen = batch.column(one.name), self._columns[one.name]
            hit = pc.fill_null(pc.is_in(column, _as(self._candidates, one.type)), False)
            if pc.any(hit).as_py():
                values, counts = np.unique(column.filter(hit).to_numpy(zero_copy_only=False), return_counts=True)
                seen.counts.update({float(v): int(n) for v, n in zip(values, counts, strict=True)})
            rest = column.filter(pc.invert(hit))
            if pa.types.is_floating(one.type):
                rest = rest.filter(pc.is_finite(rest))
            extremes = pc.min_max(rest).as_py()
            if extremes["min"] is not None:
                seen.low, seen.high = min(seen.low, extremes["min"]), max(seen.high, extremes["max"])
        words = pa.array([*_TEXT.to_pylist(), *self._given_text] if not self._keep else self._given_text, pa.string())
        for one in self._text:
            found = batch.column(one.name).filter(pc.fill_null(pc.is_in(batch.column(one.name), words), False))
            self._words[one.name].update(found.to_pylist())

    def result(self) -> Nulls:
        """Return what becomes null."""
        counts: dict[str, dict[str | float, int]] = {}
        for name, column in self._columns.items():
            if chosen := column.chosen(self._given, not self._keep):
                counts[name] = chosen
        return Nulls(counts | {name: dict(words) for name, words in self._words.items() if words})


def _as(values: Iterable, kind: pa.DataType) -> pa.Array:
    """Return values as an array of a column's type, without those that it cannot hold."""
    if pa.types.is_string(kind):
        return pa.array(list(values), kind)
    numbers = np.array(list(values), np.float64)
    if pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        numbers = numbers[(numbers % 1 == 0) & (numbers >= limits.min) & (numbers <= limits.max)]
        return pa.array(numbers.astype(np.int64)).cast(kind)
    return pa.array(numbers.astype(kind.to_pandas_dtype()))


def _numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
