"""Chooses the service manager of the platform."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mlxd.launchd.agent import LaunchdService
from mlxd.launchd.service import Runner, Service, run_command
from mlxd.launchd.spec import ServiceSpec
from mlxd.launchd.systemd import SystemdService


def service_for(
    spec: ServiceSpec,
    environ: Mapping[str, str],
    *,
    platform: str = sys.platform,
    runner: Runner = run_command,
) -> Service:
    """Return the service manager of the platform."""
    # If no home is known, `~` is not expanded, and nothing is installed there either.
    home = Path(environ.get("HOME") or os.path.expanduser("~")).absolute()
    if platform == "darwin":
        return LaunchdService(spec, home / "Library/LaunchAgents", os.getuid(), runner)
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return SystemdService(spec, config_home / "systemd/user", runner)
