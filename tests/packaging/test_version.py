"""The version has one source. Files that cannot read it agree with it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mlxd.client.fast.text import VERSION as FAST_PATH_VERSION
from mlxd.daemon.version import version
from mlxd.protocol.version import VERSION

ROOT = Path(__file__).parents[2]
PACKAGES = ("client/js", "client/editors/vscode", "client/editors/vscode/host")


def read_json(path: str) -> Any:
    return json.loads((ROOT / path).read_text(encoding="utf-8"))


def test_the_build_reads_the_version_from_the_protocol_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "protocol/mlxd/protocol/version.py"


def test_daemon_and_fast_path_have_the_same_version() -> None:
    assert version() == VERSION
    assert FAST_PATH_VERSION == VERSION


@pytest.mark.parametrize("package", PACKAGES)
def test_a_node_package_and_its_lock_have_the_same_version(package: str) -> None:
    lock = read_json(f"{package}/package-lock.json")
    assert read_json(f"{package}/package.json")["version"] == VERSION
    assert lock["version"] == lock["packages"][""]["version"] == VERSION


def test_the_client_library_has_the_same_version_in_the_extensions_lock() -> None:
    lock = read_json("client/editors/vscode/package-lock.json")["packages"]
    assert {entry["version"] for name, entry in lock.items() if name == "../../js"} == {VERSION}


def test_the_emacs_package_has_the_same_version() -> None:
    text = (ROOT / "client/editors/emacs/mlxd.el").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^;; Version: (\S+)$", text) == [VERSION]


def test_the_changelog_has_a_dated_section_for_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"(?m)^## \[{re.escape(VERSION)}\] - \d{{4}}-\d{{2}}-\d{{2}}$", text)
