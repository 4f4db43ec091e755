"""Give every test its own home folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlxd.launchd.spec import ServiceSpec
from mlxd.protocol.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    home = tmp_path / "home"
    return Paths(
        socket=home / "state" / "mlxd.sock",
        config_dir=home / "config",
        state_dir=home / "state",
        data_dir=home / "data",
        cache_dir=home / "cache",
        log_dir=home / "log",
    )


@pytest.fixture
def spec(paths: Paths) -> ServiceSpec:
    return ServiceSpec(paths, sys.executable)
