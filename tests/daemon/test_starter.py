"""Starting the daemon: once for any number of callers, and the errors of a failed start."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlxd.daemon import control, lock, starter
from mlxd.daemon.lock import POLL_S
from mlxd.protocol.errors import DaemonUnreachable
from mlxd.protocol.paths import Paths, resolve_paths
from mlxd.safesocket.folder import NoSocketFolder
from support.places import FAKE_DAEMON
from support.racers import race


def births(own_paths: Paths) -> list[str]:
    return (own_paths.log_dir / "births").read_text().splitlines()


def test_start_returns_once_the_daemon_answers(own_paths: Paths, environ: dict[str, str]) -> None:
    assert starter.start(own_paths, FAKE_DAEMON, environ).fresh
    assert control.request(own_paths.socket, "ping") == {"pong": True}
    assert not starter.start(own_paths, FAKE_DAEMON, environ).fresh
    assert len(births(own_paths)) == 1


def test_the_daemon_runs_in_its_own_session_with_a_private_socket_folder(
    own_paths: Paths, environ: dict[str, str]
) -> None:
    starter.start(own_paths, FAKE_DAEMON, environ)
    pid = int(births(own_paths)[0])
    assert os.getsid(pid) == pid
    if sys.platform.startswith("linux"):
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert own_paths.socket.parent.stat().st_mode & 0o777 == 0o700


def test_fifty_concurrent_starts_give_one_daemon_and_all_succeed(
    own_paths: Paths, environ: dict[str, str]
) -> None:
    outcomes = race(
        "from mlxd.daemon import starter\nfrom mlxd.protocol.paths import resolve_paths",
        "starter.start(resolve_paths(), sys.argv[1:], os.environ)",
        environ,
        *FAKE_DAEMON,
    )
    assert outcomes == [(0, "")] * 50
    assert len(births(own_paths)) == 1


def test_a_failed_start_shows_the_childs_output_and_exit_code(
    own_paths: Paths, environ: dict[str, str]
) -> None:
    own_paths.log_dir.mkdir()
    (own_paths.log_dir / "mlxd.err").write_text("words of another day\n")
    with pytest.raises(starter.StartFailed, match="The model is broken") as caught:
        starter.start(own_paths, FAKE_DAEMON, {**environ, "FAKE_DAEMON": "fail"})
    assert caught.value.exit_code == 5
    assert "another day" not in caught.value.message
    assert starter.StartFailed.exit_code == 1


def test_a_child_killed_during_start_is_a_failed_start(
    own_paths: Paths, environ: dict[str, str]
) -> None:
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    with pytest.raises(starter.StartFailed, match="status -9") as caught:
        starter.start(own_paths, command, environ)
    assert caught.value.exit_code == 1


def test_start_works_with_the_socket_and_lock_of_a_dead_daemon(
    own_paths: Paths, environ: dict[str, str]
) -> None:
    starter.start(own_paths, FAKE_DAEMON, environ)
    os.kill(int(births(own_paths)[0]), signal.SIGKILL)
    assert lock.wait_released(own_paths.lock_file, 10)
    assert own_paths.socket.exists()
    assert not starter.answers(own_paths)
    assert starter.start(own_paths, FAKE_DAEMON, environ).fresh
    assert len(births(own_paths)) == 2


def test_a_daemon_that_accepts_but_never_answers_raises_daemon_silent(
    own_paths: Paths, environ: dict[str, str]
) -> None:
    starter.start(own_paths, FAKE_DAEMON, {**environ, "FAKE_DAEMON": "mute"})
    with pytest.raises(control.DaemonSilent, match="did not answer") as caught:
        control.request(own_paths.socket, "ping", timeout_s=0.2)
    assert "mlxd logs" in caught.value.hint


def test_a_missing_socket_raises_daemon_unreachable(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="No daemon is running") as caught:
        control.request(tmp_path / "s", "ping")
    assert not isinstance(caught.value, control.DaemonSilent)
    assert caught.value.exit_code == 3


def test_the_answer_timeout_is_longer_than_launchds_throttle() -> None:
    assert control.ANSWER_TIMEOUT_S > 10


def test_a_socket_folder_that_cannot_be_created_is_a_failed_start(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    resolve_paths(environ).socket.parent.touch()
    with pytest.raises(NoSocketFolder, match="cannot be created"):
        starter.start(resolve_paths(environ), FAKE_DAEMON, environ)


def test_a_lock_is_released_when_its_process_ends(tmp_path: Path, environ: dict[str, str]) -> None:
    path = tmp_path / "lock"
    code = f"""
import sys
import threading
from pathlib import Path
from mlxd.daemon import lock
with lock.exclusive(Path({str(path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert lock.is_held(path)
        assert lock.holder(path) is None
        assert not lock.wait_released(path, 0.05)
        holder.kill()
        assert lock.wait_released(path, 10)
    assert not lock.is_held(tmp_path / "nothing")


def test_a_lock_is_exclusive_and_stores_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    descriptor = lock.take(path)
    assert descriptor is not None
    assert lock.take(path) is None
    assert lock.holder(path) == os.getpid()
    os.close(descriptor)
    assert lock.holder(path) is None


def test_checking_a_lock_does_not_prevent_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    glance = os.open(path, os.O_RDONLY)
    fcntl.flock(glance, fcntl.LOCK_SH)
    threading.Timer(POLL_S, os.close, [glance]).start()
    descriptor = lock.take(path)
    assert descriptor is not None
    os.close(descriptor)
