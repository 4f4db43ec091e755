"""What the pages name exists: tests, files, other pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
