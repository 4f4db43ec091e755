"""The systemd units: their content, their check by systemd, and install, start, stop."""

from __future__ import annotations

import configparser
import dataclasses
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlxd.launchd.factory import service_for
from mlxd.launchd.service import ManagerUnreachable, Outcome, prepare
from mlxd.launchd.spec import ServiceSpec
from mlxd.launchd.systemd import SystemdService
from mlxd.launchd.units import HARDENING, service_unit, socket_unit
from support import needs


def parse_unit(text: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


class FakeSystemd:
    """Records active and enabled units. If `broken` is set, every call fails with it."""

    def __init__(self) -> None:
        self.active: set[str] = set()
        self.enabled: set[str] = set()
        self.calls: list[str] = []
        self.broken: Outcome | None = None

    def run(self, command: Sequence[str]) -> Outcome:
        assert command[:2] == ("systemctl", "--user")
        verb, *rest = command[2:]
        units = {unit for unit in rest if not unit.startswith("--")}
        self.calls.append(" ".join(command[2:]))
        if self.broken is not None:
            return self.broken
        outcome: Outcome = getattr(self, verb.replace("-", "_"))(units, "--now" in rest)
        return outcome

    def show_environment(self, _units: set[str], _now: bool) -> Outcome:
        return Outcome(0)

    def daemon_reload(self, _units: set[str], _now: bool) -> Outcome:
        return Outcome(0)

    def enable(self, units: set[str], now: bool) -> Outcome:
        self.enabled |= units
        self.active |= units if now else set()
        return Outcome(0)

    def disable(self, units: set[str], now: bool) -> Outcome:
        self.enabled -= units
        self.active -= units if now else set()
        return Outcome(0)

    def start(self, units: set[str], _now: bool) -> Outcome:
        self.active |= units
        return Outcome(0)

    def stop(self, units: set[str], _now: bool) -> Outcome:
        self.active -= units
        return Outcome(0)

    def is_active(self, units: set[str], _now: bool) -> Outcome:
        return Outcome(0 if units <= self.active else 3)

    def is_enabled(self, units: set[str], _now: bool) -> Outcome:
        return Outcome(0 if units <= self.enabled else 1)


@pytest.fixture
def systemd() -> FakeSystemd:
    return FakeSystemd()


def service(spec: ServiceSpec, systemd: FakeSystemd) -> SystemdService:
    return SystemdService(spec, spec.paths.config_dir.parent / "units", systemd.run)


def test_the_socket_unit_is_private(spec: ServiceSpec) -> None:
    unit = parse_unit(socket_unit(spec))["Socket"]
    assert unit["ListenStream"] == str(spec.paths.socket)
    assert (unit["SocketMode"], unit["DirectoryMode"]) == ("0600", "0700")


def test_the_service_unit_is_hardened_and_of_type_notify(spec: ServiceSpec) -> None:
    unit = parse_unit(service_unit(spec))["Service"]
    assert unit["Type"] == "notify"
    assert all(unit[key] == value for key, value in HARDENING)
    assert "MemoryDenyWriteExecute" not in unit


def test_the_service_continues_if_the_engine_is_killed_for_memory(spec: ServiceSpec) -> None:
    assert parse_unit(service_unit(spec))["Service"]["OOMPolicy"] == "continue"


@pytest.mark.parametrize("folder", ["plain", "with space", "50% off"])
def test_systemd_analyze_verifies_the_units(spec: ServiceSpec, tmp_path: Path, folder: str) -> None:
    base = tmp_path / folder
    base.mkdir()
    paths = dataclasses.replace(
        spec.paths, socket=base / "mlxd-run" / "mlxd.sock", state_dir=base / "state"
    )
    odd = dataclasses.replace(spec, paths=paths)
    prepare(odd)
    units = tmp_path / "units"
    units.mkdir()
    (units / "mlxd.socket").write_text(socket_unit(odd))
    (units / "mlxd.service").write_text(service_unit(odd))
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [
            needs.program("systemd-analyze"),
            "--user",
            "verify",
            str(units / "mlxd.socket"),
            str(units / "mlxd.service"),
        ],
        capture_output=True,
        text=True,
        env=environ,
        check=False,
    )
    assert "mlxd" not in done.stderr
    assert done.returncode == 0, done.stderr


