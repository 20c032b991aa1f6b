"""From what a user asks about (an id, a file, arrays) to a vector, and from row numbers back to metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.errors import DatabaseError, InputError, QueryError, ReadError
from specdb.spectra import Modality, Prepared, Source, Spectra, get_modality, modality_names
from specdb.spectra.readers import get_reader, read_source
from specdb.store import Store, open_parts, readable

if TYPE_CHECKING:
    from specdb.encoders import Encoder

__all__ = ["Question", "encode_spectra", "find_modality", "metadata_of", "parse_question", "read_question", "take_rows"]

#: Characters shown of what the readers of one modality looked for; `specdb ingest` lists all of it.
_DETAIL = 160

Query = int | np.integer | str | Path | Spectra


@dataclass(frozen=True)
class Question:
    """What is searched for: an id in the database, or spectra from outside.

    Attributes
    ----------
    name : str
        For people.
    spectrum_id : int or None
        Set when the database is asked about one of its own spectra.
    spectra : Spectra or None
        One spectrum from a file or from arrays.
    modality : str or None
        Modality that the file was recognised as.
    """

    name: str
    spectrum_id: int | None = None
    spectra: Spectra | None = None
    modality: str | None = None


def parse_question(query: Query, modalities: list[str], foreign: bool = False) -> Question:
    """Tell an id from a file name from arrays; `foreign` as in `read_question`.

    Raises
    ------
    QueryError
        For a string that is neither a whole number nor an existing file.
    ReadError
        For a file that none of the modalities can read.
    """
    if isinstance(query, Spectra):
        if len(query) != 1:
            raise QueryError(f"a query is one spectrum, these are {len(query)}; pass spectra.take([i])")
        return Question("spectrum from arrays", spectra=query, modality=modalities[0] if len(modalities) == 1 else None)
    text = str(query)
    if isinstance(query, int | np.integer) or (text.lstrip("-").isdigit() and not Path(text).exists()):
        if not -(2**63) <= int(text) < 2**63:
            raise QueryError(f"no spectrum has the id {text}: ids have 64 bits")
        return Question(text, spectrum_id=int(text))
    if Path(text).is_dir():
        raise QueryError(f"{text} is a folder; a query is one spectrum file or a spectrum_id")
    if not Path(text).is_file():
        raise QueryError(f"{text!r} is neither a spectrum_id (a whole number) nor an existing file")
    return read_question(Path(text), modalities, foreign)


def read_question(path: Path, modalities: list[str], foreign: bool = False) -> Question:
    """Read the one spectrum of a file as the first modality that recognises it.

    Parameters
    ----------
    path : Path
    modalities : list of str
        Tried in this order.
    foreign : bool
        Then try the other modalities that specdb knows, by their surveys' own formats: a spectrum can be searched for where
        there are none of its kind.
    """
    declined: list[str] = []
    others = [name for name in modality_names() if name not in modalities] if foreign else []
    for name in [*modalities, *others]:
        readers = get_modality(name).readers
        try:
            used = readers if name in modalities else tuple(r for r in readers if get_reader(r).native)
            spectra = list(read_source(Source(path), used))
        except ReadError as error:
            if error.reason not in ("unknown_format", "other_instrument"):
                raise InputError(f"{path}: {error}") from error
            if name in modalities:
                declined.append(f"{name}: {shorten(error.detail, _DETAIL, placeholder=' ...')}")
            continue
        n = sum(map(len, spectra))
        if n != 1:
            raise QueryError(
                f"{path} holds {n} spectra; a query is one spectrum: read it in Python and pass spectra.take([i])"
            )
        return Question(str(path), spectra=spectra[0], modality=name)
    raise QueryError(f"{path} is not a spectrum of this database's modalities ({'; '.join(declined)})")


def find_modality(store: Store, spectrum_id: int) -> str:
    """Return the modality that holds an id.

    Raises
    ------
    QueryError
        When none or several do.
    """
    holding = [m for m in store.modalities() if spectrum_id in store.ids(m)]
    if not holding:
        raise QueryError(f'no spectrum has the id {spectrum_id}; `specdb sql "SELECT spectrum_id FROM spectra"` lists them')
    if len(holding) > 1:
        raise QueryError(f"the id {spectrum_id} occurs in {', '.join(holding)}; say which with --modality")
    return holding[0]


def encode_spectra(
    encoder: Encoder, modality: Modality, spectra: Spectra, device: str = "cpu"
) -> tuple[np.ndarray, Prepared]:
    """Prepare and embed spectra that are not in the database.

    Returns
    -------
    vectors : ndarray (n, d), float32
        Unit vectors in the encoder's shared space.
    prepared : Prepared

    Raises
    ------
    QueryError
        When the preparation rejects one of them, with its reason.
    """
    prepared = modality.preparation([spectra])
    if prepared.rejections:
        first = prepared.rejections[0]
        raise QueryError(f"the spectrum cannot be used as a query: {first.reason}: {first.detail}")
    return encoder.encode(prepared.flux, modality.name, device=device, pad=False)["shared"], prepared


def metadata_of(store: Store, modality: str, ids: np.ndarray, columns: Sequence[str] | None = None) -> pa.Table:
    """Return metadata rows of the given ids, in their order, which may name one more than once.

    Parameters
    ----------
    store : Store
    modality : str
    ids : ndarray (n,), int64
    columns : sequence of str, optional
        Everything but flux and ivar by default; ``spectrum_id`` is among them in any case.
    """
    dataset = open_parts(store.root, store.spectra_parts(modality))
    if columns is None:
        columns = [name for name in dataset.schema.names if name not in ("flux", "ivar")]
    columns = list(dict.fromkeys(["spectrum_id", *columns]))
    with readable(store.root):
        found = dataset.to_table(columns=columns, filter=pc.field("spectrum_id").isin(pa.array(np.unique(ids), pa.int64())))
    return take_rows(found, ids)


def take_rows(found: pa.Table, ids: np.ndarray) -> pa.Table:
    """Return the rows of the given ids, in their order, from a table that has each of them once."""
    here = found["spectrum_id"].to_numpy()
    order = np.argsort(here)
    place = order[np.minimum(np.searchsorted(here, ids, sorter=order), max(len(here) - 1, 0))] if len(here) else order
    if len(ids) and (not len(here) or (here[place] != ids).any()):
        missing = ids[0] if not len(here) else ids[here[place] != ids][0]
        raise DatabaseError(f"the index knows spectrum {missing}, the stored spectra do not; run `specdb verify`")
    return found.take(pa.array(place[: len(ids)]))
