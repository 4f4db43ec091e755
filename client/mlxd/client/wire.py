"""A socket and its `Connection`, shared by the threads of a blocking client.

There is no background thread. The first thread that waits reads for all threads. The others wait
until it has received something for them, or leaves with its own result. Writing never waits for
another thread.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from mlxd.client.core import CLOSED, READ_BYTES, WENT_AWAY, Call, Connection

NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)


class Wire:
    """One connected socket. Thread-safe, but not usable after a fork."""

    def __init__(self, sock: socket.socket) -> None:
        self.process = os.getpid()
        self._sock = sock
        self._core = Connection()
        # Not an RLock: a finaliser must not enter a critical section that its own thread is in.
        self._news = threading.Condition(threading.Lock())
        self._reading = False
        self._polling = 0
        self._abandoned: deque[Call] = deque()

    @property
    def lost(self) -> str | None:
        """Why the connection ended. None while it is open."""
        return self._core.lost

    def submit(self, call: Call) -> None:
        """Send a request. It stays unsent if the connection turns out to be closed."""
        with self._held():
            if self._core.lost is not None:
                return
            self._core.submit(call)
            self._flush()
        while not (call.whole or call.ended or self.lost):
            self._exchange(select.POLLIN | select.POLLOUT, self._expire(call))
            with self._news:
                self._news.notify_all()

    def wait(self, call: Call, until: Callable[[Call], bool]) -> None:
        """Wait until `until(call)` is true or the call has ended. Enforces its time limits."""
        while True:
            with self._held():
                if call.ended or until(call) or self._core.lost is not None:
                    return
                remaining_s = self._expire_now(call)
                if call.ended:
                    return
                if self._reading:
                    self._news.wait(remaining_s)
                    continue
                self._reading = True
            try:
                wanted = select.POLLOUT if self._core.outgoing is not None else 0
                self._exchange(select.POLLIN | wanted, remaining_s)
            finally:
                with self._news:
                    self._reading = False
                    self._news.notify_all()

    def cancel(self, call: Call) -> None:
        """Cancel a request."""
        with self._held():
            self._core.cancel(call)
            self._flush()
            self._news.notify_all()

    def abandon(self, call: Call) -> None:
        """Cancel a request as soon as possible. Never waits, because finalisers call it."""
        self._abandoned.append(call)
        self._stop_abandoned()

    def close(self, reason: str = CLOSED) -> None:
        """Close the connection. Waiting callers get `ConnectionClosed`."""
        with self._news:
            self._core.lose(reason)
            self._news.notify_all()
            # Wakes the threads that poll the socket. The last of them closes it.
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            if not self._polling:
                self._sock.close()

    def disown(self) -> None:
        """Close this process's copy of a socket that belongs to the parent process."""
        self._sock.close()

    # ---- with the lock held

    @contextmanager
    def _held(self) -> Iterator[None]:
        with self._news:
            yield
        self._stop_abandoned()

    def _stop_abandoned(self) -> None:
        while self._abandoned and self._news.acquire(blocking=False):
            try:
                with suppress(IndexError):
                    while True:
                        self._core.cancel(self._abandoned.popleft())
                self._flush()
            finally:
                self._news.release()

    def _expire(self, call: Call) -> float | None:
        with self._news:
            return self._expire_now(call)

    def _expire_now(self, call: Call) -> float | None:
        now_s = time.monotonic()
        if self._core.expire(call, now_s):
            self._flush()
        return call.remaining_s(now_s)

    def _exchange(self, wanted: int, remaining_s: float | None) -> None:
        """Wait for the socket, then read and write as much as possible."""
        with self._news:
            if self._core.lost is not None:
                return
            self._polling += 1
        try:
            poll = select.poll()
            poll.register(self._sock, wanted)
            poll.poll(None if remaining_s is None else remaining_s * 1000)
        finally:
            with self._news:
                self._polling -= 1
                if self._core.lost is None:
                    self._receive()
                    self._flush()
                elif not self._polling:
                    self._sock.close()

    def _receive(self) -> bool:
        """Read once. Return False if nothing was received."""
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if data:
            self._core.receive(data, time.monotonic())
        else:
            self._lose()
        if self._core.lost is not None:
            self._hang_up()
        return bool(data)

    def _lose(self) -> None:
        self._core.lose(WENT_AWAY)
        self._hang_up()

    def _flush(self) -> None:
        while (rest := self._core.outgoing) is not None:
            try:
                count = self._sock.send(rest, NO_SIGNAL)
            except BlockingIOError:
                return
            except OSError:
                # The daemon may have sent an error before it closed the connection.
                while self._core.lost is None and self._receive():
                    pass
                self._lose()
                return
            self._core.written(count)

    def _hang_up(self) -> None:
        if not self._polling:
            self._sock.close()
