"""Takes messages from the inbox: those that are there, or the next ones after a wait."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.link import Inbox
from mlxd.daemon.engine.models.manager import Residents
from mlxd.daemon.engine.request import Job
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.scheduling.announcer import Announcer
from mlxd.daemon.engine.scheduling.pacing import BURST_S, MAKING_S, Arrivals

IDLE_POLL_S = 2.0
"""How often an idle engine looks at memory pressure and keep-alive times."""
WAITS_AFTER_S = 1.0
"""When the front is told that there is nothing to do: between two requests it need not know."""
BLOCKED_POLL_S = 0.1
"""How often to try a load again that waits for room, while no request ends."""


class Receiver:
    """Hands every message to `handle`, on the compute thread."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        handle: Callable[[Any], None],
        announcer: Announcer,
        requests: ActiveRequests,
        residents: Residents,
        runner: Runner,
        arrivals: Arrivals,
    ) -> None:
        self._inbox = inbox
        self._handle = handle
        self._announcer = announcer
        self._requests = requests
        self._residents = residents
        self._runner = runner
        self._arrivals = arrivals

    @property
    def empty(self) -> bool:
        return self._inbox.empty()

    def take(self) -> None:
        """Handle the messages that are there."""
        while not self._inbox.empty():
            self._handle(self._inbox.get_nowait())

    def wait(self) -> None:
        """Wait for a message, and handle it and those behind it. Returns without one in time."""
        try:
            message = self._inbox.get(timeout=self._wait_s())
        except queue.Empty:
            self._announcer.wait()
            return
        self._handle(message)
        self.take()

    def _wait_s(self) -> float:
        longest_s = BLOCKED_POLL_S if self._residents.blocked else IDLE_POLL_S
        if not self._announcer.waiting:
            longest_s = min(longest_s, WAITS_AFTER_S)
        return min(longest_s, max(0.01, self._residents.next_expiry_s()))

    def wait_for_prompts(self) -> None:
        """Wait a moment for prompts that are being tokenized right now.

        Prompts that arrive together share a pass. A prompt that arrives while others decode would
        otherwise wait for one more decoding step. A request that is alone waits for nothing, and
        no request waits longer than `MAKING_S`.
        """
        until_s = time.monotonic() + MAKING_S
        while self._runner.scheduler.entries:
            wait_s = min(self._prompts_until_s(), until_s) - time.monotonic()
            if wait_s <= 0:
                return
            try:
                self._handle(self._inbox.get(timeout=wait_s))
            except queue.Empty:
                return

    def _prompts_until_s(self) -> float:
        unprepared = [job for job in self._requests.jobs.values() if job.prepared is None]
        if not self._runner.rows:
            return self._arrivals.company_until_s([job.timing.received for job in unprepared])
        if not unprepared:
            return 0.0
        running = min(job.rank for job, _ in self._runner.rows.values())
        return max(job.timing.received + _patience_s(job, running) for job in unprepared)


def _patience_s(job: Job, running: int) -> float:
    """Return how long decoding requests of the class `running` wait for the prompt of `job`."""
    return MAKING_S if job.rank < running else BURST_S if job.rank == running else 0.0
