"""Answers in the formats of the Virtual Observatory."""
