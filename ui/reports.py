"""Reports of `specdb evaluate`, read and set side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from specdb.errors import InputError
from specdb.store import Store

__all__ = ["MOST_BYTES", "Report", "compare_reports", "read_report", "stored_reports"]

#: Of a report.
MOST_BYTES = 2 << 20

_FOLDER = "evaluations"


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes
    ----------
    encoder : str
    header : dict
        What was judged, for a table.
    figures : dict
        (section, figure) -> representation -> number; the encoder is one of the representations, baselines are others.
    """

    encoder: str
    header: dict[str, str]
    figures: dict[tuple[str, str], dict[str, float]]


def read_report(content: bytes) -> Report:
    """Read an ``evaluation.json``.

    Raises
    ------
    InputError
        For anything else, or more than 2 MB.
    """
    if len(content) > MOST_BYTES:
        raise InputError(f"the report has {len(content) >> 20} MB; up to {MOST_BYTES >> 20} MB are read")
    try:
        raw = json.loads(content)
        encoder, sections = str(raw["encoder"]), dict(raw["sections"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError("this is no report of `specdb evaluate`; give its evaluation.json") from None
    header = {
        "encoder": encoder,
        "weights": str(raw.get("weight_hash", ""))[:16],
        "judged": str(raw.get("judged_stars", "?")),
        "simulated pairs": str(raw.get("simulated_pairs", "?")),
    }
    figures = {
        (section.replace("_", " "), figure): values
        for section, content_of in sections.items()
        for figure, values in _compared(content_of, encoder, ())
    }
    return Report(encoder, header, figures)


def stored_reports(store: Store) -> dict[str, Report]:
    """Return the reports below the folder `evaluations` of a database, by name; damaged ones are left out."""
    found = {}
    for path in sorted((store.root / _FOLDER).glob("*/evaluation.json")):
        try:
            found[path.parent.name] = read_report(path.read_bytes())
        except (InputError, OSError):
            continue
    return found


def compare_reports(reports: dict[str, Report]) -> dict[str, list[dict[str, Any]]]:
    """Return a table per section: one row per figure, a column per report, then the baselines of the first report.

    Parameters
    ----------
    reports : dict of str to Report
        At least one.
    """
    first = next(iter(reports.values()))
    names = list(dict.fromkeys(key for report in reports.values() for key in report.figures))
    tables: dict[str, list[dict[str, Any]]] = {}
    for section, figure in names:
        row: dict[str, Any] = {"figure": figure}
        for name, report in reports.items():
            row[name] = report.figures.get((section, figure), {}).get(report.encoder)
        others = first.figures.get((section, figure), {})
        row |= {name: value for name, value in others.items() if name != first.encoder}
        tables.setdefault(section, []).append(row)
    return tables


def _compared(node: Any, encoder: str, path: tuple[str, ...]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each figure that is given for the encoder, with its value for every representation."""
    if not isinstance(node, dict):
        return
    if encoder in node:
        figures: dict[str, dict[str, float]] = {}
        for representation, values in node.items():
            for leaf, number in _leaves(values, ()):
                figures.setdefault(" · ".join((*path, *leaf)), {})[representation] = number
        yield from ((figure, values) for figure, values in figures.items() if encoder in values)
        return
    for name, child in node.items():
        yield from _compared(child, encoder, (*path, str(name)))


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield the numbers below a node; of lists only those that say of which k they are."""
    if isinstance(node, bool):
        return
    if isinstance(node, int | float):
        yield path, float(node)
    elif isinstance(node, dict):
        for name, child in node.items():
            yield from _leaves(child, (*path, str(name)))
    elif isinstance(node, list):
        for item in node:
            if isinstance(item, dict) and "k" in item and "value" in item:
                yield from _leaves(item["value"], (*path[:-1], f"{path[-1] if path else ''}@{item['k']}"))
