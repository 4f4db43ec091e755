"""One HTTP/1.1 connection: h11 parses, this class reads, writes and enforces time limits."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

import h11

from mlxd.http.exchange import Budget, ClientGone, Exchange, head_of
from mlxd.protocol.errors import MlxdError

HEAD_MAX_BYTES = 1 << 16
HEAD_S = 10.0
"""Time for the head of a request, from its first byte, or from the start of the connection."""
IDLE_S = 75.0
"""Time between two requests. Longer than the pools of the usual clients keep connections."""
LINGER_S = 2.0
"""Time to read the error after which the connection is closed, when the body was not read."""

Handle = Callable[[Exchange], Awaitable[None]]
Refusal = tuple[int, str]
"""The status and the text for a connection that is refused."""


class HttpConnection(asyncio.Protocol):
    """Serves requests one after the other. `admit` may refuse the connection."""

    def __init__(
        self,
        handle: Handle,
        admit: Callable[[HttpConnection], Refusal | None],
        lost: Callable[[HttpConnection], None],
        budget: Budget,
    ) -> None:
        self._handle = handle
        self._admit = admit
        self._lost = lost
        self._budget = budget
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)
        self._timer: asyncio.TimerHandle | None = None
        self._exchange: Exchange | None = None
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._closing = False
        self._head = b""
        self._head_begun = False
        self.transport: asyncio.Transport
        self.idle_since_s: float | None = None
        """Time of the loop since when the connection has no request. None: it has one."""

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        without_delay(transport.get_extra_info("socket"))
        if (refusal := self._admit(self)) is not None:
            self._refuse(*refusal)
            return
        self._head_begun = True
        self._rest(HEAD_S)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        if self._exchange is None and not self._head_begun:
            # Once, and not for every byte: a byte now and then must not keep the connection open.
            self._head_begun = True
            self._rest(HEAD_S)
        self._http.receive_data(data)
        self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._rest(None)
        self._writable.set()
        if self._exchange is not None:
            self._exchange.lose()
        if self._task is not None:
            self._task.cancel()
        self._lost(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # ---- requests

    def _advance(self) -> None:
        while not self._closing:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as exc:
                self._refuse(exc.error_status_hint or 400, str(exc))
                return
            if event is h11.NEED_DATA:
                return
            if event is h11.PAUSED:  # a pipelined request waits for the answer before it
                # Reading goes on, because otherwise nobody would notice that the client leaves.
                if len(self._http.trailing_data[0]) > HEAD_MAX_BYTES:
                    self.transport.pause_reading()
                return
            self._take(event)

    def _take(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._begin(event)
        elif isinstance(event, h11.Data) and self._exchange is not None:
            if not self._exchange.feed(bytes(event.data)):
                self.transport.pause_reading()
        elif isinstance(event, h11.EndOfMessage) and self._exchange is not None:
            self._exchange.feed_end()
        elif isinstance(event, h11.ConnectionClosed):
            self.close()

    def _begin(self, event: h11.Request) -> None:
        self._rest(None)
        self.idle_since_s = None
        try:
            head = head_of(event.method, event.target, [*event.headers])
        except MlxdError as error:
            self._refuse(400, error.message)
            return
        exchange = Exchange(head, self, self._budget, self._resume)
        self._exchange = exchange
        self._task = self._loop.create_task(self._run(exchange))

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._handle(exchange)
        except ClientGone:
            pass
        except Exception as exc:
            report(exc.__cause__ or exc)
            if not exchange.started:
                self._refuse(500, "Internal error.")
        finally:
            exchange.release()
            self._end()

    def _end(self) -> None:
        """Prepare for the next request, or close the connection."""
        self._exchange = self._task = None
        if self._closing or self.transport.is_closing():
            return
        if self._body_is_missing():
            self._linger()
            return
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            self.close()
            return
        self._http.start_next_cycle()
        self._head_begun = False
        self._rest(IDLE_S)
        self.transport.resume_reading()
        self._advance()

    def _resume(self) -> None:
        if self._http.they_are_waiting_for_100_continue:
            self._send(h11.InformationalResponse(status_code=100, headers=[]))
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # ---- output

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status and the headers of the answer."""
        pairs = [(key.encode(), text.encode("latin-1", "replace")) for key, text in headers.items()]
        if self._exchange is not None and self._body_is_missing():
            pairs.append((b"connection", b"close"))
        response = h11.Response(status_code=status, headers=pairs, reason=_phrase(status))
        self._head = self._http.send(response) or b""  # sent with the first data, in one packet

    def send_data(self, data: bytes) -> None:
        """Send a piece of the answer."""
        self._send(h11.Data(data=data))

    def send_end(self) -> None:
        """End the answer."""
        self._send(h11.EndOfMessage())

    async def drain(self) -> None:
        """Wait while the client reads too slowly."""
        if not self._writable.is_set():
            await self._writable.wait()

    def _body_is_missing(self) -> bool:
        return self._http.their_state is h11.SEND_BODY

    def _send(self, event: h11.Event) -> None:
        data = self._head + (self._http.send(event) or b"")
        self._head = b""
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def _refuse(self, status: int, text: str) -> None:
        """Answer in plain text and close the connection."""
        data = f"{text}\n".encode("ascii", "replace")
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", str(len(data)).encode()),
            (b"connection", b"close"),
        ]
        try:
            self._send(h11.Response(status_code=status, headers=headers, reason=_phrase(status)))
            self._send(h11.Data(data=data))
            self._send(h11.EndOfMessage())
        except h11.LocalProtocolError:
            self.transport.abort()
        else:
            self._linger()

    # ---- the end

    def _linger(self) -> None:
        """Close after the client had time to read: unread bytes would reset the connection."""
        self._closing = True
        self._rest(None)
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.transport.resume_reading()
        self._timer = self._loop.call_later(LINGER_S, self.transport.abort)

    def close(self) -> None:
        """Close the connection. A running request is cancelled."""
        self.transport.close()

    def close_when_idle(self) -> None:
        """Close the connection after its running request, for a graceful stop."""
        if self._exchange is None:
            self.close()

    def _rest(self, limit_s: float | None) -> None:
        """Close the connection unless a request arrives within `limit_s`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if limit_s is not None:
            if self.idle_since_s is None:
                self.idle_since_s = self._loop.time()
            self._timer = self._loop.call_later(limit_s, self.close)


def without_delay(sock: socket.socket) -> None:
    """Send small packets at once. asyncio does this only if the socket knows its protocol.

    Otherwise the second packet of an answer waits up to 40 ms for the client to confirm the first.
    """
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _phrase(status: int) -> bytes:
    try:
        return HTTPStatus(status).phrase.encode()
    except ValueError:
        return b"Client Closed Request" if status == 499 else b"Error"


def report(exc: BaseException) -> None:
    """Print type and place of a bug to stderr, without its message: that may quote a prompt."""
    places = traceback.extract_tb(exc.__traceback__)
    where = ", ".join(f"{one.name}:{one.lineno}" for one in places[-4:])
    with contextlib.suppress(OSError):  # stderr is a file, and its disk may be full
        print(f"mlxd http: {type(exc).__name__} in {where}", file=sys.stderr, flush=True)
