"""Two environments of one user that name different sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.commands import runner
from support.daemon_process import Daemon, daemon_with_fake_engine
from support.places import mlxd


def other_environment(daemon: Daemon, tmp_path: Path) -> dict[str, str]:
    """Return an environment like that of `su` or `cron`: the socket is in the state folder."""
    environ = {**daemon.environ, "MLXD_STATE_DIR": str(daemon.folder / "state")}
    del environ["MLXD_SOCKET"]
    return environ


@pytest.mark.parametrize("command", ["start", "run", "stop", "status"])
def test_mlxd_in_another_environment_reports_where_the_daemon_listens(
    command: str, tmp_path: Path
) -> None:
    with daemon_with_fake_engine() as daemon:
        environ = other_environment(daemon, tmp_path)
        done = mlxd(environ, command)
        assert done.returncode == 3, done.stderr
        assert f"It listens at {daemon.socket_path}" in done.stderr
        assert f"export MLXD_SOCKET={daemon.socket_path}" in done.stderr
        assert daemon.ask("ping") == {"pong": True}
        assert not (daemon.folder / "state" / "mlxd.sock").exists()


def test_ask_in_another_environment_reports_where_the_daemon_listens(tmp_path: Path) -> None:
    with daemon_with_fake_engine() as daemon:
        done = runner(other_environment(daemon, tmp_path))("ask", "hello")
        assert done.returncode == 3
        assert f"export MLXD_SOCKET={daemon.socket_path}" in done.stderr


def test_another_environment_can_start_a_daemon_once_the_first_stopped(tmp_path: Path) -> None:
    with daemon_with_fake_engine() as daemon:
        daemon.stop()
        environ = other_environment(daemon, tmp_path)
        assert mlxd(environ, "start").returncode == 0
        assert mlxd(environ, "stop").returncode == 0
