"""Takes messages from the inbox, with or without waiting for the next one."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from typing import Any

from mlxd.daemon.engine.decoding.runner import Runner
from mlxd.daemon.engine.link import Inbox
from mlxd.daemon.engine.models.manager import ModelManager
from mlxd.daemon.engine.request import ActiveRequest
from mlxd.daemon.engine.requests import ActiveRequests
from mlxd.daemon.engine.scheduling.announcer import Announcer
from mlxd.daemon.engine.scheduling.pacing import BURST_WINDOW_S, TOKENIZING_WAIT_S, Arrivals

IDLE_POLL_S = 2.0
"""Interval at which an idle engine checks memory pressure and keep-alive times."""
WAITS_AFTER_S = 1.0
"""Idle time before the engine reports it to the front, which need not know of short pauses."""
BLOCKED_POLL_S = 0.1
"""Interval between retries of a load that waits for memory, if no request ends before."""


class Receiver:
    """Passes every message to `handle`, on the compute thread."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        handle: Callable[[Any], None],
        announcer: Announcer,
        requests: ActiveRequests,
        models: ModelManager,
        runner: Runner,
        arrivals: Arrivals,
    ) -> None:
        self._inbox = inbox
        self._handle = handle
        self._announcer = announcer
        self._requests = requests
        self._models = models
        self._runner = runner
        self._arrivals = arrivals

    @property
    def empty(self) -> bool:
        return self._inbox.empty()

    def take(self) -> None:
        """Handle the received messages without waiting."""
        while not self._inbox.empty():
            self._handle(self._inbox.get_nowait())

    def wait(self) -> None:
        """Wait for a message, then handle it and those after it. Returns also if none arrives."""
        try:
            message = self._inbox.get(timeout=self._wait_s())
        except queue.Empty:
            self._announcer.wait()
            return
        self._handle(message)
        self.take()

    def _wait_s(self) -> float:
        longest_s = BLOCKED_POLL_S if self._models.blocked else IDLE_POLL_S
        if not self._announcer.waiting:
            longest_s = min(longest_s, WAITS_AFTER_S)
        return min(longest_s, max(0.01, self._models.next_expiry_s()))

    def wait_for_prompts(self) -> None:
        """Wait briefly for prompts that are being tokenized.

        Prompts that are ready together share a forward pass. A prompt that is ready while others
        decode would otherwise wait for one more decoding step. A request without others never
        waits, and no request waits longer than `TOKENIZING_WAIT_S`.
        """
        until_s = time.monotonic() + TOKENIZING_WAIT_S
        while self._runner.scheduler.entries:
            wait_s = min(self._prompts_until_s(), until_s) - time.monotonic()
            if wait_s <= 0:
                return
            try:
                self._handle(self._inbox.get(timeout=wait_s))
            except queue.Empty:
                return

    def _prompts_until_s(self) -> float:
        tokenizing = [one for one in self._requests.by_id.values() if one.prepared is None]
        if not self._runner.sequences:
            return self._arrivals.wait_until_s([one.timing.received for one in tokenizing])
        if not tokenizing:
            return 0.0
        rank = min(request.rank for request, _ in self._runner.sequences.values())
        return max(one.timing.received + _wait_for_s(one, rank) for one in tokenizing)


def _wait_for_s(request: ActiveRequest, rank: int) -> float:
    """Return how long decoding requests of class `rank` wait for the prompt of `request`."""
    if request.rank < rank:
        return TOKENIZING_WAIT_S
    return BURST_WINDOW_S if request.rank == rank else 0.0
