"""Vector search: indices with a measured recall, and answers to queries."""

from specdb.search.build import BuildOptions
from specdb.search.card import IndexCard
from specdb.search.certificate import RecallCertificate
from specdb.search.growth import Changed
from specdb.search.hits import Hits, JointHits
from specdb.search.index import VectorIndex
from specdb.search.kinds import BuildPlan, SearchParameters, kind_names, plan_index
from specdb.search.planner import Plan

__all__ = [
    "BuildOptions",
    "BuildPlan",
    "Changed",
    "Hits",
    "IndexCard",
    "JointHits",
    "Plan",
    "RecallCertificate",
    "SearchParameters",
    "VectorIndex",
    "kind_names",
    "plan_index",
]
