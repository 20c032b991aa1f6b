"""`demo`: the whole tour on a small simulated survey."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import numpy as np

__all__ = ["demo"]


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default="specdb-demo")
@click.option("--stars", type=click.IntRange(30), default=300, show_default=True, help="Number of simulated stars.")
def demo(directory: Path, stars: int) -> None:
    """Take the whole tour on a small simulated survey: simulate, build, search, SQL, verify.

    Everything is written below DIRECTORY; run it again and nothing is done twice. The spectra are simulated and say so.
    """
    import pyarrow.parquet as pq

    survey, db = directory / "survey", directory / "db"
    _run(
        "Simulate a LAMOST survey: ordinary stars, some observed repeatedly, a few odd ones, four damaged files.",
        "simulate",
        "lamost",
        str(survey),
        "--stars",
        str(stars),
        "--broken",
        "4",
    )
    _run(
        "Read, prepare, embed and index it, in one command that can be killed and run again.",
        "build-index",
        "lamost",
        str(survey / "spectra"),
        "--db",
        str(db),
    )
    _run("What the database holds.", "status", "--db", str(db))
    _run("Nothing is lost silently.", "sql", "SELECT status, reason, detail FROM rejected", "--db", str(db))

    truth = pq.read_table(survey / "truth.parquet")
    star = _repeated_star(truth["star"].to_numpy(), truth["snr_g"].to_numpy())
    visits = truth["spectrum_id"].to_numpy()[truth["star"].to_numpy() == star].tolist()
    _run(
        f"Search by id: star {star} was observed {len(visits)} times; its other visits should be near the top.",
        "search",
        str(visits[0]),
        "-k",
        "5",
        "--db",
        str(db),
    )
    click.echo(f"the other visits of this star: {', '.join(map(str, visits[1:]))}\n")
    _compare(db, dict(zip(truth["spectrum_id"].to_pylist(), truth["star"].to_pylist(), strict=True)))
    _run(
        "SQL over the metadata.",
        "sql",
        "SELECT subclass, count(*) AS n, round(median(snr_g)) AS snr_g FROM spectra GROUP BY ALL ORDER BY n DESC LIMIT 5",
        "--db",
        str(db),
    )
    _run("Check every file against its checksum.", "verify", "--db", str(db))
    click.echo(f"Now with your own files: specdb build-index lamost FOLDER --db {directory}/mydb")


def _run(why: str, *arguments: str) -> None:
    from specdb.cli import cli

    click.secho(f"# {why}", bold=True)
    click.echo(f"$ specdb {shlex.join(arguments)}")
    try:
        cli.main(list(arguments), prog_name="specdb", standalone_mode=False)
    except SystemExit as stop:
        if stop.code:
            raise
    click.echo()


def _repeated_star(star: np.ndarray, snr: np.ndarray) -> int:
    """Return the star with the most visits, the best observed of them."""
    stars, visits = np.unique(star, return_counts=True)
    faintest = np.array([snr[star == s].min() for s in stars])
    return int(stars[np.lexsort((faintest, visits))[-1]])


def _compare(db: Path, star_of: dict[int, int]) -> None:
    """Say how often the nearest neighbour is the same star, beside pixels and principal components."""
    from indexer.evaluate.measures import principal_components, repeat_visits
    from specdb.database import open_database
    from specdb.store import matrix, read_table

    store = open_database(db).store
    flux = np.concatenate(
        [matrix(read_table(store.root / part, ["flux"])["flux"]) for part in store.spectra_parts("lamost_lrs")]
    )
    vectors = np.concatenate([v for _, v in store.vectors(store.default_encoder, "lamost_lrs")])
    stars = np.array([star_of[i] for i in store.ids("lamost_lrs").tolist()])
    click.secho("# How often is a visit's nearest neighbour another visit of the same star?", bold=True)
    shown = {
        f"{store.default_encoder} ({vectors.shape[1]} numbers)": vectors,
        f"prepared pixels ({flux.shape[1]} numbers)": flux,
        "50 principal components": principal_components(flux, np.ones(len(flux), bool), 50),
    }
    for name, representation in shown.items():
        first, ten = repeat_visits(representation, stars, (1, 10))
        click.echo(f"  {name:32s} first: {first.value:.2f}   within ten: {ten.value:.2f}   ({first.n_queries} visits)")
    click.echo()
