"""Read tensors from files that `torch.save` wrote, without torch's unpickler.

Two layouts exist. Since torch 1.6: a zip archive with `<top>/data.pkl` and the raw bytes of each storage in
`<top>/data/<key>`, uncompressed. Before: a stream of pickles (magic number, protocol version, system facts, the object, the
list of storage keys) followed by the storages, each an int64 count and raw bytes.

Both describe a tensor as a call of `torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, ...)`, where the storage
is a persistent id ``("storage", class, key, device, count)``. Facts: torch/serialization.py and torch/_utils.py.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from specdb.encoders.unpickle import Global, Inert, PersistentId, read_pickle
from specdb.errors import CheckpointError

__all__ = ["TorchFile", "as_mapping", "foreign_names"]

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_ORDERED_DICT = Global("collections", "OrderedDict")
_REBUILD_TENSOR = {Global("torch._utils", "_rebuild_tensor_v2"), Global("torch._utils", "_rebuild_tensor")}
_REBUILD_PARAMETER = {
    Global("torch._utils", "_rebuild_parameter"),
    Global("torch._utils", "_rebuild_parameter_with_state"),
    Global("torch.nn.parameter", "Parameter"),
}
_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


def as_mapping(value: Any) -> dict[Any, Any] | None:
    """Return the entries of a dict or of what was an OrderedDict, else None."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Inert) and value.what == _ORDERED_DICT:
        return value.entries
    return None


def is_tensor(value: Any) -> bool:
    """Whether a record stands for a tensor or parameter."""
    return isinstance(value, Inert) and value.what in (_REBUILD_TENSOR | _REBUILD_PARAMETER)


def foreign_names(value: Any) -> list[str]:
    """Return the sorted names of all classes and functions in unpickled data that are neither tensors nor containers."""
    found: set[str] = set()
    seen: set[int] = set()
    todo = [value]
    while todo:
        item = todo.pop()
        if id(item) in seen or isinstance(item, str | bytes | int | float):
            continue
        seen.add(id(item))
        if isinstance(item, Global):
            found.add(str(item))
        elif isinstance(item, dict):
            todo += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            todo += item
        elif isinstance(item, Inert) and not is_tensor(item):
            what = [] if item.what == _ORDERED_DICT else [item.what]
            todo += [*what, item.args, item.state, item.items, item.entries]
    return sorted(found)


