"""All sections of an evaluation, one after another, and the files it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from indexer.evaluate.anomaly import anomaly
from indexer.evaluate.cross_modal import cross_modal
from indexer.evaluate.labels import labels
from indexer.evaluate.retrieval import retrieval
from indexer.evaluate.section import Context, Run, Section, Skip
from indexer.evaluate.translation import translation
from specdb._version import __version__
from specdb.errors import InputError
from specdb.plots.style import save_figure
from specdb.store.files import write_text

__all__ = ["SECTIONS", "evaluate_encoder", "header", "to_json", "write_report"]

#: What `specdb evaluate` runs, in this order; another section is one line here.
SECTIONS: dict[str, Run] = {
    "retrieval": retrieval,
    "labels": labels,
    "cross-modal": cross_modal,
    "translation": translation,
    "anomaly": anomaly,
}


def evaluate_encoder(
    context: Context, sections: Sequence[str] = (), report: Callable[[Section], None] | None = None
) -> list[Section]:
    """Run sections, all by default; one that has nothing to say gives the reason as its text.

    Parameters
    ----------
    context : Context
    sections : sequence of str
        Keys of `SECTIONS`.
    report : callable, optional
        Called with each section as it is done.

    Raises
    ------
    InputError
        For an unknown section.
    """
    unknown = [name for name in sections if name not in SECTIONS]
    if unknown:
        raise InputError(f"there is no section {unknown[0]!r}; sections are {', '.join(SECTIONS)}")
    done = []
    for name in sections or SECTIONS:
        try:
            section = SECTIONS[name](context)
        except Skip as reason:
            section = Section(name.replace("-", "_"), name.capitalize(), text=[f"Left out: {reason}."])
        done.append(section)
        if report is not None:
            report(section)
    return done


def header(context: Context) -> dict[str, Any]:
    """Return what was evaluated, for the beginning of a report."""
    held_out = context.real.held_out
    return {
        "specdb": __version__,
        "encoder": context.encoder.name,
        "weight_hash": context.encoder.weight_hash,
        "beside": {name: encoder.weight_hash for name, encoder in context.beside.items()},
        "data": context.real.origin,
        "judged_stars": held_out.statement if held_out else "none",
        "encoder_trained_on_judged_stars": held_out.trained_on if held_out else None,
        "simulated_pairs": context.settings.pairs,
        "reference_pairs": context.settings.reference,
        "seed": context.settings.seed,
    }


def to_json(context: Context, sections: Sequence[Section]) -> str:
    """Return header and metrics as JSON text; what could not be measured is null."""
    values = header(context) | {"sections": {s.name: s.metrics for s in sections}}
    return json.dumps(json.loads(json.dumps(values), parse_constant=lambda _: None), indent=1) + "\n"


def write_report(folder: Path, context: Context, sections: Sequence[Section]) -> list[Path]:
    """Write `evaluation.json`, `evaluation.md` and each figure as PNG and SVG; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = header(context)
    write_text(folder / "evaluation.json", to_json(context, sections))
    paths = [folder / "evaluation.json", folder / "evaluation.md"]
    parts = [f"# {facts['encoder']} ({facts['weight_hash'][:16]})", f"Judged: {facts['judged_stars']}."]
    for section in sections:
        parts.append(section.to_markdown())
        for name, figure in section.figures.items():
            paths += save_figure(figure, folder / name, (".png", ".svg"))
            parts.append(f"![{name.replace('_', ' ')}]({name}.svg)")
    write_text(folder / "evaluation.md", "\n\n".join(parts) + "\n")
    return paths
