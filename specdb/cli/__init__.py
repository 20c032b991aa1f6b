"""The command line: one file per group of verbs; it parses and prints, the library does the work."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from specdb._version import __version__
from specdb.errors import SpecdbError

__all__ = ["cli", "main"]

#: Verb -> (module, function, one line of help). Modules are imported when their verb is used, so that `--help` is quick.
_COMMANDS = {
    "anomalies": ("specdb.cli.anomalies", "anomalies", "Find, explain and review unusual spectra."),
    "build-index": ("specdb.cli.build", "build_index", "Read, prepare, embed and index a survey's files (resumable)."),
    "card": ("specdb.cli.card", "card", "Draw a spectrum with its neighbours, residuals and translation."),
    "compare": ("specdb.cli.card", "compare", "Draw spectra on one another, with residuals."),
    "crossmatch": ("specdb.cli.crossmatch", "crossmatch", "Find the same stars in two modalities."),
    "compact": ("specdb.cli.delete", "compact", "Take deleted spectra out of the files and indices for good."),
    "delete": ("specdb.cli.delete", "delete", "Delete spectra by id or condition, or take that back."),
    "demo": ("specdb.cli.demo", "demo", "The whole tour on a small simulated survey."),
    "doctor": ("specdb.cli.doctor", "doctor", "Check the installation with a real search on each device."),
    "embed": ("specdb.cli.build", "embed", "Embed ingested spectra that have no embeddings yet."),
    "encoders": ("specdb.cli.encoders", "encoders", "List, show, import and pull encoders."),
    "evaluate": ("specdb.cli.evaluate", "evaluate", "Measure what an encoder is worth, beside pixels and PCA."),
    "export": ("specdb.cli.export", "export", "Write the answer to an SQL query as FITS, VOTable, Parquet, HATS, ..."),
    "heads": ("specdb.cli.heads", "heads", "Train, use and judge small models from embeddings to labels."),
    "index": ("specdb.cli.build", "index", "Build or extend the index over stored embeddings."),
    "ingest": ("specdb.cli.build", "ingest", "Read and prepare a survey's files without embedding them."),
    "labels": ("specdb.cli.labels", "labels", "Add, list, show, rematch and remove catalogues of labels."),
    "map": ("specdb.cli.map", "map_", "Map the sky: counts, or a statistic of any value, in HEALPix cells."),
    "search": ("specdb.cli.search", "search", "Find the spectra most similar to one spectrum."),
    "send": ("specdb.cli.send", "send", "Send the answer to an SQL query to TOPCAT or Aladin."),
    "simulate": ("specdb.cli.simulate", "simulate", "Write a simulated survey in the survey's own format."),
    "sql": ("specdb.cli.sql", "sql", "Run SQL over spectra, embeddings, catalogues and pairs."),
    "status": ("specdb.cli.health", "status", "Say what a database holds."),
    "train": ("specdb.cli.train", "train", "Train encoders on your own spectra (resumable)."),
    "transfer": ("specdb.cli.transfer", "transfer", "Take a head to another survey with a few labelled stars."),
    "translate": ("specdb.cli.translate", "translate", "Predict what another instrument would show of a star."),
    "ui": ("specdb.cli.ui", "ui", "Open the similarity explorer in the browser."),
    "verify": ("specdb.cli.health", "verify", "Check files, checksums, counts and provenance."),
}


class _LazyGroup(click.Group):
    """Lists commands from a table and imports them on use; turns our errors into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[name]
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SpecdbError as error:
            raise click.ClickException(str(error)) from error
        except KeyboardInterrupt:
            click.echo("interrupted; everything committed is safe: run the same command again to go on", err=True)
            sys.exit(130)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="specdb")
def cli() -> None:
    """specdb: a vector-search database of stellar spectra.

    Start with `specdb demo`, or with your own files: `specdb build-index lamost FOLDER --db mydb`.
    """


def main() -> None:
    """Run the command line."""
    cli()
