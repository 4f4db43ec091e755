"""Keeps a Mac from idle sleep while there is work, with macOS's `caffeinate`.

Idle sleep would stop an answer, a download or a conversion as soon as nobody touches the machine.
Closing the lid and the menu's Sleep still work. Linux needs nothing: its desktops leave processes
alone, and servers do not sleep.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Sequence

from mlxd.daemon.front.log import Log

CAFFEINATE = "/usr/bin/caffeinate"


class Awake:
    """Holds or releases the power assertion. Without a command it does nothing."""

    def __init__(self, command: Sequence[str] | None, log: Log) -> None:
        self.command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process that holds the assertion, or None."""
        return None if self._process is None else self._process.pid

    @property
    def holding(self) -> bool | None:
        """Whether the machine is kept awake now, or None if mlxd never does that here."""
        if self.command is None:
            return None
        return self._process is not None and self._process.poll() is None

    def keep(self, *, working: bool) -> None:
        """Hold the assertion while there is work; call it every few seconds."""
        if working and self.holding is False:
            self._hold()
        elif not working:
            self.release()

    def _hold(self) -> None:
        assert self.command is not None
        self.release()  # one that has ended by itself is reaped
        try:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as exc:
            self.command = None
            self._log("the machine may sleep", level="warning", error=exc.strerror or str(exc))

    def release(self) -> None:
        """Release the assertion. macOS drops it when caffeinate ends."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


def awake_for(platform: str, *, enabled: bool, log: Log) -> Awake:
    """Return what keeps this machine awake."""
    if platform != "darwin" or not enabled:
        return Awake(None, log)
    # -i: no idle sleep. -w: end together with the daemon, even if it is killed.
    return Awake([CAFFEINATE, "-i", "-w", str(os.getpid())], log)
