"""The HTTP bridge as a service: its units, its property list, and the verbs."""

from __future__ import annotations

import configparser
import os
import plistlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mlxd.launchd.http import LaunchdHttp, SystemdHttp
from mlxd.launchd.plist import http_agent
from mlxd.launchd.service import Outcome, prepare
from mlxd.launchd.spec import ServiceSpec
from mlxd.launchd.units import http_service_unit, http_socket_unit
from support import needs


class Manager:
    """Records every call. `statuses` has the exit statuses of verbs that do not succeed."""

    def __init__(self, **statuses: list[int]) -> None:
        self.calls: list[str] = []
        self.statuses = statuses

    def __call__(self, command: Sequence[str]) -> Outcome:
        words = [word for word in command[1:] if word != "--user"]
        self.calls.append(" ".join(words))
        left = self.statuses.get(words[0]) or [0]
        return Outcome(left.pop(0) if len(left) > 1 else left[0])


def test_systemd_listens_on_both_loopback_addresses_only() -> None:
    lines = http_socket_unit(6593).splitlines()
    addresses = [line for line in lines if line.startswith("ListenStream=")]
    assert addresses == ["ListenStream=127.0.0.1:6593", "ListenStream=[::1]:6593"]


def test_the_bridge_is_started_by_the_daemons_launcher(spec: ServiceSpec) -> None:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.read_string(http_service_unit(spec))
    assert parser["Service"]["ExecStart"].endswith('bin/mlxd" http')
    agent = http_agent(spec, 6593, "gui/501")
    assert agent["Label"] == "mlxd.http"
    assert agent["ProgramArguments"][-1] == "http"
    assert [one["SockNodeName"] for one in agent["Sockets"]["Listener"]] == ["127.0.0.1", "::1"]
    assert "RunAtLoad" not in agent


def test_systemd_analyze_verifies_the_units(spec: ServiceSpec, tmp_path: Path) -> None:
    prepare(spec)
    files = [tmp_path / "mlxd-http.socket", tmp_path / "mlxd-http.service"]
    files[0].write_text(http_socket_unit(6593))
    files[1].write_text(http_service_unit(spec))
    done = subprocess.run(
        [needs.program("systemd-analyze"), "--user", "verify", *map(str, files)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        check=False,
    )
    assert "mlxd" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_systemd_installs_once_and_leaves_nothing_behind(spec: ServiceSpec, tmp_path: Path) -> None:
    manager, units = Manager(), tmp_path / "units"
    service = SystemdHttp(spec, units, manager)
    assert service.install(6593)
    assert manager.calls[-1] == "enable --now mlxd-http.socket"
    assert not service.install(6593)
    assert service.install(7000)
    assert "127.0.0.1:7000" in (units / "mlxd-http.socket").read_text()
    assert service.uninstall()
    assert not service.uninstall()
    assert list(units.iterdir()) == []


def test_launchd_installs_once_and_leaves_nothing_behind(spec: ServiceSpec, tmp_path: Path) -> None:
    manager = Manager(bootstrap=[37, 5, 0])  # the old job is still ending
    agents = tmp_path / "agents"
    service = LaunchdHttp(spec, agents, 501, manager, sleep=lambda _: None)
    assert service.install(6593)
    assert manager.calls[-3:] == [f"bootstrap gui/501 {agents / 'mlxd.http.plist'}"] * 3
    about = plistlib.loads((agents / "mlxd.http.plist").read_bytes())
    assert about["Sockets"]["Listener"][0]["SockServiceName"] == "6593"
    assert not service.install(6593)
    assert service.uninstall()
    assert manager.calls[-1] == "bootout gui/501/mlxd.http"
    assert not service.uninstall()
    assert list(agents.iterdir()) == []


def test_without_a_desktop_the_bridge_is_for_the_background(
    spec: ServiceSpec, tmp_path: Path
) -> None:
    manager = Manager(print=[113, 0])  # gui/501 is not there, user/501 is
    LaunchdHttp(spec, tmp_path, 501, manager, sleep=lambda _: None).install(6593)
    about = plistlib.loads((tmp_path / "mlxd.http.plist").read_bytes())
    assert about["LimitLoadToSessionType"] == "Background"
    assert manager.calls[-1] == f"bootstrap user/501 {tmp_path / 'mlxd.http.plist'}"
