"""The daemon as installed, started through its launcher, property list and units."""

from __future__ import annotations

import dataclasses
import json
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxd.daemon import control, lock
from mlxd.launchd.plist import agent_bytes
from mlxd.launchd.service import prepare, write_file
from mlxd.launchd.spec import ServiceSpec
from mlxd.launchd.units import service_unit, socket_unit
from support import needs
from support.launchd import SYSTEM_PATH, TIMEOUT_S, Launchd
from support.libxpc import build_libxpc
from support.waiting import until


def prepare_home(spec: ServiceSpec, settings: str = "") -> dict[str, str]:
    """Install the files and a configuration; return the variables that a service manager sets."""
    prepare(spec)
    spec.paths.config_dir.mkdir(parents=True)
    spec.paths.config_file.write_text(settings)
    home = spec.paths.config_dir.parent
    return {"HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}


@pytest.fixture
def launchd(
    spec: ServiceSpec, tmp_path: Path, libxpc: Path
) -> Iterator[Callable[[ServiceSpec], Launchd]]:
    started = []

    def load(spec: ServiceSpec, settings: str = "") -> Launchd:
        environ = prepare_home(spec, settings)
        plist = tmp_path / "mlxd.daemon.plist"
        write_file(plist, agent_bytes(spec, "gui/501"), 0o644)
        started.append(Launchd(plist, libxpc, environ))
        return started[-1]

    yield load
    for one in started:
        one.__exit__()


@pytest.fixture(scope="module")
def libxpc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_libxpc(tmp_path_factory.mktemp("xpc"))


def ask_while(path: Path, serve: Callable[[], None], method: str) -> Any:
    """Send a request that starts the daemon; return the result."""
    answers: list[Any] = []
    caller = threading.Thread(
        target=lambda: answers.append(control.request(path, method, timeout_s=TIMEOUT_S))
    )
    caller.start()
    serve()
    caller.join(TIMEOUT_S)
    assert answers, "no answer"
    return answers[0]


def test_the_daemon_started_from_the_plist_answers_its_first_client(
    spec: ServiceSpec, launchd: Callable[..., Launchd]
) -> None:
    with launchd(spec, "preload = false\n") as job:
        about = ask_while(spec.paths.socket, job.serve_first_caller, "status")
        assert job.process is not None
        assert about["pid"] == job.process.pid, "the launcher must exec the interpreter"
        variables = Path(f"/proc/{about['pid']}/environ").read_text().split("\0")
        assert f"PATH={SYSTEM_PATH}" in variables
        for made in (spec.paths.log_file, spec.paths.lock_file, spec.paths.log_dir):
            assert made.stat().st_mode & 0o077 == 0, made
        assert spec.crash_log.read_text() == "", "the daemon wrote outside of its log"
        job.process.send_signal(signal.SIGTERM)
        assert job.process.wait(TIMEOUT_S) == 0, "launchd would consider it a crash"
        assert spec.paths.socket.exists(), "the socket belongs to launchd"


def test_the_daemon_started_at_login_preloads_the_default_model(
    spec: ServiceSpec, launchd: Callable[..., Launchd]
) -> None:
    with launchd(dataclasses.replace(spec, at_login=True)):
        until(lambda: "preloaded" in events(spec), "never preloaded", TIMEOUT_S)
        models = control.request(spec.paths.socket, "ps")["models"]
        assert [one["model"] for one in models] == ["pocket"]


def test_a_damaged_configuration_is_reported_in_the_crash_log(
    spec: ServiceSpec, launchd: Callable[..., Launchd]
) -> None:
    with launchd(dataclasses.replace(spec, at_login=True), "preload = maybe\n") as job:
        assert job.process is not None
        assert job.process.wait(TIMEOUT_S) == 2
    assert "line 1, column 11" in spec.crash_log.read_text()
    assert not lock.is_held(spec.paths.lock_file)


def test_the_daemon_started_from_systemd_units_answers_its_first_client(
    spec: ServiceSpec, tmp_path: Path
) -> None:
    environ = {**prepare_home(spec, "preload = false\n"), "PATH": SYSTEM_PATH}
    socket_keys, service = (
        section(socket_unit(spec), "Socket"),
        section(service_unit(spec), "Service"),
    )
    environ |= dict(
        pair.split("=", 1) for line in service["Environment"] for pair in shlex.split(line)
    )
    environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(environ["NOTIFY_SOCKET"])
        systemd.settimeout(TIMEOUT_S)
        (address,), (name,), (start,) = (
            socket_keys["ListenStream"], socket_keys["FileDescriptorName"], service["ExecStart"],
        )  # fmt: skip
        command = [needs.program("systemd-socket-activate"), "-l", address, f"--fdname={name}",
                   *(f"--setenv={name}" for name in environ), *shlex.split(start)]  # fmt: skip
        with subprocess.Popen(
            command, env=environ, stderr=subprocess.PIPE, umask=int(service["UMask"][0], 8)
        ) as process:
            assert process.stderr is not None
            process.stderr.readline()  # the line that announces the socket
            about = control.request(spec.paths.socket, "status", timeout_s=TIMEOUT_S)
            assert about["pid"] == process.pid
            assert systemd.recv(64) == b"READY=1"
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
            assert process.wait(TIMEOUT_S) == 0
    assert spec.paths.socket.exists(), "the socket belongs to systemd"


def section(text: str, name: str) -> dict[str, list[str]]:
    """Return the keys of a unit's section, each with all its values."""
    found: dict[str, list[str]] = {}
    _, _, rest = text.partition(f"[{name}]\n")
    for line in rest.partition("\n\n")[0].splitlines():
        key, _, value = line.partition("=")
        found.setdefault(key, []).append(value.replace("%%", "%"))
    return found


def events(spec: ServiceSpec) -> list[str]:
    path = spec.paths.log_file
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["event"] for line in lines]
