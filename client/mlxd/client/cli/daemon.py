"""Connects to the daemon, and starts one if none is running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mlxd.client.cli.terminal import spinner
from mlxd.client.sync import Client
from mlxd.client.timeouts import Timeouts
from mlxd.protocol.errors import DaemonUnreachable

HINT_INDENT = " " * len("mlxd: ")


def connect(timeout_s: float | None = None) -> Client:
    """Return a connected client. Starts the daemon unless MLXD_AUTOSTART=0.

    Raises:
        DaemonUnreachable: no daemon is running and none could be started.
    """
    try:
        return Client(timeout=Timeouts(idle_s=timeout_s))
    except DaemonUnreachable:
        if os.environ.get("MLXD_AUTOSTART") == "0":
            raise
    with spinner("starting mlxd"):
        _start()
    return Client(timeout=Timeouts(idle_s=timeout_s))


def _start() -> None:
    beside = Path(sys.executable).with_name("mlxd")
    command = [str(beside)] if beside.exists() else [sys.executable, "-I", "-m", "mlxd.daemon.cli"]
    done = subprocess.run(
        [*command, "start"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        message, _, hint = done.stderr.strip().removeprefix("mlxd: ").rpartition(f"\n{HINT_INDENT}")
        message = message or hint or f"exit status {done.returncode}"
        hint = hint if hint and hint != message else "Run it in the foreground: mlxd run"
        raise DaemonUnreachable(f"mlxd could not be started: {message}", hint=hint)
