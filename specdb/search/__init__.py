"""Vector search: indices with a measured recall, and answers to queries."""

from specdb.search.build import BuildOptions
from specdb.search.card import IndexCard
from specdb.search.certificate import RecallCertificate
from specdb.search.hits import Hits, JointHits
from specdb.search.index import Appended, VectorIndex
from specdb.search.planner import Plan

__all__ = ["Appended", "BuildOptions", "Hits", "IndexCard", "JointHits", "Plan", "RecallCertificate", "VectorIndex"]
