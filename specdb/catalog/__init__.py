"""Tables beside the vectors: SQL over everything that a database holds."""

from specdb.catalog.session import run_sql, views

__all__ = ["run_sql", "views"]
