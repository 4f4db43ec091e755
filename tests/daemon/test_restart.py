"""`mlxd restart` loses no answer, and reports mistakes while the old daemon still runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from support.daemon_process import (
    TIMEOUT_S,
    Daemon,
    daemon_with_fake_engine,
    fake_engine_settings,
    user,
)
from support.places import MLXD, mlxd


def test_a_restart_lets_running_requests_finish() -> None:
    with daemon_with_fake_engine() as daemon, daemon.peer() as peer:
        running = peer.send("chat", messages=user("500 tokens"), stream=True)
        peer.wait_event("delta")
        before = daemon.ask("status")["pid"]
        with subprocess.Popen(
            [*MLXD, "restart"], env=daemon.environ, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as restart:
            assert peer.answer(running)["usage"]["completion_tokens"] == 500
            _, said = restart.communicate(timeout=TIMEOUT_S)
        try:
            assert restart.returncode == 0, said
            assert daemon.process is not None
            assert daemon.process.wait(TIMEOUT_S) == 0
            assert daemon.ask("status")["pid"] != before
        finally:
            assert mlxd(daemon.environ, "stop").returncode == 0


def test_restart_refuses_a_damaged_configuration_before_stopping() -> None:
    with daemon_with_fake_engine() as daemon:
        config = Path(daemon.environ["MLXD_CONFIG_DIR"]) / "config.toml"
        config.parent.mkdir()
        config.write_text("preload = maybe\n")
        before = daemon.ask("status")["pid"]
        done = mlxd(daemon.environ, "restart")
        assert done.returncode == 2
        assert "line 1, column 11" in done.stderr
        assert daemon.ask("status")["pid"] == before


def test_restart_starts_the_daemon_if_none_is_running() -> None:
    with daemon_with_fake_engine() as daemon:
        assert daemon.stop() == 0
        assert mlxd(daemon.environ, "restart").returncode == 0
        assert daemon.ask("ping") == {"pong": True}
        assert mlxd(daemon.environ, "stop").returncode == 0


def test_a_runtime_folder_removed_at_logout_is_recreated(tmp_path: Path) -> None:
    runtime = tmp_path / "user-runtime"
    runtime.mkdir(mode=0o700)
    settings = {"XDG_RUNTIME_DIR": str(runtime), "MLXD_UPGRADE_CHECK_S": "0.05"}
    daemon = Daemon(tmp_path, {**fake_engine_settings(), **settings})
    del daemon.environ["MLXD_SOCKET"]
    daemon.socket_path = str(runtime / "mlxd" / "mlxd.sock")
    try:
        daemon.start()
        with daemon.peer() as peer:
            running = peer.send("chat", messages=user("endless"), stream=True)
            peer.wait_event("delta")
            shutil.rmtree(runtime)
            daemon.wait_event("socket restored")
            assert mlxd(daemon.environ, "status").returncode == 0
            assert peer.call("cancel", id=running) == {"cancelled": True}
        assert mlxd(daemon.environ, "stop").returncode == 0
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.process.kill()
            daemon.process.wait()