class TorchFile:
    """A file written by `torch.save`, open for reading; use it as a context manager.

    Attributes
    ----------
    content : object
        The saved object as plain data; tensors are records for `tensor`.
    """

    def __init__(self, path: Path) -> None:
        self.source = str(path)
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
        self._storages: dict[str, Tensor] = {}
        self._read_storage: Callable[[str, int], bytes]
        try:
            if zipfile.is_zipfile(self._file):
                self._open_zip()
            else:
                self._open_legacy()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TorchFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _broken(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.source}: {what}; the file is damaged or was not written by torch.save")

    def _open_zip(self) -> None:
        try:
            archive = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise self._broken(f"not a complete zip archive ({error})") from error
        members = {member.filename: member for member in archive.infolist()}
        pickles = [name for name in members if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise self._broken(f"{len(pickles)} members called data.pkl instead of one")
        top = pickles[0].removesuffix("data.pkl")

        def read(name: str) -> bytes:
            if name not in members:
                raise self._broken(f"the member {name} is missing")
            # torch never compresses; a small member that unpacks to something huge is an attack.
            if members[name].compress_type != zipfile.ZIP_STORED:
                raise self._broken(f"the member {name} is compressed")
            try:
                return archive.read(name)
            except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError) as error:
                raise self._broken(f"the member {name} cannot be read ({error})") from error

        if f"{top}byteorder" in members and read(f"{top}byteorder").strip() != b"little":
            raise CheckpointError(f"{self.source} was written on a big-endian machine; save it again on a little-endian one")
        read(pickles[0])  # checks presence, compression and CRC before anything is decoded
        with archive.open(pickles[0]) as stream:
            self.content = read_pickle(stream, self.source)
        self._read_storage = lambda key, size: read(f"{top}data/{key}")

    def _open_legacy(self) -> None:
        stream = self._file
        stream.seek(0)
        if read_pickle(stream, self.source) != _LEGACY_MAGIC:
            raise self._broken("neither a zip archive nor the older layout")
        read_pickle(stream, self.source)  # protocol version
        facts = read_pickle(stream, self.source)
        if not (isinstance(facts, dict) and facts.get("little_endian") is True):
            raise CheckpointError(f"{self.source} was written on a big-endian machine; save it again on a little-endian one")
        self.content = read_pickle(stream, self.source)
        keys = read_pickle(stream, self.source)
        start = stream.tell()
        itemsizes = {key: dtype.itemsize for key, dtype in self._declared_storages()}
        if not (isinstance(keys, list) and all(isinstance(key, str) and key in itemsizes for key in keys)):
            raise self._broken("the list of storages does not fit the object")
        places = {}
        for key in keys:
            stream.seek(start)
            head = stream.read(8)
            if len(head) < 8:
                raise self._broken("the storages end too early")
            places[key] = (start + 8, struct.unpack("<q", head)[0] * itemsizes[key])
            start += 8 + max(places[key][1], 0)

        def read(key: str, size: int) -> bytes:
            if key not in places or places[key][1] != size:
                raise self._broken(f"storage {key} is missing or of another size")
            stream.seek(places[key][0])
            return stream.read(size)

        self._read_storage = read

    def _declared_storages(self) -> Iterator[tuple[str, torch.dtype]]:
        """Yield key and dtype of every storage that the object mentions."""
        seen: set[int] = set()
        todo = [self.content]
        while todo:
            item = todo.pop()
            if id(item) in seen or isinstance(item, str | bytes | int | float):
                continue
            seen.add(id(item))
            if isinstance(item, PersistentId):
                key, dtype, _ = self._storage_id(item)
                yield key, dtype
            elif isinstance(item, dict):
                todo += [*item.keys(), *item.values()]
            elif isinstance(item, list | tuple | set | frozenset):
                todo += item
            elif isinstance(item, Inert):
                todo += [item.args, item.state, item.items, item.entries]

    def _storage_id(self, record: Any) -> tuple[str, torch.dtype, int]:
        """Return key, dtype and count of a storage."""
        match record:
            case PersistentId(("storage", Global("torch" | "torch.storage", name), str(key), str(), int(count), *_)) if (
                name in _DTYPES and count >= 0
            ):
                return key, _DTYPES[name], count
        raise self._broken("a tensor refers to a storage in a way that torch.save does not write")

    def _storage(self, record: Any) -> Tensor:
        key, dtype, count = self._storage_id(record)
        if key not in self._storages:
            size = count * dtype.itemsize
            data = self._read_storage(key, size)
            if len(data) != size:
                raise self._broken(f"storage {key} has {len(data)} bytes instead of {size}")
            # frombuffer wants a writable, non-empty buffer
            self._storages[key] = torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)
        storage = self._storages[key]
        if storage.dtype != dtype or storage.numel() != count:
            raise self._broken(f"storage {key} is described in two different ways")
        return storage

    def tensor(self, record: Any) -> Tensor:
        """Return the tensor that a record stands for, with memory of its own.

        Raises
        ------
        CheckpointError
            When the record is no tensor, or one that reaches beyond its storage.
        """
        depth = 0
        while (
            isinstance(record, Inert)
            and record.what in _REBUILD_PARAMETER
            and isinstance(record.args, tuple)
            and record.args
        ):
            record, depth = record.args[0], depth + 1
            if depth > 4:
                raise self._broken("a parameter inside a parameter")
        if not (isinstance(record, Inert) and record.what in _REBUILD_TENSOR):
            raise self._broken("a weight is not a plain tensor")
        match record.args:
            case (storage_record, int(offset), tuple(shape), tuple(stride), *_):
                pass
            case _:
                raise self._broken("a tensor is described in a way that torch.save does not write")
        numbers = (offset, *shape, *stride)
        if len(shape) != len(stride) or not all(type(n) is int and 0 <= n < 2**62 for n in numbers):
            raise self._broken(f"a tensor has shape {shape} and stride {stride}")
        storage = self._storage(storage_record)
        numel = math.prod(shape)
        last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if numel else offset - 1
        if last >= storage.numel() or numel > storage.numel():
            raise self._broken(f"a tensor of shape {shape} reaches beyond its storage of {storage.numel()} values")
        return storage.as_strided(shape, stride, offset).clone(memory_format=torch.contiguous_format)
