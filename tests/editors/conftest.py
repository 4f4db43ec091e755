"""Fixtures of all editor tests: the real daemon, and its programs on the PATH."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import BIN
from support.daemon_process import Daemon, running_daemon
from support.neovim import SETUP, Neovim, neovim, neovims


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        running.ask("load")
        yield running


@pytest.fixture(scope="module")
def environ(daemon: Daemon) -> dict[str, str]:
    path = f"{BIN}:{daemon.environ['PATH']}"
    return {**daemon.environ, "PATH": path, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}


@pytest.fixture(params=list(neovims()) or ["none"])
def program(request: pytest.FixtureRequest) -> str | None:
    """The oldest and the newest installed Neovim: every test runs in both."""
    return neovims().get(request.param)


@pytest.fixture
def vim(environ: dict[str, str], tmp_path: Path, program: str | None) -> Iterator[Neovim]:
    with neovim(environ, tmp_path, program) as editor:
        editor.lua(SETUP)
        yield editor
