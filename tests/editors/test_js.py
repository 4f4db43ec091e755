"""The JavaScript client's own tests, in the real Node with the real daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.protocol.parameters import SAMPLING
from support import needs
from support.turns import turn

NODE_MAJOR = 20
CLIENT = Path(__file__).resolve().parents[2] / "client" / "js"
SUPPORT = Path(__file__).resolve().parents[1] / "support"


def npm(*arguments: str, folder: Path = CLIENT, environ: dict[str, str] | None = None) -> str:
    """Run npm; return its stdout."""
    program, node = needs.program("npm"), needs.program("node")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version[1:].split(".")[0]) < NODE_MAJOR:
        needs.missing(f"Node {version.strip()} is too old")
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=environ, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_types_of_the_js_client_have_every_sampling_parameter() -> None:
    source = (CLIENT / "src" / "types.ts").read_text()
    options = source.partition("export interface Options {")[2].partition("\n}")[0]
    typed = set(re.findall(r"^  (\w+)\?:", options, re.MULTILINE))
    assert {param.name for param in SAMPLING} <= typed


@pytest.fixture(autouse=True)
def npm_lock() -> Iterator[None]:
    """Run one test at a time: npm installs and builds in the checkout, which all tests share."""
    with turn("npm"):
        yield


def npm_install(folder: Path) -> None:
    if not (folder / "node_modules" / "typescript").is_dir():
        npm("ci", "--no-audit", "--no-fund", "--prefer-offline", folder=folder)


def client_built() -> None:
    """Install and build the client, unless it was built after the last change."""
    npm_install(CLIENT)
    built = [path.stat().st_mtime for path in (CLIENT / "dist").glob("*.js")]
    changed = [path.stat().st_mtime for path in (CLIENT / "src").iterdir()]
    if not built or min(built) < max(changed):
        npm("run", "build", folder=CLIENT)


def test_the_js_client_passes_its_own_tests(environ: dict[str, str]) -> None:
    npm_install(CLIENT)
    faulty = json.dumps([sys.executable, str(SUPPORT / "faulty_daemon.py")])
    paths = os.pathsep.join(map(os.path.abspath, sys.path))
    said = npm("test", environ={**environ, "FAULTY_DAEMON": faulty, "PYTHONPATH": paths})
    assert "# fail 0" in said
    assert f"# skipped {int(os.geteuid() != 0)}" in said
    assert "# pass 0" not in said


def test_the_vs_code_extension_passes_its_own_tests(environ: dict[str, str]) -> None:
    folder = CLIENT.parent / "editors" / "vscode"
    client_built()
    npm_install(folder)
    said = npm("test", folder=folder, environ=environ)
    assert "# fail 0" in said
    assert "# pass 0" not in said


@pytest.mark.host
def test_the_vs_code_extension_works_in_a_real_editor(environ: dict[str, str]) -> None:
    folder = CLIENT.parent / "editors" / "vscode"
    client_built()
    npm_install(folder)
    said = npm("run", "test:host", folder=folder, environ=environ)
    assert "# fail 0" in said
    assert "# pass 6" in said
