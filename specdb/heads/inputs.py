"""What heads read: stored embeddings or prepared spectra, part by part, and the labels that go with them."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.errors import DatabaseError, InputError
from specdb.heads.config import PHYSICAL
from specdb.heads.head import LabelFacts
from specdb.spectra.stars import star_groups
from specdb.store import Store, matrix, read_schema, read_table

__all__ = ["InputPart", "LabelledInputs", "Observed", "default_inputs", "gather_labelled", "input_parts", "read_part"]

logger = logging.getLogger(__name__)

_ERROR_SUFFIXES = ("_err", "_error", "_sigma")
#: Where a pixel has no error, noise of this size stands in: it carries no information.
_UNKNOWN_ERROR = 0.3


@dataclass(frozen=True)
class InputPart:
    """Inputs of the spectra of one part.

    Attributes
    ----------
    ids : ndarray (n,), int64
    x : ndarray (n, d), float32
    x_err : ndarray (n, d), float32, or None
        Errors, where the inputs are pixels.
    """

    ids: np.ndarray
    x: np.ndarray
    x_err: np.ndarray | None = None


@dataclass(frozen=True)
class LabelledInputs:
    """Inputs with labels.

    Attributes
    ----------
    ids : ndarray (n,), int64
    x, x_err : ndarray (n, d), float32
        As in `InputPart`.
    y, y_err : ndarray (n, L), float64
        NaN where there is none.
    star : ndarray (n,), int64
        Equal numbers are spectra of one star.
    snr : ndarray (n,), float32
        Median S/N per pixel of the prepared spectrum.
    labels : tuple of LabelFacts
    dropped : dict
        Reason -> number of rows of the label table that could not be used.
    """

    ids: np.ndarray
    x: np.ndarray
    x_err: np.ndarray | None
    y: np.ndarray
    y_err: np.ndarray
    star: np.ndarray
    snr: np.ndarray
    labels: tuple[LabelFacts, ...]
    dropped: dict[str, int]

    def take(self, rows: np.ndarray) -> LabelledInputs:
        """Return some rows (integer or boolean index)."""
        kept = {name: getattr(self, name)[rows] for name in ("ids", "x", "y", "y_err", "star", "snr")}
        x_err = None if self.x_err is None else self.x_err[rows]
        return LabelledInputs(**kept, x_err=x_err, labels=self.labels, dropped=self.dropped)


@dataclass(frozen=True)
class Observed:
    """Where the spectra of a modality lie on the sky, and how good they are.

    Attributes
    ----------
    ids : ndarray (n,), int64
    ra, dec : ndarray (n,), float64
        Degrees, ICRS; NaN where unknown.
    snr : ndarray (n,), float32
        Median S/N per pixel of the prepared spectrum.
    """

    ids: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    snr: np.ndarray

    @classmethod
    def of(cls, store: Store, modality: str) -> Observed:
        """Read all spectra of a modality, without flux."""
        columns = ["spectrum_id", "ra", "dec", "snr"]
        parts = [read_table(store.root / part, columns) for part in store.spectra_parts(modality)]
        ids, ra, dec, snr = (pa.concat_tables(parts)[name].to_numpy() for name in columns)
        return cls(ids, ra.astype(np.float64), dec.astype(np.float64), snr)

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Return the row of each id (m,), -1 where there is none."""
        order = np.argsort(self.ids)
        at = order[np.minimum(np.searchsorted(self.ids, ids, sorter=order), len(order) - 1)]
        return np.where(self.ids[at] == ids, at, -1)


def input_parts(store: Store, modality: str, inputs: str, encoder: str) -> list[str]:
    """Return the files that hold a kind of input.

    Raises
    ------
    DatabaseError
        Where the modality has not been embedded, or does not exist.
    """
    parts = store.spectra_parts(modality) if inputs == "pixels" else store.embedding_parts(encoder, modality)
    if not parts:
        need = "spectra" if inputs == "pixels" else f"embeddings by {encoder}"
        raise DatabaseError(f"the database holds no {modality} {need}; `specdb status` shows what it holds")
    return parts


def default_inputs(store: Store, modality: str | None = None) -> str:
    """Return ``both`` where the default encoder's stored embeddings have a private part, else ``shared``."""
    for name in [modality] if modality else store.modalities():
        for part in store.embedding_parts(store.default_encoder, name)[:1]:
            return "both" if "private" in read_schema(store.root / part).names else "shared"
    return "shared"


def read_part(store: Store, part: str, inputs: str) -> InputPart:
    """Read the inputs of one file.

    ``both`` is the shared embedding at the length that the encoder gave it, followed by the private one.
    """
    path = store.root / part
    if inputs == "pixels":
        table = read_table(path, ["spectrum_id", "flux", "ivar"])
        ivar = matrix(table["ivar"])
        with np.errstate(divide="ignore"):
            error = np.where(ivar > 0, np.minimum(1 / np.sqrt(ivar), _UNKNOWN_ERROR), _UNKNOWN_ERROR).astype(np.float32)
        return InputPart(table["spectrum_id"].to_numpy(), matrix(table["flux"]), error)
    table = read_table(path, ["spectrum_id", inputs] if inputs == "shared" else None)
    ids = table["spectrum_id"].to_numpy()
    if inputs != "shared" and "private" not in table.column_names:
        raise InputError(f"encoder {part.split('/')[1]} has no private embedding; train the head with inputs 'shared'")
    if inputs == "private":
        return InputPart(ids, matrix(table["private"]))
    shared = matrix(table["shared"])
    if inputs == "shared":
        return InputPart(ids, shared)
    private = matrix(table["private"])
    both = np.empty((len(ids), shared.shape[1] + private.shape[1]), np.float32)
    np.multiply(shared, table["shared_norm"].to_numpy()[:, None], out=both[:, : shared.shape[1]], casting="same_kind")
    both[:, shared.shape[1] :] = private
    return InputPart(ids, both)


