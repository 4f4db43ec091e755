"""What every editor's tests share: the real daemon, and its programs in the path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.commands import BIN
from support.daemon_process import Daemon, running_daemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with running_daemon() as running:
        running.ask("load")
        yield running


@pytest.fixture(scope="module")
def environ(daemon: Daemon) -> dict[str, str]:
    path = f"{BIN}:{daemon.environ['PATH']}"
    return {**daemon.environ, "PATH": path, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
