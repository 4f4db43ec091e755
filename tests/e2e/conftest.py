"""One real daemon with the built-in model for all end-to-end tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.commands import Run, runner
from support.daemon_process import Daemon, running_daemon


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        running.ask("load")
        yield running


@pytest.fixture
def mlx(daemon: Daemon) -> Run:
    """Return a function that runs the installed `mlx` against the daemon."""
    return runner(daemon.environ)


@pytest.fixture
def environ_of(daemon: Daemon) -> dict[str, str]:
    return {**daemon.environ, "TERM": os.environ.get("TERM", "xterm-256color")}
