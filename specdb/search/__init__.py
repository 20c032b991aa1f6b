"""Vector search: indices with a measured recall, and answers to queries."""

from specdb.search.build import BuildOptions
from specdb.search.card import IndexCard
from specdb.search.certificate import RecallCertificate
from specdb.search.hits import Hits
from specdb.search.index import Appended, VectorIndex

__all__ = ["Appended", "BuildOptions", "Hits", "IndexCard", "RecallCertificate", "VectorIndex"]
