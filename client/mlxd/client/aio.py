"""The asyncio client: many requests in flight on one connection.

async with AsyncClient() as client:
    result = await client.chat("Count from 3 to 7.", temperature=0)
    async with client.stream_chat("Tell me a story.") as stream:
        async for text in stream.texts():
            print(text, end="", flush=True)
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from mlxd.client.aio_methods import AsyncMethods
from mlxd.client.aio_stream import AsyncStream, Wires
from mlxd.client.aio_wire import AsyncWire
from mlxd.client.asks import Ask
from mlxd.client.core import CLOSED, Call, closed
from mlxd.client.events import Event, event_of
from mlxd.client.timeouts import DEFAULTS, UNSET, Timeout, _Unset, resolve
from mlxd.safesocket.connect import PAUSE_S, GivenPath, attempts, socket_path

__all__ = ["AsyncClient", "AsyncStream"]

E = TypeVar("E")
T = TypeVar("T")
ANOTHER_LOOP = "An AsyncClient belongs to one event loop. Create one in each loop."


def _as_it_is(value: Any) -> Any:
    return value


class AsyncClient(AsyncMethods):
    """An asyncio client with one connection, for the tasks of one event loop.

    It connects with `async with`, with `await AsyncClient.connect()`, or at the first request.
    `path` is the path of the socket; by default it comes from the environment. `timeout` limits
    every request: `Timeouts`, a number of seconds for a whole request, or None for no limits, not
    even on connecting. If the connection turns out to be closed before any byte of a request was
    written, the client opens a new one, unless `reconnect` is False. It never sends a request
    again that the daemon may have read. Such a request raises `ConnectionClosed`. Cancelling a task
    that waits cancels its request in the daemon.
    """

    def __init__(
        self, path: GivenPath = None, *, timeout: Timeout = DEFAULTS, reconnect: bool = True
    ) -> None:
        self._path = socket_path(path)
        self._timeouts = resolve(timeout, DEFAULTS)
        self._reconnect = reconnect
        self._closed = False
        self._connecting = asyncio.Lock()
        self._wire: AsyncWire | None = None

    @classmethod
    async def connect(
        cls, path: GivenPath = None, *, timeout: Timeout = DEFAULTS, reconnect: bool = True
    ) -> Self:
        """Return a connected client.

        Raises:
            DaemonUnreachable: no daemon listens at the socket.
            PermissionDenied: the socket belongs to another user's program.
            RequestTimeout: the daemon did not accept the connection in time.
        """
        client = cls(path, timeout=timeout, reconnect=reconnect)
        await client._current()
        return client

    async def __aenter__(self) -> Self:
        await self._current()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection. The daemon cancels its requests.

        Callers that wait get `ConnectionClosed`.
        """
        self._closed = True
        if self._wire is None:
            return
        if self._wire.process == os.getpid():
            self._wire.close()
        else:
            self._wire.disown()

    async def request(
        self,
        method: str,
        given: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> Any:
        """Call any method and return its untyped result.

        Parameters are keyword arguments, or keys of `given` if their names are not identifiers.

        Raises:
            MlxdError: the daemon answered with an error, or the connection failed.
        """
        return await self._ask(Ask(method, {**(given or {}), **params}, _as_it_is), timeout)

    def stream(
        self,
        method: str,
        given: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> AsyncStream[dict[str, Any], Any]:
        """Call any method and return a stream of its untyped events and result."""
        ask = Ask(method, {**(given or {}), **params, "stream": True}, _as_it_is)
        return self._open(ask, _as_it_is, timeout)

    # ---- requests

    async def _ask(self, ask: Ask[T], timeout: Timeout | _Unset) -> T:
        async with self._open(ask, _as_it_is, timeout) as stream:
            return await stream.result()

    def _stream(self, ask: Ask[T], timeout: Timeout | _Unset) -> AsyncStream[Event, T]:
        streamed = Ask(ask.method, {**ask.params, "stream": True}, ask.of)
        return self._open(streamed, event_of, timeout)

    def _open(
        self, ask: Ask[T], event: Callable[[Any], E], timeout: Timeout | _Unset
    ) -> AsyncStream[E, T]:
        limits = resolve(timeout, self._timeouts)
        call = Call(ask.method, ask.params, limits, started_s=time.monotonic())
        return AsyncStream(call, event, ask.of, Wires(self._submit_now, self._current))

    def _submit_now(self, call: Call) -> AsyncWire | None:
        """Send a request on the present connection. None: there is none, or it is closed."""
        wire = self._wire
        if self._closed:
            raise closed(CLOSED, may_have_been_executed=False)
        if wire is None or wire.lost is not None or wire.process != os.getpid():
            return None
        if wire.loop is not asyncio.get_running_loop():
            raise RuntimeError(ANOTHER_LOOP)
        wire.submit(call)
        return wire

    async def _current(self) -> AsyncWire:
        """Return the connection, or a new one if it is lost."""
        async with self._connecting:
            wire = self._wire
            if wire is not None and wire.process != os.getpid():
                wire.disown()
                wire = None
            if wire is None or (wire.lost is not None and self._reconnect and not self._closed):
                wire = self._wire = await self._dial()
            if self._closed:
                wire.close()
                raise closed(CLOSED, may_have_been_executed=False)
            if wire.lost is not None:
                raise closed(wire.lost, may_have_been_executed=False)
        return wire

    async def _dial(self) -> AsyncWire:
        for connection in attempts(self._path, self._timeouts.connect_s):
            if connection is not None:
                return AsyncWire(connection)
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("unreachable")
