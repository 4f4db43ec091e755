"""One real daemon with the built-in model for all end-to-end tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.bridge import Bridge, running_bridge
from support.commands import Run, runner
from support.daemon_process import Daemon, running_daemon


@pytest.fixture(scope="session")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        running.ask("load")
        yield running


@pytest.fixture(scope="session")
def bridge(daemon: Daemon) -> Iterator[Bridge]:
    """An HTTP bridge in front of the shared daemon."""
    with running_bridge(daemon.environ) as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_left_over(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that uses the shared daemon leaves no request behind for the next one."""
    yield
    if "daemon" in request.fixturenames:
        shared: Daemon = request.getfixturevalue("daemon")
        if shared.process is not None and shared.process.poll() is None:
            shared.wait_idle()


@pytest.fixture
def mlx(daemon: Daemon) -> Run:
    """Return a function that runs the installed `mlx` against the daemon."""
    return runner(daemon.environ)


@pytest.fixture
def environ_of(daemon: Daemon) -> dict[str, str]:
    return {**daemon.environ, "TERM": os.environ.get("TERM", "xterm-256color")}
