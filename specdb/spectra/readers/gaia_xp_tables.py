"""The containers that Gaia XP tables come in, all turned into Arrow tables of bounded size.

CSV and ECSV (plain or gzip), FITS, VOTable, Parquet, HDF5 and npz are recognised by their first bytes. Column names become
lower case, vectors become list columns (in text files they stay text until `matrix` parses them), and masked or null entries
become nulls. Every error of the libraries underneath becomes a `ReadError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from specdb.errors import ReadError
from specdb.spectra.readers.opened import OpenSource, codec_errors

__all__ = ["BATCH_ROWS", "TableFile", "as_lists", "matrix", "open_table"]

BATCH_ROWS = 4096
CSV_BLOCK_BYTES = 1 << 24  # a row with correlations is about 50 kB of text
_TEXT_NULLS = ["", "null", "NULL", "None", "NaN", "nan", "--"]
_NUMBER_COLUMNS = re.compile(r"(e_)?[br]p_coeff_\d+|ra|dec|flux_\d+|phot_g_mean_mag|bp_rp|[br]p_n_\w+")
_CUT_SHORT = re.compile(r"truncat|unexpected end|end of file|no element found|unclosed token|magic bytes not found", re.I)

Batches = Callable[[Callable[[str], bool]], Iterator[pa.Table]]


class TableFile(NamedTuple):
    """An opened table: its container, its column names, and `batches(wanted)`, which reads the columns that are wanted."""

    container: str
    names: list[str]
    batches: Batches


def open_table(opened: OpenSource) -> TableFile:
    """Recognise the container by the first bytes and read the column names.

    Raises
    ------
    ReadError
        ``empty_file``, ``unknown_format``, ``truncated`` or ``corrupt``.
    """
    head = opened.head
    container, opener = next(
        ((name, open_it) for name, start, open_it in _CONTAINERS if re.match(start, head)), ("CSV", _open_csv)
    )
    if container == "CSV" and b"\0" in head:
        raise ReadError("unknown_format", f"starts with {head[:8]!r}, as no table that is known here does")
    with _table_errors(container):
        return TableFile(container, *opener(opened))


@contextmanager
def _table_errors(container: str) -> Iterator[None]:
    """As `codec_errors`, but tells a table that was cut short from one that is damaged in other ways."""
    with codec_errors(container):
        try:
            yield
        except Exception as error:  # the libraries underneath share no base class; all that is not recognised goes on
            if not isinstance(error, ReadError) and _CUT_SHORT.search(str(error)):
                raise ReadError("truncated", f"{container}: {error}; fetch the file again") from error
            raise


def matrix(column: pa.ChunkedArray, width: int, name: str) -> np.ndarray:
    """Return a vector column as numbers.

    Parameters
    ----------
    column : pyarrow.ChunkedArray of n rows
        Lists of numbers, or text such as ``(1.5, 2E3)`` or ``[1.5,NaN,null]``. Null, empty and ``[NaN]`` stand for a missing
        vector.
    width : int
        Length that every vector present must have.
    name : str
        For the error message.

    Returns
    -------
    ndarray (n, width), float64
        NaN where the vector or one of its elements is missing.

    Raises
    ------
    ReadError
        ``corrupt`` for a vector of another length or text that is no number.
    """
    with codec_errors(name):
        lists = as_lists(column, name)
        out = np.full((len(lists), width), np.nan)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        values = pc.list_flatten(lists).cast(pa.float64()).to_numpy(zero_copy_only=False)
        last = np.append(values, 0.0)[np.cumsum(lengths) - 1]
        odd = np.flatnonzero((lengths != width) & (lengths != 0) & ~((lengths == 1) & np.isnan(last)))
        if odd.size:
            row = int(odd[0])
            raise ReadError(
                "corrupt", f"{name} has {lengths[row]} values in row {row} of its batch; expected {width} or none"
            )
        full = lengths == width
        out[full] = values[np.repeat(full, lengths)].reshape(-1, width)
    return out


def as_lists(column: pa.ChunkedArray | pa.Array, name: str) -> pa.Array:
    """Return a vector column, which may be text, as a list array.

    Raises
    ------
    ReadError
        ``corrupt`` for a column of single values that are not all missing, or for text that is no number.
    """
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    with codec_errors(name):
        if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
            return _parse_vectors(array)
        if _is_list(array.type):
            return array
        if pc.all(pc.is_null(array, nan_is_null=True), min_count=0).as_py():
            return pa.nulls(len(array), pa.list_(pa.float64()))
        raise ReadError("corrupt", f"{name} holds single values of type {array.type}; expected vectors")


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _parse_vectors(text: pa.Array) -> pa.Array:
    """Split the text form of vectors into lists of numbers; parsing stays in Arrow, whatever the number of rows."""
    bare = pc.ascii_trim(text, " \t()[]")
    parts = pc.split_pattern(pc.if_else(pc.equal(bare, ""), None, bare), ",")
    flat = pc.ascii_trim_whitespace(parts.values)
    flat = pc.if_else(pc.is_in(flat, pa.array(_TEXT_NULLS, flat.type)), None, flat)
    kind = pa.large_list if pa.types.is_large_list(parts.type) else pa.list_
    lists = type(parts).from_arrays(parts.offsets, flat.cast(pa.float64()), type=kind(pa.float64()))
    return pc.if_else(pc.is_valid(parts), lists, None)


def _open_csv(opened: OpenSource) -> tuple[list[str], Batches]:
    from pyarrow import csv

    skipped, delimiter = 0, ","
    with opened.stream() as stream:
        for raw in stream:
            line = raw.decode("utf-8-sig", "replace")
            if not line.startswith("#"):
                break
            skipped += 1
            if line.startswith("# %ECSV"):
                delimiter = " "  # what ECSV takes where its header names none
            if match := re.match(r"# delimiter: '(.)'", line):
                delimiter = match[1]
        else:
            raise ReadError("empty_file", "there is nothing but comment lines; expected a table")
    header = [name.strip().strip('"').lower() for name in line.split(delimiter)]

    def batches(wanted: Callable[[str], bool]) -> Iterator[pa.Table]:
        columns = [name for name in header if wanted(name)]
        types = {name: pa.float64() if _NUMBER_COLUMNS.fullmatch(name) else pa.string() for name in columns}
        types |= {name: pa.int64() for name in columns if name == "source_id"}
        with opened.stream() as stream, _table_errors("CSV"):
            reader = csv.open_csv(
                pa.PythonFile(stream, mode="r"),
                csv.ReadOptions(block_size=CSV_BLOCK_BYTES, skip_rows=skipped + 1, column_names=header),
                csv.ParseOptions(delimiter=delimiter),
                csv.ConvertOptions(
                    column_types=types, include_columns=columns, null_values=_TEXT_NULLS, strings_can_be_null=True
                ),
            )
            for batch in reader:
                yield from _pieces(pa.Table.from_batches([batch]))

    return header, batches


def _open_fits(opened: OpenSource) -> tuple[list[str], Batches]:
    from astropy.io import fits

    table = next((hdu for hdu in opened.hdus if isinstance(hdu, fits.BinTableHDU)), None)
    if table is None:
        return [], lambda wanted: iter(())

    def batches(wanted: Callable[[str], bool]) -> Iterator[pa.Table]:
        with _table_errors("FITS"):
            columns = [column for column in table.columns if wanted(column.name.lower())]
            for start in range(0, len(table.data), BATCH_ROWS):
                rows = table.data[start : start + BATCH_ROWS]
                yield _arrow({c.name.lower(): _unmask(rows[c.name], c.null) for c in columns})

    return [name.lower() for name in table.columns.names], batches


def _unmask(values: np.ndarray, null: int | None) -> np.ndarray:
    return values if null is None else np.ma.masked_equal(values, null)


def _open_votable(opened: OpenSource) -> tuple[list[str], Batches]:
    from astropy.io.votable import parse_single_table

    with opened.stream() as stream:
        start = stream.read(1 << 18).decode(errors="replace")
    names = [name.lower() for name in re.findall(r"<(?:\w+:)?FIELD\b[^>]*?\bname=[\"']([^\"']+)", start)]

    def batches(wanted: Callable[[str], bool]) -> Iterator[pa.Table]:
        with opened.stream() as stream, _table_errors("VOTable"):
            table = parse_single_table(stream, verify="ignore")
            columns = {f.name.lower(): table.array[f.ID or f.name] for f in table.fields if wanted(f.name.lower())}
            yield from _pieces(_arrow(columns))

    return names, batches


def _open_parquet(opened: OpenSource) -> tuple[list[str], Batches]:
    from pyarrow import parquet

    file = parquet.ParquetFile(opened.stream())
    names = file.schema_arrow.names

    def batches(wanted: Callable[[str], bool]) -> Iterator[pa.Table]:
        with _table_errors("Parquet"):
            columns = [name for name in names if wanted(name.lower())]
            for batch in file.iter_batches(BATCH_ROWS, columns=columns):
                yield pa.Table.from_batches([batch]).rename_columns([name.lower() for name in batch.schema.names])

    return [name.lower() for name in names], batches


def _open_npz(opened: OpenSource) -> tuple[list[str], Batches]:
    archive = np.load(opened.stream(), allow_pickle=False)

    def batches(wanted: Callable[[str], bool]) -> Iterator[pa.Table]:
        with _table_errors("npz"):
            yield from _columnar({name.lower(): archive[name] for name in archive.files if wanted(name.lower())})

    return [name.lower() for name in archive.files], batches


def _open_hdf5(opened: OpenSource) -> tuple[list[str], Batches]:
    import h5py

    file = h5py.File(opened.stream(), "r")
    node = next((n for n in (file, *file.values()) if isinstance(n, h5py.Group) and "source_id" in n), file)
    datasets = {name.lower(): item for name, item in node.items() if isinstance(item, h5py.Dataset)}
    groups = [item for item in file.values() if isinstance(item, h5py.Group) and {"WAVELENGTH", "FLUX"} <= set(item)]
    if groups and not datasets:  # one group per star, named NAME_sourceid, as the CALSPEC collection has it
        return ["source_id", "object_name", "wavelength", "flux", "flux_error"], lambda wanted: _grouped(groups)

    def batches(wanted: Callable[[str], bool]) -> Iterator[pa.Table]:
        with _table_errors("HDF5"):
            yield from _columnar({name: data for name, data in datasets.items() if wanted(name)})

    return list(datasets), batches


def _grouped(groups: list) -> Iterator[pa.Table]:
    with _table_errors("HDF5"):
        for start in range(0, len(groups), BATCH_ROWS):
            part = groups[start : start + BATCH_ROWS]
            names = [group.name.strip("/").rpartition("_") for group in part]
            columns = {"source_id": [int(number) for _, _, number in names], "object_name": [name for name, _, _ in names]}
            vectors = (("wavelength", "WAVELENGTH"), ("flux", "FLUX"), ("flux_error", "STATERROR"))
            yield pa.table(
                columns | {to: [group[key][()] if key in group else None for group in part] for to, key in vectors}
            )


def _columnar(columns: dict) -> Iterator[pa.Table]:
    """Cut arrays, read or still on disk, into batches of rows; a one-dimensional wavelength belongs to every row."""
    grids = {name: data[()] for name, data in columns.items() if name.startswith("wavelength") and len(data.shape) == 1}
    rows = {name: data for name, data in columns.items() if name not in grids and data.shape}
    lengths = {len(data) for data in rows.values()}
    if len(lengths) != 1:
        raise ReadError("corrupt", f"the columns have {sorted(lengths)} rows; expected one number")
    n = lengths.pop()
    for start in range(0, n, BATCH_ROWS):
        part = {name: data[start : start + BATCH_ROWS] for name, data in rows.items()}
        stop = min(n, start + BATCH_ROWS)
        yield _arrow(part | {name: np.tile(grid, (stop - start, 1)) for name, grid in grids.items()})


def _arrow(columns: dict[str, np.ndarray]) -> pa.Table:
    """Turn NumPy columns, masked, big-endian or of vectors of varying length as they may be, into an Arrow table."""
    return pa.table({name: _arrow_column(values) for name, values in columns.items()})


def _arrow_column(values: np.ndarray) -> pa.Array:
    if values.dtype == object:
        rows = [np.asarray(np.ma.filled(row, np.nan)) if np.ndim(row) else row for row in values]
        return pa.array([row.astype(row.dtype.newbyteorder("=")) if isinstance(row, np.ndarray) else row for row in rows])
    mask = np.ma.getmaskarray(values) if np.ma.isMaskedArray(values) else None
    plain = np.asarray(values)
    plain = plain.astype(plain.dtype.newbyteorder("="), copy=False)
    if plain.ndim == 2:
        if mask is not None and plain.dtype.kind == "f":
            plain = np.where(mask, np.nan, plain)
        return pa.FixedSizeListArray.from_arrays(pa.array(plain.ravel()), plain.shape[1])
    if plain.dtype.kind == "S":
        plain = np.char.decode(plain, "utf-8", "replace")
    return pa.array(plain, mask=mask)


def _pieces(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, BATCH_ROWS):
        yield table.slice(start, BATCH_ROWS)


_CONTAINERS: tuple[tuple[str, bytes, Callable[[OpenSource], tuple[list[str], Batches]]], ...] = (
    ("FITS", rb"SIMPLE  =", _open_fits),
    ("VOTable", rb"(?s)\s*(<\?xml.*)?<(\w+:)?VOTABLE", _open_votable),
    ("Parquet", rb"PAR1", _open_parquet),
    ("HDF5", rb"\x89HDF\r\n\x1a\n", _open_hdf5),
    ("npz", rb"PK\x03\x04", _open_npz),
)
