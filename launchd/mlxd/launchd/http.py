"""The HTTP bridge as a second service beside the daemon's. It starts at the first connection."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from mlxd.launchd import HTTP_LABEL
from mlxd.launchd.agent import GIVE_UP_S, RETRY_S, STILL_LEAVING, session_domain
from mlxd.launchd.plist import http_agent_bytes
from mlxd.launchd.service import Outcome, Runner, prepare, refused, remove, write_file
from mlxd.launchd.spec import ServiceSpec
from mlxd.launchd.units import (
    HTTP_SERVICE_UNIT,
    HTTP_SOCKET_UNIT,
    http_service_unit,
    http_socket_unit,
)


class HttpService(Protocol):
    """The service of the bridge, at one service manager."""

    def install(self, port: int) -> bool:
        """Write its files and listen. Return False if nothing changed. Raises ServiceError."""
        ...

    def uninstall(self) -> bool:
        """Stop it and remove its files. Return False if there were none."""
        ...


class SystemdHttp:
    """The units of the bridge."""

    def __init__(self, spec: ServiceSpec, units_dir: Path, runner: Runner) -> None:
        self._spec = spec
        self._units_dir = units_dir
        self._run = runner

    def install(self, port: int) -> bool:
        """Write the units and listen. Return False if nothing changed."""
        prepare(self._spec)
        contents = {
            HTTP_SOCKET_UNIT: http_socket_unit(port),
            HTTP_SERVICE_UNIT: http_service_unit(self._spec),
        }
        written = [
            write_file(self._units_dir / name, text.encode(), 0o644)
            for name, text in contents.items()
        ]
        if not any(written):
            return False
        self._systemctl("daemon-reload")
        # An active socket unit keeps its old address.
        self._systemctl("stop", HTTP_SOCKET_UNIT, HTTP_SERVICE_UNIT)
        self._systemctl("enable", "--now", HTTP_SOCKET_UNIT)
        return True

    def uninstall(self) -> bool:
        """Stop and disable the units, and remove their files."""
        files = [self._units_dir / HTTP_SOCKET_UNIT, self._units_dir / HTTP_SERVICE_UNIT]
        if not any(path.exists() for path in files):
            return False
        units = (HTTP_SOCKET_UNIT, HTTP_SERVICE_UNIT)
        # It fails without a session, but then nothing runs.
        self._run(("systemctl", "--user", "disable", "--now", *units))
        remove([*files, self._units_dir / "sockets.target.wants" / HTTP_SOCKET_UNIT])
        self._run(("systemctl", "--user", "daemon-reload"))
        return True

    def _systemctl(self, *arguments: str) -> None:
        command = ("systemctl", "--user", *arguments)
        outcome = self._run(command)
        if outcome.status != 0:
            raise refused(command, outcome)


class LaunchdHttp:
    """The agent of the bridge. Tests replace `sleep`."""

    def __init__(
        self,
        spec: ServiceSpec,
        agents_dir: Path,
        uid: int,
        runner: Runner,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._spec = spec
        self._plist = agents_dir / f"{HTTP_LABEL}.plist"
        self._uid = uid
        self._run = runner
        self._sleep = sleep

    def install(self, port: int) -> bool:
        """Write the property list and load the agent. Return False if nothing changed."""
        prepare(self._spec)
        domain = session_domain(self._run, self._uid)
        if not write_file(self._plist, http_agent_bytes(self._spec, port, domain), 0o644):
            return False
        self._launchctl("bootout", f"{domain}/{HTTP_LABEL}")
        self._launchctl("enable", f"{domain}/{HTTP_LABEL}")
        command = ("bootstrap", domain, str(self._plist))
        for _ in range(int(GIVE_UP_S / RETRY_S)):
            outcome = self._launchctl(*command)
            if outcome.status not in STILL_LEAVING:
                break
            self._sleep(RETRY_S)
        if outcome.status != 0:
            raise refused(("launchctl", *command), outcome)
        return True

    def uninstall(self) -> bool:
        """Boot the agent out and remove its property list."""
        if not remove([self._plist]):
            return False
        domain = session_domain(self._run, self._uid)
        self._launchctl("bootout", f"{domain}/{HTTP_LABEL}")
        return True

    def _launchctl(self, *arguments: str) -> Outcome:
        return self._run(("launchctl", *arguments))


def http_service_for(
    spec: ServiceSpec, environ: Mapping[str, str], *, platform: str, runner: Runner
) -> HttpService:
    """Return the bridge's service at the service manager of the platform."""
    home = Path(environ.get("HOME") or os.path.expanduser("~")).absolute()
    if platform == "darwin":
        return LaunchdHttp(spec, home / "Library/LaunchAgents", os.getuid(), runner)
    config_home = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    return SystemdHttp(spec, config_home / "systemd/user", runner)
