"""Answers in the formats of the Virtual Observatory."""

from specdb.export.files import save_rows, suffixes

__all__ = ["save_rows", "suffixes"]
