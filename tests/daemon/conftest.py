"""Give every test its own home folder, and stop the daemon that it started."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.daemon import lock
from mlxd.protocol.paths import Paths, resolve_paths
from support.places import own_environ


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A user whose daemons start an engine only when one is needed."""
    return {**own_environ(tmp_path), "MLXD_PRELOAD": "off"}


@pytest.fixture
def own_paths(environ: dict[str, str]) -> Iterator[Paths]:
    paths = resolve_paths(environ)
    yield paths
    pid = lock.holder(paths.lock_file)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        assert lock.wait_released(paths.lock_file, 10)
