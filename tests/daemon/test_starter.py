"""Starting: once, however many ask; and what the terminal is told when it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxd.daemon import control, lock, starter
from mlxd.protocol.errors import DaemonUnreachable
from mlxd.protocol.paths import Paths, resolve_paths

FAKE = [sys.executable, str(Path(__file__).parents[1] / "support" / "fake_daemon.py")]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    places = ("CONFIG", "STATE", "CACHE", "LOG")
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(sys.path),
        "HOME": str(tmp_path),
        "MLXD_SOCKET": str(tmp_path / "run" / "s"),
        **{f"MLXD_{place}_DIR": str(tmp_path / place.lower()) for place in places},
    }


@pytest.fixture
def paths(environ: dict[str, str]) -> Iterator[Paths]:
    paths = resolve_paths(environ)
    yield paths
    pid = lock.holder(paths.lock_file)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        assert lock.wait_released(paths.lock_file, 10)


def births(paths: Paths) -> list[str]:
    return (paths.log_dir / "births").read_text().splitlines()


def test_a_start_ends_with_a_daemon_that_answers(paths: Paths, environ: dict[str, str]) -> None:
    assert starter.start(paths, FAKE, environ).fresh
    assert control.request(paths.socket, "ping") == {"pong": True}
    assert not starter.start(paths, FAKE, environ).fresh
    assert len(births(paths)) == 1


def test_the_daemon_has_a_session_and_a_folder_of_its_own(
    paths: Paths, environ: dict[str, str]
) -> None:
    starter.start(paths, FAKE, environ)
    pid = int(births(paths)[0])
    assert os.getsid(pid) == pid
    if sys.platform.startswith("linux"):
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert paths.socket.parent.stat().st_mode & 0o777 == 0o700


RACER = """
import os, sys
from mlxd.daemon import starter
from mlxd.protocol.paths import resolve_paths
sys.stdin.read()
starter.start(resolve_paths(), sys.argv[1:], os.environ)
"""


def test_fifty_at_once_give_one_daemon_and_fifty_successes(
    paths: Paths, environ: dict[str, str]
) -> None:
    gate, opener = os.pipe()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, *FAKE],
            stdin=gate,
            stderr=subprocess.PIPE,
            env=environ,
            pass_fds=(),
        )
        for _ in range(50)
    ]
    os.close(gate)
    os.close(opener)  # every racer waits for this end
    outcomes = [(racer.communicate(timeout=120)[1], racer.returncode) for racer in racers]
    assert outcomes == [(b"", 0)] * 50
    assert len(births(paths)) == 1


def test_a_child_that_fails_is_quoted_with_its_exit_status(
    paths: Paths, environ: dict[str, str]
) -> None:
    paths.log_dir.mkdir()
    (paths.log_dir / "mlxd.err").write_text("words of another day\n")
    with pytest.raises(starter.StartFailed, match="The model is broken") as caught:
        starter.start(paths, FAKE, {**environ, "FAKE_DAEMON": "fail"})
    assert caught.value.exit_code == 5
    assert "another day" not in caught.value.message
    assert starter.StartFailed.exit_code == 1


def test_a_child_that_is_killed_is_no_success(paths: Paths, environ: dict[str, str]) -> None:
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    with pytest.raises(starter.StartFailed, match="status -9") as caught:
        starter.start(paths, command, environ)
    assert caught.value.exit_code == 1


def test_a_dead_daemon_s_socket_and_lock_are_no_obstacle(
    paths: Paths, environ: dict[str, str]
) -> None:
    starter.start(paths, FAKE, environ)
    os.kill(int(births(paths)[0]), signal.SIGKILL)
    assert lock.wait_released(paths.lock_file, 10)
    assert paths.socket.exists()
    assert not starter.answers(paths)
    assert starter.start(paths, FAKE, environ).fresh
    assert len(births(paths)) == 2


def test_a_daemon_that_accepts_and_says_nothing_is_told_apart(
    paths: Paths, environ: dict[str, str]
) -> None:
    starter.start(paths, FAKE, {**environ, "FAKE_DAEMON": "mute"})
    with pytest.raises(control.DaemonSilent, match="did not answer") as caught:
        control.request(paths.socket, "ping", timeout_s=0.2)
    assert "mlxd logs" in caught.value.hint


def test_nobody_at_the_socket_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match="No daemon is running") as caught:
        control.request(tmp_path / "s", "ping")
    assert not isinstance(caught.value, control.DaemonSilent)
    assert caught.value.exit_code == 3


def test_the_default_patience_outlasts_launchd_s_throttle() -> None:
    assert control.ANSWER_TIMEOUT_S > 10


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, environ: dict[str, str]) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(starter.StartFailed, match="cannot be made"):
        starter.start(resolve_paths(environ), FAKE, environ)


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"""
import sys
from pathlib import Path
from mlxd.daemon import lock
with lock.exclusive(Path({str(path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert lock.is_held(path)
        assert lock.holder(path) is None
        assert not lock.wait_released(path, 0.05)
        holder.kill()
        assert lock.wait_released(path, 10)
    assert not lock.is_held(tmp_path / "nothing")
