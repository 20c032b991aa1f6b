"""`train`: encoders on one's own spectra."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from specdb.cli.common import CliProgress, quiet_option

__all__ = ["train"]


@click.command()
@click.option("--config", "config_name", metavar="NAME|FILE.toml", help="A named training (--list) or a file.")
@click.option("--list", "list_them", is_flag=True, help="List the named trainings.")
@click.option("--db", type=click.Path(file_okay=False, path_type=Path), help="Database with the spectra to train on.")
@click.option("--pairs", type=click.Path(file_okay=False, path_type=Path), help="Folder made by `specdb simulate pairs`.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of survey files, for `mini`.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the encoder, which gets its name.")
@click.option("--from-lrs", metavar="ENCODER", help="Pre-trained LAMOST LRS encoder, name or folder.")
@click.option("--from-xp", metavar="ENCODER", help="Pre-trained Gaia XP encoder, name or folder.")
@click.option("--steps", type=click.IntRange(1), help="Shorter or longer than the configuration says.")
@click.option("--seed", type=click.IntRange(0), help="Instead of the configuration's.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1.")
@click.option("--devices", type=click.IntRange(1), default=1, show_default=True, help="So many of them.")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True, help="Arithmetic."
)
@click.option("--dry-run", is_flag=True, help="Say what would be trained, on how much, and how much memory it takes.")
@quiet_option
def train(
    config_name: str | None,
    list_them: bool,
    db: Path | None,
    pairs: Path | None,
    data: Path | None,
    out: Path | None,
    from_lrs: str | None,
    from_xp: str | None,
    steps: int | None,
    seed: int | None,
    device: str,
    devices: int,
    precision: str,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Train an encoder: pre-train one instrument's, or align two.

    Run the same command again to go on after an interruption. The encoder is used by its folder:
    `specdb build-index lamost FOLDER --encoder OUT`.
    """
    from dataclasses import replace

    from indexer.train.config import MINI, list_configs, load_config
    from indexer.train.recipe import database_of_pairs, plan
    from indexer.train.recipe import train as train_encoder
    from indexer.train.runtime import RuntimeSettings
    from specdb.errors import InputError

    if list_them:
        width = max(map(len, list_configs()))
        for name, title in list_configs().items():
            click.echo(f"{name:{width}}  {title}")
        return
    if config_name is None:
        raise click.UsageError("give --config NAME or --config FILE.toml; --list shows the names")
    if out is None and not dry_run:
        raise click.UsageError("give --out FOLDER for the encoder")
    command = f"specdb {' '.join(sys.argv[1:])}"
    log = _quiet if quiet else _say
    if config_name == MINI:
        _mini(data, out, seed, steps, dry_run, command, quiet)
        return
    if data is not None:
        raise InputError(f"--data is for the training {MINI!r}; give a database (--db), or a folder of pairs (--pairs)")
    if db is not None and pairs is not None:
        raise InputError("give either --db or --pairs")
    config = load_config(config_name)
    start = replace(config.start, lamost_lrs=from_lrs or config.start.lamost_lrs, gaia_xp=from_xp or config.start.gaia_xp)
    config = replace(
        config,
        start=start,
        loop=replace(config.loop, steps=steps or config.loop.steps),
        seed=config.seed if seed is None else seed,
    )
    runtime = RuntimeSettings(device, devices, precision)
    if dry_run:
        found = plan(config, db, devices)
        n = "without end" if found.training is None and config.data.source == "simulated" else found.training
        click.echo(f"model       {found.parameters / 1e6:.2f} M weights, {found.trained / 1e6:.2f} M of them trained")
        click.echo(f"data        {'not known: give --db' if n is None else n} to train on, {found.validation} held out")
        epochs = f", {found.epochs:.1f} times through the data" if found.epochs else ""
        click.echo(f"steps       {found.steps} of {config.loop.batch_size}{epochs}")
        click.echo(f"memory      about {found.memory_bytes / 2**30:.2f} GiB per device for the model")
        click.echo(f"checkpoint  {found.checkpoint_bytes / 2**30:.2f} GiB")
        return
    assert out is not None
    if pairs is not None:
        db = database_of_pairs(pairs, out.with_name(f"{out.name}-database"), CliProgress(quiet))
    card = train_encoder(config, out, db=db, runtime=runtime, command=command, log=log)
    if not quiet:
        figures = ", ".join(f"{k} {v:.4g}" for k, v in card.metrics.items() if isinstance(v, float))
        click.echo(f"{out}: weights {card.weight_hash[:16]} after {card.training['steps']} steps; held out: {figures}")


def _mini(
    data: Path | None, out: Path | None, seed: int | None, steps: int | None, dry_run: bool, command: str, quiet: bool
) -> None:
    """Run the recipe of the encoder that ships."""
    from dataclasses import replace

    from indexer.train.mini import train_mini
    from indexer.train.mini_config import MiniConfig
    from specdb.errors import InputError

    config = MiniConfig()
    if steps:
        config = replace(config, loop=replace(config.loop, steps=steps))
    if dry_run:
        from specdb.encoders import build

        size = sum(p.numel() for p in build(config.model).parameters())
        click.echo(f"model       {size / 1e6:.2f} M weights\nsteps       {config.loop.steps} of {config.loop.batch_size}")
        return
    if data is None or out is None:
        raise InputError("the training 'mini' reads survey files: give their folder (--data) and --out")
    train_mini(data, out, seed or 0, config, command=command, log=_quiet if quiet else _say)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _quiet(line: str) -> None:
    """Say nothing."""
