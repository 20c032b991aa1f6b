"""The kinds of index, behind one registry: how each is built, what it costs, and which knobs trade recall for speed.

A kind is a small class. Where its scores are not of full precision they are computed afresh from the vectors afterwards, so
a kind may be as approximate as it likes inside. `auto` is not a kind but a choice among them, which says why.
"""

from specdb.search.kinds.base import IndexKind, SearchParameters, Structure
from specdb.search.kinds.choice import BuildPlan, choose_kind, get_kind, kind_names, memory_limit, plan_index, register
from specdb.search.kinds.flat import FlatKind
from specdb.search.kinds.graph import CagraKind, HnswKind
from specdb.search.kinds.ivf import Codec, IvfKind

__all__ = [
    "BuildPlan",
    "CagraKind",
    "Codec",
    "FlatKind",
    "HnswKind",
    "IndexKind",
    "IvfKind",
    "SearchParameters",
    "Structure",
    "choose_kind",
    "get_kind",
    "kind_names",
    "memory_limit",
    "plan_index",
    "register",
]
