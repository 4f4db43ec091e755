"""The documentation site builds, its menu is complete, and every command in a guide exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from mlxd.client import cli as client
from mlxd.daemon import cli as daemon

ROOT = Path(__file__).parents[2]
PROGRAMS = {"mlx": client.cli, "mlxd": daemon.cli}
GUIDES = ("index", "install", "quick-start", "choose-a-model", "recipes", "coming-from")


def segments(line: str) -> list[list[str]]:
    """Return the commands of a pipeline as lists of words, without redirections and comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>&;")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if word in {"|", ">", "&&", ";"}:
            found.append([])
        else:
            found[-1].append(word)
    return found


def commands() -> list[tuple[str, list[str]]]:
    """Return every command line in the guides that calls mlx or mlxd, with its page."""
    found = []
    for guide in GUIDES:
        text = (ROOT / "docs" / f"{guide}.md").read_text(encoding="utf-8")
        blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(mlxd? [^`]+)`", re.sub(r"(?s)```.*?```", "", text))
        called = [words for line in lines for words in segments(line)]
        found += [(guide, words) for words in called if words and words[0] in PROGRAMS]
    return found


def test_the_site_builds_without_a_warning() -> None:
    tool = [sys.executable, str(ROOT / "tools" / "site.py")]
    done = subprocess.run(tool, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "build" / "site" / "coming-from" / "index.html").exists()


def test_every_page_of_the_docs_is_in_the_menu() -> None:
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))
    named = set(leaves(config["project"]["nav"]))
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if not page.startswith("decisions/0")} <= named


def leaves(menu: Any) -> list[str]:
    """Return the pages of a menu."""
    if isinstance(menu, str):
        return [menu]
    entries = menu.values() if isinstance(menu, dict) else menu
    return [page for entry in entries for page in leaves(entry)]


@pytest.mark.parametrize(("guide", "line"), commands())
def test_every_command_in_a_guide_is_valid(guide: str, line: list[str]) -> None:
    words = list(line)
    command: click.Command = PROGRAMS[words.pop(0)]
    ctx = click.Context(command)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        inner = command.get_command(ctx, words.pop(0))
        assert inner is not None, line
        command, ctx = inner, click.Context(inner, parent=ctx)
    command.make_parser(ctx).parse_args(words)


def test_the_guides_contain_commands() -> None:
    assert len(commands()) > 60
