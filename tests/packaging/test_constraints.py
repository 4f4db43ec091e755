"""The constraints files lock the dependencies in `pyproject.toml`, with hashes, without URLs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = {
    "constraints.txt": PROJECT["dependencies"],
    "constraints-dev.txt": [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]],
}
PINNED = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", re.MULTILINE)


def locked(name: str) -> dict[str, set[str]]:
    """Return the locked versions of every package in a constraints file."""
    found: dict[str, set[str]] = {}
    text = (ROOT / "packaging" / name).read_text(encoding="utf-8")
    for package, version in PINNED.findall(text):
        found.setdefault(canonicalize_name(package), set()).add(version)
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_dependency_is_locked_to_a_matching_version(name: str) -> None:
    versions = locked(name)
    for line in FILES[name]:
        requirement = Requirement(line)
        found = versions.get(canonicalize_name(requirement.name), set())
        assert found, f"{requirement.name} is not locked. Run packaging/lock"
        assert all(requirement.specifier.contains(version) for version in found), line


@pytest.mark.parametrize("name", FILES)
def test_every_locked_package_has_hashes_and_no_url(name: str) -> None:
    text = (ROOT / "packaging" / name).read_text(encoding="utf-8")
    assert "://" not in text
    blocks = re.split(r"\n(?=\S)", text.strip())
    assert len(blocks) > 20
    for block in blocks:
        assert "--hash=sha256:" in block, block


def test_the_dev_constraints_contain_the_same_versions() -> None:
    assert locked("constraints.txt").items() <= locked("constraints-dev.txt").items()
