"""Commands in Markdown files can be pasted, and name make targets and management commands that exist."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from django.core.management import BaseCommand, get_commands, load_command_class

from tests.docs import markdown
from tests.docs.markdown import ROOT

TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PAGES = pytest.mark.parametrize("page", markdown.pages(), ids=lambda page: str(page.relative_to(ROOT)))


@PAGES
def test_console_blocks_can_be_pasted(page: Path) -> None:
    for block in markdown.console_blocks(page.read_text()):
        assert not re.search(r"^\s*[$>] ", block, re.MULTILINE), f"a prompt in {block}"
        assert "…" not in block, f"a placeholder in {block}"
        subprocess.run(["bash", "-n", "-c", block], check=True)  # syntax only


@PAGES
def test_make_targets_exist(page: Path) -> None:
    commands = "\n".join(markdown.commands(page.read_text()))
    assert set(re.findall(r"^(?:\w+=\S+ )*make ([a-z][\w-]*)", commands, re.MULTILINE)) <= TARGETS


@PAGES
def test_modules_can_be_run(page: Path) -> None:
    commands = "\n".join(markdown.commands(page.read_text()))
    for module in re.findall(r"python -m (\w+(?:\.\w+)+)", commands):
        path = ROOT / module.replace(".", "/")
        if not (path / "__main__.py").is_file():
            assert 'if __name__ == "__main__":' in path.with_suffix(".py").read_text(), module


@pytest.mark.parametrize("line", [line for _, line in markdown.console_lines() if "manage.py " in line])
def test_options_of_management_commands_exist(line: str) -> None:
    (command_line,) = re.findall(r"manage\.py ((?:\"[^\"]*\"|[^|&\"])+)", line)
    name, *arguments = shlex.split(command_line.replace("voiceassist.log", "-"), comments=True)  # no such file to open
    package = get_commands()[name]
    command = package if isinstance(package, BaseCommand) else load_command_class(package, name)
    command.create_parser("manage.py", name).parse_args(arguments)


@PAGES
def test_management_commands_exist(page: Path) -> None:
    commands = "\n".join(markdown.commands(page.read_text()))
    assert set(re.findall(r"\bmanage\.py ([a-z]\w*)", commands)) <= {*get_commands(), "runserver"}
