"""Starts the daemon in a session of its own. Concurrent starts give one daemon."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from select import select

from mlxd.daemon import control, home, lock
from mlxd.daemon.isolation import python_command
from mlxd.daemon.stderr import open_for_append
from mlxd.protocol.errors import EXITS, DaemonUnreachable, MlxdError
from mlxd.protocol.paths import Paths
from mlxd.safesocket.folder import prepare_folder

READY_FD = "MLXD_READY_FD"
"""Variable with the descriptor on which the child reports that it accepts connections."""

READY_WORD = b"ready\n"
START_TIMEOUT_S = 60.0
"""Long, because a machine that just woke up reads Python's modules from disk."""

_SAID_MAX_BYTES = 8192
_ERR_FILE_MAX_BYTES = 1_000_000


class StartFailed(MlxdError):
    """The daemon ended or timed out before it was ready. The error has its exit status."""

    code = "start_failed"
    default_hint = "See what it says in the foreground: mlxd run"

    def __init__(self, message: str, exit_status: int = 1, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_status if exit_status in EXITS else 1  # type: ignore[misc]  # a child's own, not the class's


@dataclass(frozen=True, slots=True)
class Started:
    """Outcome of a start. `fresh` is False if a daemon was running already."""

    fresh: bool


def start_lock(paths: Paths) -> Path:
    """Return the file that a starter locks while it starts the daemon."""
    return paths.socket.with_name(paths.socket.name + ".start")


def run_in_foreground(flags: Sequence[str] = ()) -> list[str]:
    """Return the command of the daemon: `mlxd run` with this Python."""
    return [*python_command("mlxd.daemon.cli"), "run", *flags]


def answers(paths: Paths, timeout_s: float = control.ANSWER_TIMEOUT_S) -> bool:
    """Return whether a daemon answers. Raises `control.DaemonSilent` if it only accepts."""
    try:
        control.request(paths.socket, "ping", timeout_s=timeout_s)
    except control.DaemonSilent:
        raise
    except DaemonUnreachable:
        return False
    return True


def start(paths: Paths, command: Sequence[str], environ: Mapping[str, str]) -> Started:
    """Start `command` in its own session and wait until it accepts connections.

    Raises:
        StartFailed: with the child's output and exit status.
        RunsElsewhere: the daemon of this state folder listens at another socket.
    """
    prepare_folder(paths)
    with lock.exclusive(start_lock(paths)):
        if answers(paths):
            return Started(fresh=False)
        if (other := home.elsewhere(paths)) is not None:
            raise other
        return _spawn(paths, command, environ)


def _spawn(paths: Paths, command: Sequence[str], environ: Mapping[str, str]) -> Started:
    said = _Said(paths.log_dir / "mlxd.err")
    ready, tell_ready = os.pipe()
    try:
        child = subprocess.Popen(
            [*command],
            stdin=subprocess.DEVNULL,
            stdout=said.descriptor,
            stderr=said.descriptor,
            cwd="/",  # so that no folder stays in use
            env={**environ, READY_FD: str(tell_ready)},
            pass_fds=(tell_ready,),
            start_new_session=True,
            umask=0o077,
        )
        os.close(tell_ready)
        tell_ready = -1
        return _await(child, ready, said, paths)
    finally:
        os.close(ready)
        if tell_ready >= 0:
            os.close(tell_ready)
        said.close()


def _await(child: subprocess.Popen[bytes], ready: int, said: _Said, paths: Paths) -> Started:
    if not select([ready], [], [], START_TIMEOUT_S)[0]:
        child.kill()
        child.wait()
        raise StartFailed(
            f"The daemon was not ready within {START_TIMEOUT_S:.0f} s.\n{said.text()}"
        )
    if os.read(ready, len(READY_WORD)) == READY_WORD:
        child.returncode = 0  # the daemon outlives this process, so nothing waits for it
        return Started(fresh=True)
    status = child.wait()
    # A daemon that was started by hand may have been faster.
    if answers(paths) or (lock.is_held(paths.lock_file) and wait_until_answering(paths)):
        return Started(fresh=False)
    words = said.text() or f"It ended with status {status} and without a message."
    raise StartFailed(f"The daemon did not start.\n{words}", status)


class _Said:
    """The child's output outside its log: its own part of the file."""

    def __init__(self, path: Path) -> None:
        self.descriptor = open_for_append(path, _ERR_FILE_MAX_BYTES)
        self._start = os.fstat(self.descriptor).st_size

    def text(self) -> str:
        size = os.fstat(self.descriptor).st_size
        start = max(self._start, size - _SAID_MAX_BYTES)
        return os.pread(self.descriptor, size - start, start).decode(errors="replace").strip()

    def close(self) -> None:
        os.close(self.descriptor)


def tell_ready(environ: dict[str, str] | os._Environ[str]) -> None:
    """Tell the starter, if there is one, that connections are accepted. Does so once."""
    descriptor = environ.pop(READY_FD, "")
    if not descriptor.isdecimal():
        return
    try:
        os.write(int(descriptor), READY_WORD)
        os.close(int(descriptor))
    except OSError:
        return  # the starter was interrupted, which does not matter here


def keep_from_children(environ: Mapping[str, str]) -> None:
    """Do not pass the starter's descriptor to child processes, which would keep it open."""
    descriptor = environ.get(READY_FD, "")
    if descriptor.isdecimal():
        try:
            os.set_inheritable(int(descriptor), False)
        except OSError:
            return


def wait_until_answering(paths: Paths, timeout_s: float = control.ANSWER_TIMEOUT_S) -> bool:
    """Return whether a daemon answers within `timeout_s`, for starts by a service manager."""
    deadline = time.monotonic() + timeout_s
    while not answers(paths, max(deadline - time.monotonic(), 0.1)):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True