def test_install_enables_the_socket_but_not_the_service(
    spec: ServiceSpec, systemd: FakeSystemd
) -> None:
    units = service(spec, systemd)
    assert units.install()
    assert systemd.active == systemd.enabled == {"mlxd.socket"}
    state = units.state()
    assert (state.installed, state.loaded, state.at_login) == (True, True, False)


def test_install_at_login_enables_the_service_too(spec: ServiceSpec, systemd: FakeSystemd) -> None:
    units = service(dataclasses.replace(spec, at_login=True), systemd)
    units.install()
    assert systemd.active == systemd.enabled == {"mlxd.socket", "mlxd.service"}
    assert units.state().at_login


def test_a_second_install_changes_nothing(spec: ServiceSpec, systemd: FakeSystemd) -> None:
    units = service(spec, systemd)
    units.install()
    systemd.calls.clear()
    assert not units.install()
    assert all(call.startswith("is-") for call in systemd.calls)


def test_install_restarts_a_socket_whose_path_changed(
    spec: ServiceSpec, systemd: FakeSystemd
) -> None:
    service(spec, systemd).install()
    moved = dataclasses.replace(
        spec, paths=dataclasses.replace(spec.paths, socket=spec.paths.state_dir / "new.sock")
    )
    assert service(moved, systemd).install()
    stopped = systemd.calls.index("stop mlxd.socket mlxd.service")
    assert "enable --now mlxd.socket" in systemd.calls[stopped:]
    assert "mlxd.socket" in systemd.active


def test_install_without_a_session_leaves_no_files_and_gives_a_hint(
    spec: ServiceSpec, systemd: FakeSystemd
) -> None:
    units = service(spec, systemd)
    units.check()
    systemd.broken = Outcome(1, "Failed to connect to bus: No medium found")
    for verb in (units.check, units.install, units.start):
        with pytest.raises(ManagerUnreachable, match="Failed to connect") as caught:
            verb()
        assert "enable-linger" in caught.value.hint
    home = spec.paths.config_dir.parent
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_uninstall_removes_all_files_even_without_a_session(
    spec: ServiceSpec, systemd: FakeSystemd
) -> None:
    units = service(spec, systemd)
    units.install()
    wants = units.unit_paths[0].parent / "sockets.target.wants"
    wants.mkdir()
    (wants / "mlxd.socket").symlink_to(units.unit_paths[0])
    spec.paths.socket.touch()
    systemd.broken = Outcome(1, "Failed to connect to bus")
    assert units.uninstall()
    home = spec.paths.config_dir.parent
    assert not [path for path in home.rglob("*") if not path.is_dir()]
    assert not units.uninstall()


def test_start_and_stop_keep_the_socket_active(spec: ServiceSpec, systemd: FakeSystemd) -> None:
    units = service(spec, systemd)
    units.install()
    units.start()
    assert systemd.active == {"mlxd.socket", "mlxd.service"}
    units.stop()
    assert systemd.active == {"mlxd.socket"}


def test_the_service_manager_is_chosen_by_platform(spec: ServiceSpec) -> None:
    environ = {"HOME": "/home/a", "XDG_CONFIG_HOME": "/home/a/conf"}
    assert service_for(spec, environ, platform="darwin").manager == "launchd"
    chosen = service_for(spec, environ, platform="linux")
    assert isinstance(chosen, SystemdService)
    assert chosen.unit_paths[0] == Path("/home/a/conf/systemd/user/mlxd.socket")


def test_files_of_another_installation_are_detected(
    spec: ServiceSpec, systemd: FakeSystemd
) -> None:
    service(spec, systemd).install()
    newer = service(dataclasses.replace(spec, python="/new/python"), systemd)
    assert not newer.state().current
    assert newer.install()
    assert newer.state().current
