"""Reads many answers in one thread and records the arrival time of each piece.

The reader does as little as possible, because on a machine with few cores its work slows down what
is measured. It is the same for every contender.
"""

from __future__ import annotations

import selectors
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

READ_BYTES = 1 << 16
PATIENCE_S = 600.0


@dataclass(slots=True)
class Trace:
    """The times of one answer: its request, its pieces and its end, in monotonic seconds."""

    sent_s: float = 0.0
    arrivals_s: list[float] = field(default_factory=list)
    end_s: float = 0.0
    tokens: int = 0
    error: str = ""

    @property
    def first_s(self) -> float:
        """Seconds from the request to the first piece."""
        return self.arrivals_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        return [b - a for a, b in zip(self.arrivals_s, self.arrivals_s[1:], strict=False)]


class Call(ABC):
    """One request on a connection of its own. Subclasses implement a protocol."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.done = False
        self.sock: socket.socket | None = None

    @abstractmethod
    def connect(self) -> socket.socket:
        """Return a connected blocking socket."""

    @abstractmethod
    def request(self) -> bytes:
        """Return the bytes to send."""

    @abstractmethod
    def feed(self, data: bytes, now_s: float) -> None:
        """Parse received bytes. Sets `done` at the end of the answer."""


class Traffic:
    """The calls in flight."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._open: set[Call] = set()

    def start(self, *calls: Call) -> None:
        for call in calls:
            data = call.request()
            call.trace.sent_s = time.perf_counter()
            call.sock = call.connect()
            call.sock.sendall(data)
            call.sock.setblocking(False)
            self._selector.register(call.sock, selectors.EVENT_READ, call)
            self._open.add(call)

    def run_until(
        self,
        happened: Callable[[], bool],
        patience_s: float = PATIENCE_S,
        tick_s: float = 1.0,
    ) -> None:
        """Read until the condition holds. It is checked after every piece and every `tick_s`.

        Raises TimeoutError, or EOFError if nothing is left to read.
        """
        limit_s = time.monotonic() + patience_s
        while not happened():
            if not self._open:
                raise EOFError("every call has ended, and what was waited for has not happened")
            if time.monotonic() > limit_s:
                raise TimeoutError(f"the condition was not met within {patience_s:g} s")
            self._read(tick_s)

    def finish(self) -> None:
        """Read until every call has ended."""
        self.run_until(lambda: not self._open)

    def hang_up(self, calls: Iterable[Call]) -> None:
        """Close the connections of calls, answered or not."""
        for call in calls:
            self._close(call)

    def _read(self, tick_s: float) -> None:
        for key, _ in self._selector.select(tick_s):
            call: Call = key.data
            assert call.sock is not None
            try:
                data = call.sock.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            now_s = time.perf_counter()
            if data:
                call.feed(data, now_s)
            else:
                call.done = True
                call.trace.error = call.trace.error or "the connection was closed"
            if call.done:
                call.trace.end_s = now_s
                self._close(call)

    def _close(self, call: Call) -> None:
        if call in self._open:
            assert call.sock is not None
            self._open.discard(call)
            self._selector.unregister(call.sock)
            call.sock.close()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up(list(self._open))
        self._selector.close()


def drive(calls: Sequence[Call]) -> list[Trace]:
    """Start all calls concurrently and return their traces. Raises RuntimeError if one fails."""
    with Traffic() as traffic:
        traffic.start(*calls)
        traffic.finish()
    for call in calls:
        if call.trace.error:
            raise RuntimeError(call.trace.error)
    return [call.trace for call in calls]
