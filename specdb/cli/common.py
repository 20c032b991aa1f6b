"""Options and output that commands share."""

from __future__ import annotations

import csv
import functools
import io
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
from tqdm import tqdm

__all__ = [
    "CliProgress",
    "OutputFormat",
    "db_option",
    "device_option",
    "figure_option",
    "output_options",
    "print_table",
    "quiet_option",
]

OutputFormat = str


def _default_db() -> str:
    return "." if Path("specdb.toml").exists() else "mydb"


db_option = click.option(
    "--db",
    type=click.Path(file_okay=False, path_type=Path),
    default=_default_db,
    envvar="SPECDB_DB",
    show_default="this folder if it is a database, else ./mydb",
    show_envvar=True,
    help="Database folder.",
)

device_option = click.option("--device", default="cpu", show_default=True, help="Where the encoder runs: cpu, cuda, cuda:1.")


def figure_option(default: str) -> Callable:
    """Add ``-o``, the file of a figure; the command receives it as `output`."""
    return click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        default=Path(default),
        show_default=True,
        help="Figure: .png, .pdf or .svg.",
    )


quiet_option = click.option("--quiet", "-q", is_flag=True, help="No progress and no summary.")


def output_options(function: Callable) -> Callable:
    """Add ``--table``, ``--json`` and ``--csv``; the command receives the chosen one as `fmt`."""

    @functools.wraps(function)
    def wrapped(*args: Any, table: bool, as_json: bool, as_csv: bool, **kwargs: Any) -> Any:
        if table + as_json + as_csv > 1:
            raise click.UsageError("choose one of --table, --json and --csv")
        return function(*args, fmt="json" if as_json else "csv" if as_csv else "table", **kwargs)

    wrapped = click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values.")(wrapped)
    wrapped = click.option("--json", "as_json", is_flag=True, help="JSON.")(wrapped)
    return click.option("--table", is_flag=True, help="Aligned columns (the default).")(wrapped)


def print_table(rows: pa.Table, fmt: OutputFormat) -> None:
    """Print an Arrow table in one of the output formats."""
    if fmt == "json":
        click.echo(json.dumps(rows.to_pylist(), indent=1, default=str))
    elif fmt == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(rows.column_names)
        writer.writerows(list(row.values()) for row in rows.to_pylist())
        click.echo(out.getvalue(), nl=False)
    else:
        click.echo(_aligned(rows))


def _aligned(rows: pa.Table) -> str:
    header = rows.column_names
    lines = [[_cell(value) for value in row.values()] for row in rows.to_pylist()]
    widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
    numeric = [pa.types.is_integer(t) or pa.types.is_floating(t) for t in rows.schema.types]

    def line(cells: list[str]) -> str:
        padded = [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(cells, widths, numeric, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, lines)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        shown = ", ".join(_cell(v) for v in value[:3])
        return f"[{shown}, ... {len(value)} values]" if len(value) > 3 else f"[{shown}]"
    return str(value)


class CliProgress:
    """A bar with rate and time left on a terminal; a plain line now and then otherwise; nothing when quiet."""

    _EVERY_S = 10.0

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bar: tqdm | None = None
        self._stage, self._done, self._begun, self._said = "", 0, 0.0, 0.0
        self._total: int | None = None

    def start(self, stage: str, total: int | None) -> None:
        """Begin a stage."""
        self._stage, self._total, self._done = stage, total, 0
        self._begun = self._said = time.monotonic()
        if sys.stderr.isatty() and not self._quiet and total != 0:
            self._bar = tqdm(total=total, desc=stage, unit=" spectra", file=sys.stderr, dynamic_ncols=True)

    def advance(self, n: int) -> None:
        """Report items done."""
        self._done += n
        if self._bar is not None:
            self._bar.update(n)
        elif not self._quiet and time.monotonic() - self._said > self._EVERY_S:
            self._line()

    def end(self) -> None:
        """End the stage."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif not self._quiet and self._done:
            self._line()

    def _line(self) -> None:
        self._said = time.monotonic()
        rate = self._done / max(self._said - self._begun, 1e-9)
        of = f" of {self._total}" if self._total else ""
        left = f", {(self._total - self._done) / rate:.0f} s left" if self._total else ""
        click.echo(f"{self._stage}: {self._done}{of} spectra, {rate:.0f}/s{left}", err=True)
