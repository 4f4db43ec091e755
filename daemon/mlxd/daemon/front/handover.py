"""What one daemon leaves to the next: its listening sockets, and which models were in memory."""

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
"""Older notes are of a daemon that nobody restarted."""


def replace_process(listener: Listener) -> None:
    """Become the program as it is on the disk now; callers who connect meanwhile wait.

    The process, its lock and its listening sockets stay. Does not return.
    """
    sockets = [os.dup(sock.fileno()) for sock in listener.sockets]
    lock = os.dup(listener.lock_descriptor)
    held = [] if listener.home_descriptor is None else [os.dup(listener.home_descriptor)]
    for descriptor in (lock, *held, *sockets):
        os.set_inheritable(descriptor, True)
    left = {"pid": os.getpid(), "lock": lock, "sockets": sockets, "inode": listener.inode,
            "adopted": listener.adopted, "home": held}  # fmt: skip
    os.environ[VARIABLE] = json.dumps(left)
    # As `bin/mlxd` does: a Ctrl-C waits until the imports of the new program are done.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.execv(sys.executable, [*python_command("mlxd.daemon.cli"), *sys.argv[1:]])


def take(environ: MutableMapping[str, str], path: Path) -> Listener | None:
    """Return what a predecessor in this process has left; None: there was none."""
    raw = environ.pop(VARIABLE, None)
    left: dict[str, Any] = json.loads(raw) if raw else {}
    if left.get("pid") != os.getpid():
        return None
    held = left.get("home", [])  # an earlier version had none
    for descriptor in (left["lock"], *held, *left["sockets"]):
        os.set_inheritable(descriptor, False)
    sockets = tuple(socket.socket(fileno=descriptor) for descriptor in left["sockets"])
    for sock in sockets:
        sock.setblocking(False)
    home = held[0] if held else None
    return Listener(sockets, path, left["lock"], left["inode"], left["adopted"], home)


def note_models(path: Path, models: list[dict[str, Any]]) -> None:
    """Write down which models are to be loaded again.

    Raises:
        OSError: the disk does not take it; it costs the models' warmth only.
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
    """Have the next daemon load `models`; a failure costs it the warm start only, and is logged."""
    try:
        note_models(path, models)
    except OSError as exc:
        log("models not noted", level="warning", error=type(exc).__name__)


def noted_models(path: Path) -> list[dict[str, Any]]:
    """Return the note, once: a model that brings the daemon down is not tried for ever."""
    try:
        left = json.loads(path.read_text())
        path.unlink()
    except (OSError, ValueError):
        return []
    fresh = abs(time.time() - left["written"]) < MODELS_MAX_AGE_S
    models: list[dict[str, Any]] = left["models"] if fresh else []
    return models
