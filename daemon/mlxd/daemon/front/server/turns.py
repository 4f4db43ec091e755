"""Lets one connection at a time receive a piece of its large message, so that small ones pass."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

LARGE_MESSAGE_BYTES = 256 * 1024
"""Incomplete messages above this size take turns."""
MESSAGES_PER_TURN = 32
"""Messages of one connection that are handled before others get a chance."""


class Turns:
    """A queue of connections, of which the event loop resumes one per iteration."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False
        self._rest_until_s = 0.0

    def wait(self, resume: Callable[[], None]) -> None:
        """Call `resume` in a later iteration of the event loop, after those that wait already."""
        self._waiting.append(resume)
        self._schedule()

    def rest(self, seconds: float) -> None:
        """Resume nobody for this time: a message took as long, and others could not be served."""
        self._rest_until_s = asyncio.get_running_loop().time() + seconds

    def _schedule(self) -> None:
        if self._scheduled or not self._waiting:
            return
        self._scheduled = True
        loop = asyncio.get_running_loop()
        if self._rest_until_s > loop.time():
            loop.call_at(self._rest_until_s, self._next)
        else:
            loop.call_soon(self._next)

    def _next(self) -> None:
        self._scheduled = False
        if self._rest_until_s <= asyncio.get_running_loop().time():
            self._waiting.popleft()()
        self._schedule()
