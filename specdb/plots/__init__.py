"""Figures, each a function of plain arrays."""
