"""What the pages name exists: tests, files, other pages."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mlxd.client.fast.mlx_fast_text import POCKET_NOTE

ROOT = Path(__file__).parents[2]
TESTS = {
    name
    for file in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))
}


@pytest.mark.parametrize("page", ["reliability.md", "security.md"])
def test_every_test_that_is_named_exists(page: str):
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
def test_every_link_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_every_file_of_the_architecture_exists():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/.]+(?:\.py|/))`", text)
    assert len(named) > 20
    for name in named:
        assert name in FILES or (ROOT / name).exists(), name


def test_every_decision_is_in_the_index():
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
def test_a_picture_shows_what_a_session_says_today(name: str):
    drawn = ElementTree.parse(ROOT / "docs" / "pictures" / f"{name}.svg")
    ended = [
        element.text
        for element in drawn.iter("{http://www.w3.org/2000/svg}text")
        if "gone" not in element.get("class", "").split()
    ]
    assert POCKET_NOTE.rstrip("\n") in ended
