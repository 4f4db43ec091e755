"""One connection: decodes requests, and encodes answers and events in the caller's encoding."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, cast

from mlxd.daemon import limits as file_limits
from mlxd.daemon.front.server.events import PENDING_MAX_BYTES, Event, EventQueue
from mlxd.daemon.front.server.turns import LARGE_MESSAGE_BYTES, MESSAGES_PER_TURN, Turns
from mlxd.protocol.codec import Decoder, Encoding, Limits, encode
from mlxd.protocol.errors import MlxdError, ParseError
from mlxd.protocol.messages import BadRequest, Message, MessageId, Notification, Request, Response

WRITE_HIGH_BYTES = 256 * 1024
READ_PAUSE_BYTES = 4 * 2**20
"""Bytes of unread answers above which the daemon reads no more requests of a caller."""
CLOSE_GRACE_S = 5.0
"""Seconds that a caller gets to read the last messages before its connection is closed."""
REFUSED_GRACE_S = 2.0
"""Seconds that a refused caller gets to send a byte, which determines its encoding."""
RESERVED_DESCRIPTORS = 80
"""File descriptors for the engine and its start, a hub worker, the database, logs, and connections
that are being refused or are not yet accepted."""
REFUSED_AT_ONCE = 16
"""Refused connections that get an answer. The rest are closed, to keep the reserve."""
MACOS_BUFFER_BYTES = 512 * 1024  # the default there is 8 KiB

Handle = Callable[["Connection", Request | Notification], None]


class RequestInFlight:
    """A request from `begin` until it is answered. Meanwhile `conn.in_flight` contains it."""

    __slots__ = ("_cancel", "conn", "id", "tag")

    def __init__(self, conn: Connection, request_id: MessageId, tag: MessageId = None) -> None:
        self.conn = conn
        self.id = request_id
        self.tag = tag
        self._cancel: Callable[[], bool] = lambda: False

    @property
    def event_id(self) -> MessageId:
        """The id in the events of this request."""
        return self.id if self.tag is None else self.tag

    def begin(self, cancel: Callable[[], bool]) -> None:
        """Put the request in flight. `cancel` stops the present work on it. May be called again."""
        self._cancel = cancel
        self.conn.in_flight[self.id] = self

    def cancel(self) -> bool:
        """Stop the request, whose answer then reports it.

        Return False if there is nothing to stop.
        """
        return self._cancel()

    def respond(self, result: Any = None, error: MlxdError | None = None) -> None:
        """Answer the request. It is no longer in flight."""
        if self.conn.in_flight.get(self.id) is self:
            del self.conn.in_flight[self.id]
        self.conn.respond(self.id, result, error)


class Connection(asyncio.BufferedProtocol):
    """One caller. Passes requests to `handle`, and calls `lost` when the caller disconnects.

    All connections receive into the same `buffer`, and take `turns` with large messages.
    """

    def __init__(
        self,
        serial: int,
        limits: Limits,
        handle: Handle,
        opened: Callable[[Connection], bool],
        lost: Callable[[Connection], None],
        watch: Callable[[], None],
        buffer: memoryview,
        turns: Turns,
    ) -> None:
        self.serial = serial
        self.in_flight: dict[MessageId, RequestInFlight] = {}
        self.half_closed = False
        self.partial_since: float | None = None
        self._decoder = Decoder(limits)
        self._handle = handle
        self._opened = opened
        self._lost = lost
        self._watch = watch
        self._buffer = buffer
        self._turns = turns
        self._waits_for_turn = False
        self._refusal: MlxdError | None = None
        self._cut: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._paused = False
        self._backlogged = False
        """The caller has too many unread answers to send further requests."""
        self._outgoing: list[bytes] = []
        self._events = EventQueue()
        self._closing = False
        self._checked = False

    # ---- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        # First, since asyncio would deliver data even if something below raised.
        if not self._opened(self):
            asyncio.get_running_loop().call_later(REFUSED_GRACE_S, self._refuse_silent)
        self._checked = True
        if sys.platform == "darwin":
            enlarge_buffers(self.socket)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if not self._checked:
            self.abort()
            return
        self._decoder.feed(self._buffer[:nbytes])
        self._take_messages()

    def _take_messages(self) -> None:
        """Handle the messages that have arrived, but only so many at once."""
        taken, large = 0, self.half_sent_bytes >= LARGE_MESSAGE_BYTES
        began_s = time.monotonic()
        try:
            for message in self._decoder:
                if self._closing:
                    return
                self._take(message)
                taken += 1
                if taken == MESSAGES_PER_TURN:
                    self._wait_for_turn(self._take_messages)
                    return
                if large:
                    self._turns.rest(time.monotonic() - began_s)
        except ParseError as error:
            if not self._closing:
                self.respond(None, error=error)
                self.close()
            return
        self._note_partial(progress=taken > 0)
        if self.half_sent_bytes >= LARGE_MESSAGE_BYTES:
            self._wait_for_turn(lambda: None)

    def _wait_for_turn(self, then: Callable[[], None]) -> None:
        """Receive nothing until it is this connection's turn; then call `then`."""

        def resume() -> None:
            self._waits_for_turn = False
            if self.open:
                self._resume_reading()
                then()

        self._waits_for_turn = True
        if self._transport is not None:
            self._transport.pause_reading()
        self._turns.wait(resume)

    def _resume_reading(self) -> None:
        if self._transport is not None and not (self._waits_for_turn or self._backlogged):
            self._transport.resume_reading()

    def _note_partial(self, *, progress: bool) -> None:
        """Record the time since which a message is incomplete."""
        if self._decoder.buffered_bytes == 0:
            self.partial_since = None
        elif progress or self.partial_since is None:
            self.partial_since = asyncio.get_running_loop().time()
            self._watch()

    def eof_received(self) -> bool:
        """The caller sends no more, but may still read (`printf … | nc -N -U …`)."""
        self.half_closed = True
        if not self.in_flight or self.has_hung_up():
            self._cut_later(CLOSE_GRACE_S)
            return False
        self._watch()
        return True

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = self._backlogged = False
        self._resume_reading()
        for event in self._events.take():
            self._queue(Notification("event", event))
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._transport = None
        if self._cut is not None:
            self._cut.cancel()
        self._lost(self)

    # ---- called by the front

    @property
    def half_sent_bytes(self) -> int:
        """The number of bytes of an incomplete message."""
        return self._decoder.buffered_bytes

    @property
    def socket(self) -> socket.socket:
        assert self._transport is not None
        return cast(socket.socket, self._transport.get_extra_info("socket"))

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._closing

    def has_hung_up(self) -> bool:
        """Return whether the peer has closed the connection, not only its writing side."""
        if self._transport is None:
            return True
        poll = select.poll()
        # For reading, macOS reports a closed writing side as a hang-up, too: poll_callback in
        # xnu's sys_generic.c.
        poll.register(self.socket.fileno(), select.POLLOUT)
        return any(what & (select.POLLHUP | select.POLLERR) for _, what in poll.poll(0))

    def cancel(self, wanted: MessageId, *, by_tag: bool) -> bool:
        """Cancel the oldest request with this id or tag. Return False if there is none."""
        for request in self.in_flight.values():
            if wanted == (request.tag if by_tag else request.id):
                return request.cancel()
        return False

    def cancel_all(self) -> None:
        """Cancel every request of a caller that has disconnected."""
        for request in list(self.in_flight.values()):
            request.cancel()

    def respond(
        self, request_id: MessageId, result: Any = None, error: MlxdError | None = None
    ) -> None:
        """Answer a request. Buffered events are sent first."""
        for event in self._events.take():
            self._queue(Notification("event", event))
        self._queue(Response(request_id, error.to_map() if error else None, result))
        self.flush()
        if self.half_closed and not self.in_flight:
            self.close()
        elif self._transport is not None and (
            self._transport.get_write_buffer_size() > READ_PAUSE_BYTES
        ):
            self._backlogged = True
            self._transport.pause_reading()

    def refuse(self, error: MlxdError) -> None:
        """Answer the first request with `error` in the caller's encoding, then close.

        If the caller sends nothing, send the error after a short time.
        """
        self._refusal = error

    def event(self, event: Event) -> None:
        """Send an event with the next `flush`. Merge events while the caller is slow."""
        if not self._paused:
            self._queue(Notification("event", event))
            return
        self._events.add(event)
        if self._events.nbytes > PENDING_MAX_BYTES:
            self.abort()

    def flush(self) -> None:
        """Write all queued data in one system call."""
        if self._outgoing and self._transport is not None:
            data = b"".join(self._outgoing)
            self._outgoing.clear()
            # asyncio reports a failed write one iteration later, and warns about each further
            # write.
            if not self._transport.is_closing():
                self._transport.write(data)

    def close(self) -> None:
        """Close after all queued data is sent."""
        self.flush()
        self._closing = True
        if self._transport is not None:
            self._transport.close()
            self._cut_later(CLOSE_GRACE_S)

    def _refuse_silent(self) -> None:
        if self.open:
            self.respond(None, error=self._refusal)
            self.close()

    def _cut_later(self, grace_s: float) -> None:
        if self._cut is None:
            self._cut = asyncio.get_running_loop().call_later(grace_s, self.abort)

    def abort(self) -> None:
        """Close at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    def _take(self, message: Message | BadRequest) -> None:
        if self._refusal is not None:
            self.respond(getattr(message, "id", None), error=self._refusal)
            self.close()
        elif isinstance(message, BadRequest):
            self.respond(message.id, error=message.error)
        elif not isinstance(message, Response):
            self._handle(self, message)

    def _queue(self, message: Message) -> None:
        if self._transport is None:
            return
        encoding = self._decoder.encoding or Encoding.MSGPACK
        self._outgoing.append(encode(message, encoding))


def connections_that_fit(wanted: int) -> int:
    """Return the maximum number of connections that leaves enough file descriptors."""
    return max(1, min(wanted, descriptor_limit() - RESERVED_DESCRIPTORS))


def enlarge_buffers(sock: socket.socket) -> None:
    """Enlarge the buffers of a socket on macOS, where they have 8 KiB."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        # EINVAL: the caller has hung up (sosetoptlock in xnu's uipc_socket.c).
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, MACOS_BUFFER_BYTES)


def descriptor_limit() -> int:
    """Raise the limit of open files as far as allowed, and return it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = file_limits.reachable(soft, hard)
    if soft < reachable:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
        except (OSError, ValueError):
            return soft
    return reachable
