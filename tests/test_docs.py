"""The documentation does what it says: every command exists and is described, and the tutorial runs."""

from __future__ import annotations

import glob
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from specdb.cli import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


@pytest.mark.parametrize(("name", "command"), list(commands(cli)), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_is_described_by_itself_and_by_the_docs(name: str, command: click.Command) -> None:
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"
    assert f"## specdb {name}\n" in (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), "run python docs/make_cli.py"


def test_the_reference_of_commands_is_up_to_date() -> None:
    # By its path: other packages install a module called `docs`.
    reference = runpy.run_path(str(ROOT / "docs" / "make_cli.py"))["reference"]

    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == reference(), "run python docs/make_cli.py"


@pytest.mark.parametrize("page", ["tutorial.md", "cross-modal.md", "search.md"])
def test_the_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in "".join(blocks(ROOT / "docs" / page, "console")).splitlines():
        assert line.startswith("$ specdb ")
        words = shlex.split(line.removeprefix("$ specdb "))
        expanded = [found for word in words for found in (sorted(glob.glob(word)) or [word])]  # noqa: PTH207
        result = CliRunner().invoke(cli, expanded)
        assert result.exit_code == 0, f"{line}\n{result.output}"
    names: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / page, "python"):
        exec(compile(block, f"docs/{page}", "exec"), names)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
