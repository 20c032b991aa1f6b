"""Tables beside the vectors: labels, crossmatches, and SQL over everything that a database holds."""

from specdb.catalog.session import UNTRUSTED, Limits, Session, connect, run_sql

__all__ = ["UNTRUSTED", "Limits", "Session", "connect", "run_sql"]
