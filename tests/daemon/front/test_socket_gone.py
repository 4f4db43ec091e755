"""The socket or its lock is removed while the daemon runs: it is recreated, or the daemon exits."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

from mlxd.daemon import lock
from mlxd.protocol.paths import resolve_paths
from support import needs
from support.daemon_process import (
    TIMEOUT_S,
    Daemon,
    daemon_with_fake_engine,
    fake_engine_settings,
    user,
)
from support.places import MLXD, mlxd
from support.waiting import until

CHECK_OFTEN = {"MLXD_UPGRADE_CHECK_S": "0.05"}


def answers_again(daemon: Daemon) -> bool:
    """Wait until a new connection is answered."""

    def answered() -> bool:
        try:
            return bool(daemon.ask("ping")["pong"])
        except OSError:
            return False

    until(answered, "no new caller is answered", TIMEOUT_S)
    return True


def test_a_removed_runtime_folder_is_recreated() -> None:
    with daemon_with_fake_engine(**CHECK_OFTEN) as daemon, daemon.peer() as before:
        running = before.send("chat", messages=user("endless"), stream=True)
        before.wait_event("delta")
        shutil.rmtree(Path(daemon.socket_path).parent)
        assert answers_again(daemon)
        before.wait_event("delta")
        assert before.call("cancel", id=running) == {"cancelled": True}
        paths = resolve_paths(daemon.environ)
        assert daemon.process is not None
        assert lock.holder(paths.lock_file) == daemon.process.pid
        assert paths.socket.stat().st_mode & 0o777 == 0o600
        assert paths.socket.parent.stat().st_mode & 0o777 == 0o700
        assert "already running" in mlxd(daemon.environ, "start").stderr
        assert daemon.stop() == 0
        assert not paths.socket.exists()


def test_a_removed_lock_file_is_recreated_and_the_socket_stays() -> None:
    with daemon_with_fake_engine(**CHECK_OFTEN) as daemon:
        paths = resolve_paths(daemon.environ)
        inode = paths.socket.stat().st_ino
        paths.lock_file.unlink()
        daemon.wait_event("socket restored")
        assert lock.is_held(paths.lock_file)
        assert paths.socket.stat().st_ino == inode
        assert mlxd(daemon.environ, "status").returncode == 0


def test_a_daemon_replaced_at_its_socket_finishes_its_requests_and_exits() -> None:
    with daemon_with_fake_engine(**CHECK_OFTEN) as daemon, daemon.peer() as peer:
        running = peer.send("chat", messages=user("300 tokens"), stream=True)
        peer.wait_event("delta")
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGSTOP)
        shutil.rmtree(Path(daemon.socket_path).parent)
        done = mlxd(daemon.environ, "start")
        assert done.returncode == 0, done.stderr
        try:
            daemon.process.send_signal(signal.SIGCONT)
            assert peer.answer(running)["usage"]["completion_tokens"] == 300
            assert daemon.process.wait(TIMEOUT_S) == 0
            assert daemon.ask("status")["pid"] != daemon.process.pid, "the new one was harmed"
        finally:
            assert mlxd(daemon.environ, "stop").returncode == 0


def test_a_socket_that_cannot_be_recreated_is_retried_and_logged_once() -> None:
    with daemon_with_fake_engine(**CHECK_OFTEN) as daemon:
        folder = Path(daemon.socket_path).parent
        shutil.rmtree(folder)
        folder.write_text("a file is in the way")
        daemon.wait_event("socket gone")
        folder.unlink()
        assert answers_again(daemon)
        assert sum(line["event"] == "socket gone" for line in daemon.log_lines()) == 1


def test_a_daemon_whose_adopted_socket_was_removed_exits(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, {**fake_engine_settings(), **CHECK_OFTEN})
    socket = Path(daemon.socket_path)
    socket.parent.mkdir(mode=0o700)
    passed = [f"--setenv={name}" for name in [*daemon.environ, "MLXD_READY_FD"]]
    command = [needs.program("systemd-socket-activate"), "-l", str(socket), *passed, *MLXD, "run"]
    pid = os.posix_spawn(command[0], command, daemon.environ)
    try:
        assert answers_again(daemon)
        socket.unlink()
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    assert status == 0
    assert [line["event"] for line in daemon.log_lines()][-3:] == [
        "unreachable",
        "stopping",
        "stopped",
    ]
