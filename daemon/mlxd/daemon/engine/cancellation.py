"""Tells the threads that work on a request that it has ended."""

from __future__ import annotations

import threading


class Cancellation:
    """The compute thread sets it once, and any thread may read it.

    All other data goes between the engine's threads through queues. The end of a request must not
    wait in a queue behind work that it makes unnecessary.
    """

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Report to other threads that the results of the request are not needed any more."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()
