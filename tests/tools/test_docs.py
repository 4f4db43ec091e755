"""Tests, files, links and options named in the pages exist."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest

from mlxd.client.cli import cli as mlx
from mlxd.client.fast.text import POCKET_NOTE
from mlxd.daemon.cli import cli as mlxd

ROOT = Path(__file__).parents[2]
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("page", ["reliability.md", "security.md"])
def test_every_test_named_in_a_page_exists(page: str) -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert named
    assert set(named) <= TESTS


PAGES = sorted(
    page
    for folder in ("", "docs", "docs/decisions", "docs/benchmarks", "protocol", "client/shell")
    for page in (ROOT / folder).glob("*.md")
)
FILES = {
    path.name
    for part in (
        "client",
        "daemon",
        "launchd",
        "protocol",
        "scripts",
        "tests",
        "tools",
        "benchmarks",
    )
    for path in (ROOT / part).rglob("*.py")
    if "node_modules" not in path.parts
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_has_a_target(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_every_file_named_in_the_architecture_page_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/.]+(?:\.py|/))`", text)
    assert len(named) > 20
    packages = [ROOT, *(ROOT / "daemon/mlxd/daemon" / part for part in ("front", "engine"))]
    for name in named:
        assert name in FILES or any((folder / name).exists() for folder in packages), name


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(
        r"\]\(([^)]+)\) \| (.+) \|", (folder / "README.md").read_text(encoding="utf-8")
    )
    titles = {
        page.name: page.read_text(encoding="utf-8").partition("\n")[0].partition(": ")[2]
        for page in folder.glob("[0-9]*.md")
    }
    assert dict(listed) == titles


@pytest.mark.parametrize("name", ["ask", "chat"])
def test_pictures_show_the_current_note_of_the_built_in_model(name: str) -> None:
    drawn = ElementTree.parse(ROOT / "docs" / "pictures" / f"{name}.svg")
    ended = [
        element.text
        for element in drawn.iter("{http://www.w3.org/2000/svg}text")
        if "gone" not in element.get("class", "").split()
    ]
    assert POCKET_NOTE.rstrip("\n") in ended


FOREIGN = {"--staged", "--minutes", "--user", "--oneline", "--since", "--dry-run"}
"""Options of git, systemctl, the soak test and `scripts/verify-mac`."""
FOREIGN_PAGES = ("CONTRIBUTING.md", "docs/coming-from.md", "docs/benchmarks/", "tools/")
"""Pages that name options of other programs, or are for contributors."""


def options(command: click.Command) -> Iterator[str]:
    """Yield every option of a command and its subcommands."""
    context = click.Context(command)
    for parameter in command.get_params(context):
        yield from (*parameter.opts, *parameter.secondary_opts)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from options(below)


def pages() -> list[str]:
    command = ["git", "ls-files", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split() if not name.startswith(FOREIGN_PAGES)]


def test_every_option_named_in_a_page_exists() -> None:
    known = {*options(mlx), *options(mlxd), *FOREIGN}
    strange = {
        f"{page}: {named}"
        for page in pages()
        for named in re.findall(
            r"(?<![\w-])--[a-z][a-z-]+", (ROOT / page).read_text(encoding="utf-8")
        )
        if named not in known
    }
    assert strange == set()
