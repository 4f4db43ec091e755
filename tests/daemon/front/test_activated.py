"""The real daemon on a socket of launchd or systemd, which it keeps over an upgrade."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.launchd import LABEL
from support import needs, waiting
from support.daemon_process import TIMEOUT_S, Daemon, fake_engine_settings
from support.libxpc import build_libxpc
from support.places import MLXD
from support.sources import copy_sources, touch


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    settings = {"PYTHONPATH": copy_sources(tmp_path), "MLXD_UPGRADE_CHECK_S": "0.1"}
    daemon = Daemon(tmp_path, {**fake_engine_settings(), **settings})
    Path(daemon.socket_path).parent.mkdir(mode=0o700)
    yield daemon
    if daemon.process is not None and daemon.process.poll() is None:
        daemon.process.kill()
        daemon.process.wait()


def check_upgrade_keeps_socket(daemon: Daemon) -> None:
    inode = os.stat(daemon.socket_path).st_ino
    pid = daemon.ask("status")["pid"]
    touch(daemon.folder, "daemon/mlxd/daemon/version.py")
    daemon.wait_event("ready", times=2)
    assert daemon.ask("status")["pid"] == pid
    os.kill(pid, signal.SIGTERM)
    assert daemon.process is not None
    assert daemon.process.wait(TIMEOUT_S) == 0
    assert os.stat(daemon.socket_path).st_ino == inode, "the daemon must not remove the socket"


def test_the_socket_of_launchd_is_kept_over_an_upgrade(daemon: Daemon, tmp_path: Path) -> None:
    daemon.environ |= {
        "LD_PRELOAD": str(build_libxpc(tmp_path)),
        "XPC_SERVICE_NAME": LABEL,
        "FAKE_XPC_ONCE": str(tmp_path / "activated"),
    }
    with socket.socket(socket.AF_UNIX) as launchd:
        launchd.bind(daemon.socket_path)
        launchd.listen()
        daemon.environ["FAKE_XPC_FD"] = str(launchd.fileno())
        daemon.start(pass_fds=[launchd.fileno()])
        check_upgrade_keeps_socket(daemon)


def test_the_socket_of_systemd_is_kept_over_an_upgrade(daemon: Daemon) -> None:
    address = daemon.folder / "notify"
    daemon.environ["NOTIFY_SOCKET"] = str(address)
    passed = [f"--setenv={name}" for name in daemon.environ]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(TIMEOUT_S)
        activate = needs.program("systemd-socket-activate")
        daemon.spawn([activate, "-l", daemon.socket_path, *passed, *MLXD, "run"])
        waiting.until(Path(daemon.socket_path).exists, "no socket", TIMEOUT_S)
        assert daemon.ask("ping") == {"pong": True}
        assert systemd.recv(64) == b"READY=1"
        check_upgrade_keeps_socket(daemon)
        assert systemd.recv(64) == b"READY=1", "it reports readiness again"