def gather_labelled(store: Store, labels: pa.Table, modality: str, inputs: str, encoder: str) -> LabelledInputs:
    """Bring labels and inputs together.

    Parameters
    ----------
    store : Store
    labels : pyarrow.Table
        ``spectrum_id`` and one numeric column per label; ``<label>_err`` (or ``_error``, ``_sigma``) is its error.
    modality, inputs, encoder : str

    Raises
    ------
    InputError
        For a table without ids or labels, with an id twice, or when no spectrum is labelled.
    """
    names, errors = _label_columns(labels)
    ids = labels["spectrum_id"].combine_chunks().cast(pa.int64())
    if ids.null_count:
        labels, ids = labels.filter(pc.is_valid(ids)), ids.drop_null()
    wanted = ids.to_numpy()
    if len(np.unique(wanted)) != len(wanted):
        twice = len(wanted) - len(np.unique(wanted))
        raise InputError(f"{twice} spectrum_ids occur more than once among the labels; give each spectrum one row")
    place = np.argsort(wanted)
    found, rows = [], []
    for part in input_parts(store, modality, inputs, encoder):
        piece = read_part(store, part, inputs)
        at = np.searchsorted(wanted, piece.ids, sorter=place)
        here = wanted[place[np.minimum(at, len(wanted) - 1)]] == piece.ids if len(wanted) else np.zeros(len(piece.ids), bool)
        if here.any():
            x_err = None if piece.x_err is None else piece.x_err[here]
            found.append(InputPart(piece.ids[here], piece.x[here], x_err))
            rows.append(place[at[here]])
    if not found:
        raise InputError(f"none of the {len(wanted)} labelled ids is a {modality} spectrum with inputs {inputs!r}")
    chosen = np.concatenate(rows)
    y, y_err = (
        np.column_stack([_numbers(labels[n])[chosen] if n else np.full(len(chosen), np.nan) for n in columns])
        for columns in (names, errors)
    )
    x = np.concatenate([piece.x for piece in found])
    x_err = np.concatenate([piece.x_err for piece in found if piece.x_err is not None]) if inputs == "pixels" else None
    finite = np.isfinite(x).all(axis=1)
    dropped = {
        "not among the spectra": len(wanted) - len(chosen),
        "no label": int((~np.isfinite(y).any(axis=1)).sum()),
        "input not finite": int((~finite).sum()),
    }
    found_ids = np.concatenate([piece.ids for piece in found])
    observed = Observed.of(store, modality)
    at = observed.rows_of(found_ids)
    star, snr = star_groups(observed.ra[at], observed.dec[at]), observed.snr[at]
    facts = tuple(_facts(labels.schema.field(n)) for n in names)
    table = LabelledInputs(found_ids, x, x_err, _physical(y, names), y_err, star, snr, facts, dropped)
    return table.take(finite & np.isfinite(table.y).any(axis=1))


def _label_columns(labels: pa.Table) -> tuple[list[str], list[str | None]]:
    if "spectrum_id" not in labels.column_names:
        raise InputError(f"the labels have the columns {', '.join(labels.column_names)}; one must be spectrum_id")
    kinds = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
    numeric = [f.name for f in labels.schema if f.name != "spectrum_id" and any(kind(f.type) for kind in kinds)]
    stems = {n: n.removesuffix(s) for n in numeric for s in _ERROR_SUFFIXES if n.endswith(s)}
    error_of = {column: label for column, label in stems.items() if label in numeric}
    names = [n for n in numeric if n not in error_of]
    if not names:
        columns = ", ".join(labels.column_names)
        raise InputError(f"the labels have no numeric column besides spectrum_id (columns: {columns})")
    by_label = {label: column for column, label in error_of.items()}
    return names, [by_label.get(n) for n in names]


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _physical(y: np.ndarray, names: list[str]) -> np.ndarray:
    """Return labels with those that no star can have taken out, and say how many."""
    y = y.copy()
    for i, name in enumerate(names):
        low, high = PHYSICAL.get(name, (-np.inf, np.inf))
        wild = np.isfinite(y[:, i]) & ((y[:, i] < low) | (y[:, i] > high))
        if wild.any():
            logger.warning("%d values of %s lie outside %g to %g and are left out", wild.sum(), name, low, high)
            y[wild, i] = np.nan
    return y


def _facts(one: pa.Field) -> LabelFacts:
    note = {k.decode(): v.decode() for k, v in (one.metadata or {}).items()}
    return LabelFacts(one.name, note.get("unit", ""), note.get("description", ""))
