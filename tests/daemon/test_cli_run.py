"""`mlxd run` and `start` with the real front: in the foreground, in the background, in systemd."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mlxd.daemon import control, lock
from mlxd.daemon.cli.run import run
from mlxd.daemon.config import Config
from mlxd.protocol.paths import Paths
from support import needs
from support.places import MLXD, mlxd
from support.racers import race


@pytest.fixture
def cold(environ: dict[str, str]) -> dict[str, str]:
    """Return an environment without preloading: these tests need the front only."""
    return {**environ, "MLXD_PRELOAD": "off"}


@pytest.fixture
def foreground(cold: dict[str, str], own_paths: Paths) -> Iterator[subprocess.Popen[str]]:
    ready, tell = os.pipe()
    with subprocess.Popen(
        [*MLXD, "run"],
        env={**cold, "MLXD_READY_FD": str(tell)},
        pass_fds=(tell,),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(tell)
        assert os.read(ready, 100) == b"ready\n"
        os.close(ready)
        yield process
        process.kill()


def test_sigterm_ends_the_daemon_with_exit_code_0(
    foreground: subprocess.Popen[str], own_paths: Paths
) -> None:
    assert lock.holder(own_paths.lock_file) == foreground.pid
    foreground.send_signal(signal.SIGTERM)
    assert foreground.wait(30) == 0
    assert not own_paths.socket.exists()


def test_a_second_run_or_start_finds_the_running_daemon(
    foreground: subprocess.Popen[str], cold: dict[str, str]
) -> None:
    done = mlxd(cold, "run")
    assert done.returncode == 1
    assert str(foreground.pid) in done.stderr
    assert "already running" in mlxd(cold, "start").stderr


def test_start_status_restart_and_stop_work_in_sequence(
    cold: dict[str, str], own_paths: Paths
) -> None:
    done = mlxd(cold, "start")
    assert done.returncode == 0, done.stderr
    first = lock.holder(own_paths.lock_file)
    assert mlxd(cold, "status").returncode == 0
    assert mlxd(cold, "logs").stdout
    done = mlxd(cold, "restart")
    assert done.returncode == 0, done.stderr
    assert lock.holder(own_paths.lock_file) not in (None, first)
    assert mlxd(cold, "stop").returncode == 0
    assert mlxd(cold, "status").returncode == 3


def test_start_prints_the_error_of_the_child_process(
    cold: dict[str, str], own_paths: Paths
) -> None:
    own_paths.socket.parent.mkdir(mode=0o700)
    own_paths.socket.write_text("not a socket")
    done = mlxd(cold, "start")
    assert done.returncode not in (0, 3)
    assert "is not a socket" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_fifty_concurrent_mlxd_starts_give_one_daemon(
    cold: dict[str, str], own_paths: Paths
) -> None:
    outcomes = race("from mlxd.daemon.cli import main", 'main(["start"])', cold)
    assert [status for status, _ in outcomes] == [0] * 50, outcomes
    assert len([said for _, said in outcomes if "already" not in said]) == 1


def test_the_daemon_serves_systemds_socket_and_reports_readiness(
    cold: dict[str, str], own_paths: Paths, tmp_path: Path
) -> None:
    own_paths.socket.parent.mkdir(mode=0o700)
    address = str(tmp_path / "notify")
    variables = {**cold, "NOTIFY_SOCKET": address}
    passed = [f"--setenv={name}" for name in variables]
    command = [
        needs.program("systemd-socket-activate"),
        "-l",
        str(own_paths.socket),
        *passed,
        *MLXD,
        "run",
    ]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True) as process,
    ):
        systemd.bind(address)
        systemd.settimeout(60)
        assert process.stderr is not None
        assert "Listening" in process.stderr.readline()
        assert control.request(own_paths.socket, "ping", timeout_s=60) == {"pong": True}
        assert systemd.recv(100).startswith(b"READY=1")
        process.terminate()
        process.stderr.read()
        assert process.wait(60) == 0
    assert own_paths.socket.exists(), "the socket belongs to systemd"


def test_run_applies_settings_and_environment_of_the_config_file(
    own_paths: Paths, cold: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Config] = []

    def serve(config: Config, _paths: Paths, **_rest: Any) -> int:
        seen.append(config)
        assert os.environ["HF_ENDPOINT"] == "http://mirror"
        assert os.environ["HTTPS_PROXY"] == "http://of-the-shell"
        return 0

    monkeypatch.setenv("HF_ENDPOINT", "so that it is unset again afterwards")
    monkeypatch.delenv("HF_ENDPOINT")
    own_paths.config_dir.mkdir()
    own_paths.config_file.write_text(
        "[environment]\nHF_ENDPOINT = 'http://mirror'\nHTTPS_PROXY = 'http://of-the-file'\n"
    )
    monkeypatch.setattr("mlxd.daemon.front.app.serve", serve)
    variables = {**cold, "HTTPS_PROXY": "http://of-the-shell"}
    done = CliRunner().invoke(
        run, ["--max-queue", "7"], env=variables, catch_exceptions=False, standalone_mode=False
    )
    assert done.return_value == 0
    assert (seen[0].max_queue, seen[0].preload) == (7, False)
