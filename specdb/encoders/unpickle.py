"""Read the data out of a pickle without executing anything in it.

A pickle is a program for a small stack machine, and only two of its instructions matter for safety: fetch a global, and call
what was fetched. This reader has neither. `pickletools.genops` decodes the instructions; here they build plain containers,
and every object that the program would import, construct or call becomes an inert record of what was asked for (`Inert`),
with its arguments and state as data. What a caller wants to understand (tensors, say) it recognises among these records.

torch's own restricted loader (`weights_only=True`) refuses a file with foreign objects; this one reads around them.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any

from specdb.errors import CheckpointError

__all__ = ["Global", "Inert", "PersistentId", "read_pickle"]


@dataclass(frozen=True)
class Global:
    """A class or function by name; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class PersistentId:
    """A reference to something stored outside the pickle."""

    value: Any


@dataclass(eq=False)
class Inert:
    """What would have been an object: the callable and arguments that make it, and what would be put into it."""

    what: Any
    args: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)


class _Mark:
    pass


_LITERALS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_IGNORED = {"PROTO", "FRAME", "READONLY_BUFFER"}
_ARGUMENTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}


def _key(value: Any) -> Any:
    """Return what stands for a value in a dict or set; hashing nested tuples can be made to take for ever."""
    if value is None or isinstance(value, str | bytes | int | float | Global | Inert):
        return value
    return Inert(None, value)


class _Machine:
    """The stack machine; one method per family of instructions that do more than push a value."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: IO[bytes]) -> Any:
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _ARGUMENTS:
                self.stack.append(argument)
            elif name in _LITERALS:
                self.stack.append(_LITERALS[name])
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name not in _IGNORED:
                getattr(self, f"do_{name.lower()}", self.unknown)(argument)
        raise ValueError("no STOP instruction")

    def unknown(self, argument: Any) -> None:
        raise ValueError("an instruction that model files do not use")

    def to_mark(self) -> list[Any]:
        """Pop everything above the topmost mark, and the mark."""
        for i in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[i], _Mark):
                found = self.stack[i + 1 :]
                del self.stack[i:]
                return found
        raise ValueError("no mark on the stack")

    def do_mark(self, _: Any) -> None:
        self.stack.append(_Mark())

    def do_pop(self, _: Any) -> None:
        self.stack.pop()

    def do_pop_mark(self, _: Any) -> None:
        self.to_mark()

    def do_dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def do_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    do_binput = do_long_binput = do_put

    def do_memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    do_binget = do_long_binget = do_get

    def do_list(self, _: Any) -> None:
        self.stack.append(self.to_mark())

    def do_tuple(self, _: Any) -> None:
        self.stack.append(tuple(self.to_mark()))

    def do_tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def do_tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def do_tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def do_dict(self, _: Any) -> None:
        flat = self.to_mark()
        self.stack.append({})
        self.update(flat)

    def do_frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(map(_key, self.to_mark())))

    def do_append(self, _: Any) -> None:
        value = self.stack.pop()
        self.extend([value])

    def do_appends(self, _: Any) -> None:
        self.extend(self.to_mark())

    do_additems = do_appends

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.items.extend(values)
        elif isinstance(target, set):
            target.update(map(_key, values))
        elif isinstance(target, list):
            target.extend(values)
        else:
            raise ValueError("values for something that is not a list")

    def do_setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def do_setitems(self, _: Any) -> None:
        self.update(self.to_mark())

    def update(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        pairs = dict(zip(map(_key, flat[::2]), flat[1::2], strict=True))
        if isinstance(target, Inert):
            target.entries.update(pairs)
        elif isinstance(target, dict):
            target.update(pairs)
        else:
            raise ValueError("entries for something that is not a dictionary")

    def do_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Global(module, name))

    def do_stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Global(str(module), str(name)))

    def do_reduce(self, _: Any) -> None:
        arguments, what = self.stack.pop(), self.stack.pop()
        self.stack.append(Inert(what, arguments))

    do_newobj = do_reduce

    def do_newobj_ex(self, _: Any) -> None:
        keywords, arguments, what = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(Inert(what, (arguments, keywords)))

    def do_inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Inert(Global(module, name), tuple(self.to_mark())))

    def do_obj(self, _: Any) -> None:
        what, *arguments = self.to_mark()
        self.stack.append(Inert(what, tuple(arguments)))

    def do_build(self, _: Any) -> None:
        state = self.stack.pop()
        # On anything but an inert record, BUILD would set attributes; data has none worth keeping.
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def do_persid(self, argument: str) -> None:
        self.stack.append(PersistentId(argument))

    def do_binpersid(self, _: Any) -> None:
        self.stack.append(PersistentId(self.stack.pop()))


def read_pickle(stream: IO[bytes], source: str) -> Any:
    """Read one pickle from a stream, which is left behind its STOP instruction.

    Parameters
    ----------
    stream : binary file
    source : str
        Name for error messages.

    Returns
    -------
    object
        Numbers, strings, bytes, lists, tuples, dicts and sets as they were; all else as `Global`, `Inert`, `PersistentId`.

    Raises
    ------
    CheckpointError
        When the bytes are not a complete pickle.
    """
    try:
        return _Machine().run(stream)
    except (ValueError, LookupError, TypeError, EOFError, OverflowError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{source} is not a complete pickle ({reason}); it is damaged or of another kind") from error
