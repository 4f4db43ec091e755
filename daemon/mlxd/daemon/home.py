"""Allows one daemon per state folder, even if environments name different sockets.

A desktop session sets `XDG_RUNTIME_DIR`, but `cron` and `su` do not, so they name different
sockets. Two daemons would share one database and load each model twice.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from pathlib import Path

from mlxd.daemon import lock
from mlxd.protocol.errors import DaemonUnreachable
from mlxd.protocol.paths import Paths

NOTE_GLANCES = 10


class RunsElsewhere(DaemonUnreachable):
    """The daemon of this state folder listens at another socket."""


def take(paths: Paths) -> int | None:
    """Lock the state folder until this process ends. Return the descriptor of the lock.

    Returns None if the folder is not writable, since there is nothing to share then. Also returns
    None if the lock's holder used this same socket: that daemon has lost it and is ending.

    Raises:
        RunsElsewhere: another daemon has it.
    """
    path = _file(paths)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = lock.take(path)
    except OSError:
        return None
    if descriptor is None:
        if (other := elsewhere(paths)) is not None:
            raise other
        return None
    # On a full disk the path cannot be written. The lock needs no space.
    with contextlib.suppress(OSError):
        os.write(descriptor, os.fsencode(paths.socket) + b"\n")
    return descriptor


def elsewhere(paths: Paths) -> RunsElsewhere | None:
    """Return an error if a daemon of this state folder listens at another socket."""
    path = _file(paths)
    if not lock.is_held(path):
        return None
    socket = _noted_socket(path)
    if socket is None or socket == paths.socket:
        return None
    pid = lock.holder(path)
    who = f" as process {pid}" if pid else ""
    return RunsElsewhere(
        f"A daemon that uses {paths.state_dir} is running{who}. "
        f"It listens at {socket}, not at {paths.socket}.",
        hint=f"Use it: export MLXD_SOCKET={shlex.quote(str(socket))}",
        data={"pid": pid, "socket": str(socket)},
    )


def _noted_socket(path: Path) -> Path | None:
    for _ in range(NOTE_GLANCES):
        with contextlib.suppress(OSError, IndexError):
            return Path(os.fsdecode(path.read_bytes().splitlines()[1]))
        time.sleep(lock.POLL_S)  # the daemon is starting and has not written it yet
    return None


def _file(paths: Paths) -> Path:
    return paths.state_dir / "daemon.lock"
