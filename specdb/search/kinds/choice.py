"""Which kinds there are, and which of them `auto` takes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from specdb.errors import InputError
from specdb.search.kinds.base import IndexKind
from specdb.search.kinds.flat import FlatKind
from specdb.search.kinds.graph import CagraKind, HnswKind
from specdb.search.kinds.ivf import Codec, IvfKind

__all__ = ["BuildPlan", "choose_kind", "get_kind", "kind_names", "memory_limit", "plan_index", "register"]

#: Up to here an exact scan takes a few milliseconds (50,000 x 256: about 2 ms on one core) and needs no training.
FLAT_LIMIT = 50_000

_KINDS: dict[str, IndexKind] = {}


def register(kind: IndexKind) -> IndexKind:
    """Add a kind under its name."""
    _KINDS[kind.name] = kind
    return kind


def kind_names() -> list[str]:
    """Return the names of all kinds, sorted."""
    return sorted(_KINDS)


def get_kind(name: str) -> IndexKind:
    """Return the kind of that name, or raise `InputError` listing the known ones."""
    try:
        return _KINDS[name]
    except KeyError:
        raise InputError(f"no kind of index is called {name!r}; known kinds: auto, {', '.join(kind_names())}") from None


register(FlatKind())
register(IvfKind("ivf-flat", Codec("Flat", 32), step_up="flat"))
register(IvfKind("ivf-sq8", Codec("SQ8", 8, refine=(2, 4, 8)), step_up="ivf-flat"))
register(IvfKind("ivf-pq", Codec("PQ{half}x4fs", 2, refine=(4, 8, 16, 32), half=True, block=32), step_up="ivf-sq8"))
register(IvfKind("ivf-rabitq", Codec("RaBitQfs", 1, 8, (4, 8, 16, 32, 64), half=True, block=32), step_up="ivf-sq8"))
register(HnswKind())
register(CagraKind())


def memory_limit(memory_bytes: int | None) -> int:
    """Return what an index may occupy: as asked, or a quarter of the machine's memory."""
    return memory_bytes or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4


def choose_kind(n: int, dim: int, memory_bytes: int | None = None, recall: float = 0.99) -> tuple[IndexKind, str]:
    """Choose a kind for n vectors.

    Parameters
    ----------
    n, dim : int
    memory_bytes : int, optional
        What the index may occupy; a quarter of the machine's memory by default.
    recall : float
        recall@10 asked for.

    Returns
    -------
    kind : IndexKind
    why : str
        One sentence for people.
    """
    if n <= FLAT_LIMIT:
        return get_kind("flat"), f"flat, since an exact scan of {n:,} vectors (at most {FLAT_LIMIT:,}) is fast enough"
    if recall >= 1:
        return get_kind("flat"), "flat, since a recall of 1 is certain only if every vector is compared"
    # Not ivf-flat: one-byte codes with re-ranking are as accurate, faster (less memory to read) and a quarter of the size.
    # Not hnsw: ten to thirty times the time to build it, for answers no faster (docs/indices.md has the figures).
    limit = memory_limit(memory_bytes)
    bytewise, bitwise = get_kind("ivf-sq8"), get_kind("ivf-rabitq")
    need = bytewise.estimate_bytes(n, dim)
    if need <= limit:
        return bytewise, (
            f"ivf-sq8, since {n:,} vectors are too many to scan; one byte per value makes {_size(need)}, within the "
            f"{_size(limit)} allowed, and re-ranking with the full vectors restores precision"
        )
    small = bitwise.estimate_bytes(n, dim)
    fits = "within" if small <= limit else "paged from disk as needed, being more than"
    return bitwise, (
        f"ivf-rabitq, since one byte per value would make {_size(need)}, more than the {_size(limit)} allowed; one bit per "
        f"value makes {_size(small)}, {fits} that, and re-ranking with vectors in half precision restores precision"
    )


@dataclass(frozen=True)
class BuildPlan:
    """What a build is going to do, said before it begins.

    Attributes
    ----------
    kind : IndexKind
    why : str
    structure_bytes : int
        The index proper: memory while searching, and disk.
    disk_bytes : int
        Structure and stored vectors together.
    building_bytes : int
        Memory that building takes at most, beyond what the system keeps of files.
    """

    kind: IndexKind
    why: str
    structure_bytes: int
    disk_bytes: int
    building_bytes: int

    def __str__(self) -> str:
        """Two sentences for people."""
        return (
            f"{self.why}. Estimate: {_size(self.structure_bytes)} index beside the vectors, {_size(self.disk_bytes)} on "
            f"disk in all, building takes up to {_size(self.building_bytes)} of memory"
        )


def plan_index(n: int, dim: int, kind: str = "auto", memory_bytes: int | None = None, recall: float = 0.99) -> BuildPlan:
    """Say which kind would be built for n vectors, why, and what it costs.

    Raises
    ------
    InputError
        For a kind that cannot hold them.
    """
    if kind == "auto":
        chosen, why = choose_kind(n, dim, memory_bytes, recall)
    else:
        chosen, why = get_kind(kind), f"{kind}, as asked"
    chosen.validate(n, dim)
    structure = chosen.estimate_bytes(n, dim)
    vectors = n * dim * (6 if chosen.half else 4) + 8 * n
    limit = memory_limit(memory_bytes)
    # A training sample and one block of rows, then the structure or as much of it as is held before it is written.
    sample = min(n * dim * 4, limit // 2) if chosen.trained else 0
    held = min(structure, limit // 2) if chosen.divisible else structure + 4 * n * dim
    return BuildPlan(chosen, why, structure, structure + vectors, sample + held + (1 << 26))


def _size(count: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB" if count < 1000 else f"{count:,.0f} GiB"
