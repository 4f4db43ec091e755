"""State that a daemon passes to its successor: listening sockets and loaded models."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from mlxd.daemon.front.log import Log
from mlxd.daemon.front.server.listener import Listener
from mlxd.daemon.isolation import python_command

VARIABLE = "MLXD_HANDOVER"
MODELS_MAX_AGE_S = 600.0
"""Maximum age of a note, in seconds. Older ones were not written for a restart."""


def replace_process(listener: Listener) -> None:
    """Replace this process by the program that is now on disk. Does not return.

    The process id, the lock and the listening sockets stay. New connections wait meanwhile.
    """
    sockets = [os.dup(sock.fileno()) for sock in listener.sockets]
    lock = os.dup(listener.lock_descriptor)
    held = [] if listener.home_descriptor is None else [os.dup(listener.home_descriptor)]
    for descriptor in (lock, *held, *sockets):
        os.set_inheritable(descriptor, True)
    left = {"pid": os.getpid(), "lock": lock, "sockets": sockets, "inode": listener.inode,
            "adopted": listener.adopted, "home": held}  # fmt: skip
    os.environ[VARIABLE] = json.dumps(left)
    # As in `bin/mlxd`, a Ctrl-C waits until the imports of the new program are complete.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.execv(sys.executable, [*python_command("mlxd.daemon.cli"), *sys.argv[1:]])


def take(environ: MutableMapping[str, str], path: Path) -> Listener | None:
    """Return the state of the predecessor in this process, or None if there was none."""
    raw = environ.pop(VARIABLE, None)
    left: dict[str, Any] = json.loads(raw) if raw else {}
    if left.get("pid") != os.getpid():
        return None
    held = left.get("home", [])  # earlier versions did not write it
    for descriptor in (left["lock"], *held, *left["sockets"]):
        os.set_inheritable(descriptor, False)
    sockets = tuple(socket.socket(fileno=descriptor) for descriptor in left["sockets"])
    for sock in sockets:
        sock.setblocking(False)
    home = held[0] if held else None
    return Listener(sockets, path, left["lock"], left["inode"], left["adopted"], home)


def note_models(path: Path, models: list[dict[str, Any]]) -> None:
    """Write which models the next daemon must load.

    Raises:
        OSError: the file cannot be written. The next daemon then starts without models.
    """
    kept = [
        {
            "model": one["model"],
            "pin": one["pinned"] or None,
            "keep_alive_s": one["keep_alive_s"],
        }
        for one in models
    ]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump({"written": time.time(), "models": kept}, stream)


def keep_models(path: Path, models: list[dict[str, Any]], log: Log) -> None:
    """Write `models` for the next daemon to load.

    A failure is logged. The next daemon then starts without models.
    """
    try:
        note_models(path, models)
    except OSError as exc:
        log("models not saved", level="warning", error=type(exc).__name__)


def noted_models(path: Path) -> list[dict[str, Any]]:
    """Return the note and delete it, so that a model that crashes the daemon is loaded only
    once."""
    try:
        left = json.loads(path.read_text())
        path.unlink()
    except (OSError, ValueError):
        return []
    fresh = abs(time.time() - left["written"]) < MODELS_MAX_AGE_S
    models: list[dict[str, Any]] = left["models"] if fresh else []
    return models
