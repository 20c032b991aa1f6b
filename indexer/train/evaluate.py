"""The former home of `indexer.evaluate.measures`."""

from indexer.evaluate.measures import evaluate, neighbour_labels, principal_components, repeat_visits, unit_rows

__all__ = ["evaluate", "neighbour_labels", "principal_components", "repeat_visits", "unit_rows"]
