"""`encoders list | show | import | pull`."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pyarrow as pa

from specdb.cli.common import output_options, print_table

__all__ = ["encoders"]


@click.group()
def encoders() -> None:
    """List, show, import and pull encoders."""


@encoders.command(name="list")
@output_options
def list_command(fmt: str) -> None:
    """List the encoders that ship and those that were imported or pulled."""
    from specdb.encoders import default_encoder_name, list_encoders

    rows = [
        {
            "name": entry.name,
            "default": "yes" if entry.name == default_encoder_name else "",
            "origin": entry.origin,
            "title": entry.card.title if entry.card else f"unreadable: {entry.problem}",
            "modalities": ", ".join(entry.card.preparation) if entry.card else "",
            "weights": entry.card.weight_hash[:16] if entry.card else "",
        }
        for entry in list_encoders()
    ]
    columns = ("name", "default", "origin", "title", "modalities", "weights")
    print_table(pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in columns])), fmt)


@encoders.command()
@click.argument("name")
def show(name: str) -> None:
    """Print the card of an encoder: architecture, training data, metrics, provenance."""
    from specdb.encoders import encoder_folder, load_card

    card = json.loads(load_card(encoder_folder(name)).to_json())
    click.echo(json.dumps(card, indent=2, ensure_ascii=False))


@encoders.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="Name to register it under.  [default: the file's name]")
def import_command(file: Path, name: str | None) -> None:
    """Convert an official SpecCLIP checkpoint (.ckpt, .pt) to safetensors, executing nothing in it."""
    from specdb.encoders import import_checkpoint

    card = import_checkpoint(file, name or file.stem)
    click.echo(f"{card.name}: {card.title}, weights {card.weight_hash[:16]}")


@encoders.command()
@click.argument("name")
@click.option("--revision", help="Commit of the repository to take, forty hexadecimal digits.")
@click.option("--sha256", help="Expected SHA-256 of the file.")
@click.option("--trust-first-download", is_flag=True, help="Accept the file without a hash to compare with, and record it.")
def pull(name: str, revision: str | None, sha256: str | None, trust_first_download: bool) -> None:
    """Fetch an official encoder from Hugging Face by pinned revision, check its hash, and import it."""
    from specdb.encoders import pull as pull_encoder

    card = pull_encoder(name, revision=revision, sha256=sha256, trust_first_download=trust_first_download)
    click.echo(f"{card.name}: {card.title}, weights {card.weight_hash[:16]}")
