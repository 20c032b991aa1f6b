"""`simulate`: surveys whose truth is known, in the surveys' own file formats."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["simulate"]

_DIRECTORY = click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
_STARS = click.option("--stars", type=int, default=300, show_default=True, help="Number of stars.")
_SEED = click.option("--seed", type=int, default=0, show_default=True, help="Other seeds give other stars.")


@click.group()
def simulate() -> None:
    """Write a simulated survey in the survey's own file format, with a truth catalogue."""


@simulate.command()
@_DIRECTORY
@_STARS
@click.option("--repeats", type=float, default=0.3, show_default=True, help="Share of stars observed 2 to 4 times.")
@click.option("--anomalies", type=float, default=0.02, show_default=True, help="Share of unusual objects.")
@click.option("--broken", type=int, default=0, show_default=True, help="Damaged files to add.")
@_SEED
def lamost(directory: Path, stars: int, repeats: float, anomalies: float, broken: int, seed: int) -> None:
    """LAMOST low-resolution spectra, with repeat visits, odd objects and damaged files."""
    from indexer.simulate import simulate_lamost

    made = simulate_lamost(directory, stars, repeats, seed, anomalies, broken)
    click.echo(
        f"{made.n_spectra} simulated lamost spectra of {made.n_stars} stars in {made.spectra}"
        f"{f' (and {made.n_broken} damaged files)' if made.n_broken else ''}; truth in {made.truth}"
    )


@simulate.command()
@_DIRECTORY
@_STARS
@click.option("--repeats", type=float, default=0.0, show_default=True, help="Share of stars that LAMOST saw 2 to 4 times.")
@click.option("--anomalies", type=float, default=0.0, show_default=True, help="Share of unusual objects and wrong pairs.")
@_SEED
def pairs(directory: Path, stars: int, repeats: float, anomalies: float, seed: int) -> None:
    """Stars seen by both LAMOST and Gaia XP, and a table that says which spectra belong together.

    Each visit of LAMOST counts as one of --stars; visits of one star share its XP spectrum.
    """
    from indexer.simulate import simulate_pairs

    made = simulate_pairs(directory, stars, seed, anomalies, repeats)
    click.echo(
        f"{stars} simulated pairs: LAMOST spectra in {made.lamost}, XP coefficients in {made.xp_continuous}, the same as "
        f"samples in {made.xp_sampled}; pairs in {made.pairs}, truth in {made.truth}"
    )


@simulate.command()
@_DIRECTORY
@_STARS
@_SEED
def desi(directory: Path, stars: int, seed: int) -> None:
    """Coadd files like those of DESI, of fainter stars than LAMOST's, with idle fibres among them."""
    from indexer.simulate import simulate_desi

    made = simulate_desi(directory, stars, seed)
    click.echo(
        f"{made.n_stars} simulated stars and {made.n_idle} idle fibres in {made.n_files} coadd files in {made.spectra}; "
        f"truth in {made.truth}"
    )
