"""One daemon for one state folder, whatever socket each environment names.

Where `XDG_RUNTIME_DIR` is set in a desktop session and not in `cron` or `su`, the two name
different sockets. Two daemons would then share one database and load each model twice.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from pathlib import Path

from mlxd.daemon import lock
from mlxd.protocol.errors import DaemonUnreachable
from mlxd.protocol.paths import Paths


class RunsElsewhere(DaemonUnreachable):
    """The daemon of this state folder listens at another socket."""


def take(paths: Paths) -> int | None:
    """Take the state folder for life; returns the descriptor that holds it.

    None: nothing can be written there, so that there is nothing to share either.

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
        raise elsewhere(paths) or _error(paths, None, None)
    # A full disk takes no path; the lock itself needs no room.
    with contextlib.suppress(OSError):
        os.write(descriptor, os.fsencode(paths.socket) + b"\n")
    return descriptor


def elsewhere(paths: Paths) -> RunsElsewhere | None:
    """Return what to tell where a daemon of this state folder listens at another socket."""
    path = _file(paths)
    if not lock.is_held(path):
        return None
    with contextlib.suppress(OSError, IndexError):
        socket = Path(os.fsdecode(path.read_bytes().splitlines()[1]))
        if socket != paths.socket:
            return _error(paths, lock.holder(path), socket)
    return None


def _file(paths: Paths) -> Path:
    return paths.state_dir / "daemon.lock"


def _error(paths: Paths, pid: int | None, socket: Path | None) -> RunsElsewhere:
    who = f" as process {pid}" if pid else ""
    where = f" It listens at {socket}, not at {paths.socket}." if socket else ""
    hint = (
        f"Use it: export MLXD_SOCKET={shlex.quote(str(socket))}" if socket else "See: mlxd status"
    )
    return RunsElsewhere(
        f"A daemon that uses {paths.state_dir} is running{who}.{where}",
        hint=hint,
        data={"pid": pid, "socket": str(socket) if socket else None},
    )
