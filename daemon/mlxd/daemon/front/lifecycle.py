"""The state of the daemon, from its start to the end of its last request."""

from __future__ import annotations

import asyncio
import time


class Lifecycle:
    """States whether the daemon serves requests, and when it must stop."""

    def __init__(self, drain_s: float) -> None:
        self._started_s = time.monotonic()
        self._drain_s = drain_s
        self._hurry = asyncio.Event()
        self.stop = asyncio.Event()
        """Set once the daemon is asked to stop."""
        self.upgrading = False
        """Whether the program on disk replaces this process after the stop."""
        self.checking = False
        """Whether the engine must still be checked after a sleep of the machine."""

    def uptime_s(self) -> float:
        return time.monotonic() - self._started_s

    def state(self) -> str:
        """Return "ready", "checking" or "draining"."""
        if self.stop.is_set():
            return "draining"
        return "checking" if self.checking else "ready"

    def begin_shutdown(self, drain_s: float | None) -> None:
        """Stop once the running requests have finished, at the latest after `drain_s` seconds.

        A second call with a shorter `drain_s`, or with None, ends the wait at once.
        """
        if self.stop.is_set():
            if drain_s is None or drain_s < self._drain_s:
                self._hurry.set()
        elif drain_s is not None:
            self._drain_s = drain_s
        self.stop.set()

    async def drained(self, idle: asyncio.Event) -> None:
        """Wait for `idle`, at most for the time that running requests have to finish."""
        finished = asyncio.ensure_future(idle.wait())
        hurried = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait(
            {finished, hurried}, timeout=self._drain_s, return_when=asyncio.FIRST_COMPLETED
        )
        finished.cancel()
        hurried.cancel()
