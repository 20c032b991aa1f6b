"""Write docs/cli.md, the reference of all commands, from the commands' own help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from specdb.cli import cli


def reference() -> str:
    """Return the page as Markdown."""
    root = click.Context(cli, info_name="specdb", terminal_width=110, max_content_width=110, **cli.context_settings)
    parts = [f"# Commands\n\n```\n{cli.get_help(root)}\n```\n"]
    parts += [
        f"## {context.command_path}\n\n```\n{command.get_help(context)}\n```\n" for context, command in _walk(root, cli)
    ]
    return "\n".join(parts)


def _walk(parent: click.Context, group: click.Group) -> Iterator[tuple[click.Context, click.Command]]:
    for name in group.list_commands(parent):
        command = group.get_command(parent, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=parent, terminal_width=110, max_content_width=110)
        yield context, command
        if isinstance(command, click.Group):
            yield from _walk(context, command)


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(reference(), encoding="utf-8")
