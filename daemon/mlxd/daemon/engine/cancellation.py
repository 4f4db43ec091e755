"""Tells the threads that work on a request that it has ended."""

from __future__ import annotations

import threading


class Cancellation:
    """Set once, by the compute thread; read by any thread.

    Threads of the engine exchange everything else through queues. A request's end cannot wait in a
    queue behind the work that it makes superfluous.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Let other threads know that nobody waits for the request's results any more."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()
