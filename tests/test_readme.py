"""What the README shows is what runs."""

import re
import shlex
from pathlib import Path

import click
import pytest

from cellsegmenter_cli.main import cellseg

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for _, block in BLOCKS
    for line in block.splitlines()
    if line[:8] == "cellseg "
]


def test_the_quickstart_is_the_readmes():
    first = next(block for language, block in BLOCKS if language == "python")
    assert first in (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_have_the_options_shown(line):
    _, name, *arguments = shlex.split(line)
    context = click.Context(cellseg)
    command = cellseg.get_command(context, name)
    assert command is not None
    command.make_context(name, arguments, parent=context)  # parses, does not run


def test_the_two_commands_exist():
    scripts = re.findall(r"^\./(\w+)", README, re.MULTILINE)
    assert scripts == ["demo", "check"]
    assert all((ROOT / script).stat().st_mode & 0o100 for script in scripts)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), f"README.md links to {target}, which is not there"
