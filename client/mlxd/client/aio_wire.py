"""A socket and its `Connection` in an event loop. Callbacks read and write without blocking."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable

from mlxd.client.core import CLOSED, READ_BYTES, WENT_AWAY, Call, Connection


class AsyncWire:
    """One connected socket in one event loop."""

    def __init__(self, sock: socket.socket) -> None:
        self.loop = asyncio.get_running_loop()
        self.process = os.getpid()
        self._sock = sock
        self._core = Connection()
        self._news: dict[int, asyncio.Event] = {}
        self._writing = False
        self.loop.add_reader(sock, self._readable)

    @property
    def lost(self) -> str | None:
        """Why the connection ended. None while it is open."""
        return self._core.lost

    def submit(self, call: Call) -> None:
        """Send a request. It stays unsent if the connection turns out to be closed."""
        if self._core.lost is None:
            self._core.submit(call)
            self._news[id(call)] = asyncio.Event()
            self._flush()

    async def wait(self, call: Call, until: Callable[[Call], bool]) -> None:
        """Wait until `until(call)` is true or the call has ended. Enforces its time limits."""
        while not (call.ended or until(call) or self._core.lost is not None):
            now_s = time.monotonic()
            if self._core.expire(call, now_s):
                self._flush()
                self._tell([call])
                return
            news = self._news[id(call)]
            news.clear()
            try:
                async with asyncio.timeout(call.remaining_s(now_s)):
                    await news.wait()
            except TimeoutError:
                continue

    def cancel(self, call: Call) -> None:
        """Cancel a request."""
        self._core.cancel(call)
        self._flush()
        self._tell([call])

    def abandon(self, call: Call) -> None:
        """Cancel a request soon. Thread-safe, because finalisers call it."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.cancel, call)

    def close(self, reason: str = CLOSED) -> None:
        """Close the connection. Waiting callers get `ConnectionClosed`."""
        self._lose(reason)

    def disown(self) -> None:
        """Close this process's copy of a socket that belongs to the parent process."""
        self._sock.close()

    # ---- the socket

    def _readable(self) -> None:
        if self._core.lost is None:
            self._receive()

    def _receive(self) -> bool:
        """Read once. Return False if nothing was received."""
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._lose(WENT_AWAY)
            return False
        self._tell(self._core.receive(data, time.monotonic()))
        if self._core.lost is not None:
            self._hang_up()
        return True

    def _flush(self) -> None:
        while (rest := self._core.outgoing) is not None:
            try:
                count = self._sock.send(rest)
            except BlockingIOError:
                self._watch_writable(True)
                return
            except OSError:
                # The daemon may have sent an error before it closed the connection.
                while self._core.lost is None and self._receive():
                    pass
                self._lose(WENT_AWAY)
                return
            self._core.written(count)
        self._watch_writable(False)

    def _watch_writable(self, wanted: bool) -> None:
        if wanted and not self._writing:
            self.loop.add_writer(self._sock, self._flush)
        elif self._writing and not wanted:
            self.loop.remove_writer(self._sock)
        self._writing = wanted

    def _lose(self, reason: str) -> None:
        self._tell(self._core.lose(reason))
        self._hang_up()

    def _hang_up(self) -> None:
        if self._sock.fileno() >= 0:
            if not self.loop.is_closed():
                self.loop.remove_reader(self._sock)
                self._watch_writable(False)
            self._sock.close()

    def _tell(self, calls: list[Call]) -> None:
        for call in calls:
            news = self._news.get(id(call))
            if news is None:
                continue
            news.set()
            if call.ended or self._core.lost is not None:
                del self._news[id(call)]
