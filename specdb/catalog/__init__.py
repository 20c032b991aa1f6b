"""Tables beside the vectors: labels, crossmatches, and SQL over everything that a database holds."""

from specdb.catalog.crossmatch import MatchQuality, crossmatch
from specdb.catalog.labels import LabelReport, add_labels, describe_labels, rematch, remove_labels
from specdb.catalog.session import UNTRUSTED, Limits, Session, connect, run_sql

__all__ = [
    "UNTRUSTED",
    "LabelReport",
    "Limits",
    "MatchQuality",
    "Session",
    "add_labels",
    "connect",
    "crossmatch",
    "describe_labels",
    "rematch",
    "remove_labels",
    "run_sql",
]
