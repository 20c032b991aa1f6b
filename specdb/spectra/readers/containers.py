"""Parquet, HDF5 and npz seen alike: named columns that are read in batches, and constants."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from specdb.errors import ReadError
from specdb.spectra.readers.opened import OpenSource, codec_errors

__all__ = ["Store", "kind_of", "open_store"]

_BATCH = 1024


@dataclass(frozen=True)
class Store:
    """What the three containers have in common; names are in lower case.

    Attributes
    ----------
    columns : dict of name to shape
        All arrays, numbers and strings.
    constants : dict of name to value
        Attributes, metadata of the schema, scalars; ``name.unit`` for the unit of a dataset.
    read : callable
        Given names of arrays of equal length, yields them in batches of up to 1024 rows.
    whole : callable
        Returns one array in full.
    """

    columns: dict[str, tuple[int, ...]]
    constants: dict[str, Any]
    read: Callable[[list[str]], Iterator[dict[str, np.ndarray]]]
    whole: Callable[[str], np.ndarray]


def kind_of(opened: OpenSource) -> str:
    """Return Parquet, HDF5 or npz by the first bytes; empty for anything else."""
    signatures = {b"PAR1": "Parquet", b"\x89HDF": "HDF5", b"PK\x03\x04": "npz"}
    return signatures.get(opened.head[:4], "")


@contextmanager
def open_store(opened: OpenSource) -> Iterator[Store]:
    """The columns of a file of any of the three kinds."""
    kind = kind_of(opened)
    with codec_errors(kind or "columnar"), opened.stream() as stream:
        if kind == "Parquet":
            yield _parquet(stream)
        elif kind == "HDF5":
            import h5py

            with h5py.File(stream, "r") as file:
                yield _hdf5(file)
        elif kind == "npz":
            with zipfile.ZipFile(stream) as archive:
                yield _npz(archive)
        else:
            raise ReadError("unknown_format", "neither Parquet nor HDF5 nor npz")


def _parquet(stream: Any) -> Store:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(stream)
    schema = file.schema_arrow
    constants = {key.decode().lower(): value for key, value in (schema.metadata or {}).items()}
    n = file.metadata.num_rows
    spelling = {f.name.lower(): f.name for f in schema}
    first = next(file.iter_batches(1), None) if n else None
    columns: dict[str, tuple[int, ...]] = {}
    for f in schema:
        nested = pa.types.is_list(f.type) or pa.types.is_large_list(f.type) or pa.types.is_fixed_size_list(f.type)
        width = len(first.column(f.name)[0].as_py() or ()) if nested and first is not None else 0
        columns[f.name.lower()] = (n, width) if nested else (n,)

    def read(names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        for batch in file.iter_batches(_BATCH, columns=[spelling[name] for name in names]):
            yield {name: _from_arrow(batch.column(spelling[name])) for name in names}

    return Store(columns, constants, read, lambda name: file.read([spelling[name]]).column(0).to_numpy())


def _from_arrow(column: pa.Array) -> np.ndarray:
    """A matrix for lists of one length without nulls, which costs no loop; else objects."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type):
        flat = column.flatten()
        if not column.null_count and not flat.null_count and len(column) and len(flat) % len(column) == 0:
            fixed = pa.types.is_fixed_size_list(column.type)
            if fixed or not np.ptp(np.diff(column.offsets.to_numpy(zero_copy_only=False))):
                return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
    out = np.empty(len(column), dtype=object)
    out[:] = column.to_pylist()
    return out


def _hdf5(file: Any) -> Store:
    datasets = {name.lower(): item for name, item in file.items() if hasattr(item, "shape")}
    constants = {key.lower(): value for key, value in file.attrs.items()}
    for name, data in datasets.items():
        for key in ("unit", "units"):
            if isinstance(unit := data.attrs.get(key), str):
                constants[f"{name}.unit"] = unit
        if data.shape == ():
            constants[name] = data[()]

    def read(names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(datasets[names[0]]), _BATCH):
            yield {name: datasets[name][start : start + _BATCH] for name in names}

    return Store({k: v.shape for k, v in datasets.items() if v.shape}, constants, read, lambda name: datasets[name][:])


def _npz(archive: zipfile.ZipFile) -> Store:
    members = {name.removesuffix(".npy").lower(): name for name in archive.namelist()}
    heads = {name: _npy_head(archive, member) for name, member in members.items()}
    constants = {name: next(_npy_rows(archive, members[name], 1))[()] for name, head in heads.items() if head == ()}

    def read(names: list[str]) -> Iterator[dict[str, np.ndarray]]:
        streams = [_npy_rows(archive, members[name], _BATCH) for name in names]
        for arrays in zip(*streams, strict=True):
            yield dict(zip(names, arrays, strict=True))

    def whole(name: str) -> np.ndarray:
        return np.concatenate(list(_npy_rows(archive, members[name], 1 << 20)))

    return Store({name: head for name, head in heads.items() if head}, constants, read, whole)


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(file)
    if dtype.hasobject:
        raise ReadError("corrupt", "an array of Python objects would need pickle, which is never read; save plain arrays")
    if fortran and len(shape) > 1:
        raise ReadError("corrupt", "an array in Fortran order cannot be read row by row; save np.ascontiguousarray(array)")
    return shape, fortran, dtype


def _npy_head(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    with archive.open(member) as file:
        return _npy_header(file)[0]


def _npy_rows(archive: zipfile.ZipFile, member: str, size: int) -> Iterator[np.ndarray]:
    """Rows of an array in an archive, `size` at a time: `numpy.load` would hold all of it."""
    with archive.open(member) as file:
        shape, _, dtype = _npy_header(file)
        if shape == ():
            yield np.frombuffer(file.read(dtype.itemsize), dtype)[0]
            return
        row = dtype.itemsize * int(np.prod(shape[1:]))
        for start in range(0, shape[0], size):
            n = min(size, shape[0] - start)
            data = file.read(n * row)
            if len(data) < n * row:
                raise ReadError("truncated", f"{member} ends after {start + len(data) // max(row, 1)} of {shape[0]} rows")
            yield np.frombuffer(data, dtype).reshape(n, *shape[1:])
