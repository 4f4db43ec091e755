"""The client for asyncio: many requests in flight on one connection.

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
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from typing import Any, Generic, Self, TypeVar

from mlxd.client.aio_methods import AsyncMethods
from mlxd.client.aio_wire import AsyncWire
from mlxd.client.asks import Ask
from mlxd.client.core import CLOSED, STOPPED, Call, State, closed
from mlxd.client.dial import PAUSE_S, Path, dial, socket_path
from mlxd.client.events import Delta, Event, event_of
from mlxd.client.timeouts import DEFAULTS, UNSET, Timeout, _Unset, resolve
from mlxd.protocol.errors import Cancelled

E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")
ANOTHER_LOOP = "An AsyncClient belongs to the event loop that it connected in. Make one for each."


def _has_event(call: Call) -> bool:
    return bool(call.events)


def _as_it_is(value: Any) -> Any:
    return value


class AsyncStream(AsyncIterable[E], Generic[E, R]):
    """The events of one request, and then its `result()`.

    An `async for` loop that is left early stops the request, as do `aclose` and the end of an
    `async with` block. `anext(stream)` takes single events and stops nothing.
    """

    def __init__(
        self, client: AsyncClient, call: Call, event: Callable[[Any], E], of: Callable[[Any], R]
    ) -> None:
        self._client = client
        self._call = call
        self._event = event
        self._of = of
        self._stopped = False
        self._wire: AsyncWire | None = None
        self._wire = client._submit_now(call)

    async def result(self) -> R:
        """Return the result. Waits for it; events that nobody read can still be read.

        Raises:
            MlxdError: the request failed, was stopped, or lost its connection.
        """
        await self._wait(lambda _: False)
        if self._call.error is not None:
            raise self._call.error
        return self._of(self._call.result)

    def __aiter__(self) -> AsyncReading[E]:
        return AsyncReading(self)

    async def __anext__(self) -> E:
        await self._wait(_has_event)
        if self._call.events:
            return self._event(self._call.events.popleft())
        if self._call.error is not None:
            raise self._call.error
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop the request if it has not ended. Its `result()` is then the error `cancelled`."""
        self._stop()

    async def texts(self) -> AsyncIterator[str]:
        """Yield the text of the first answer as it comes. Leaving early stops the request."""
        async for event in self:
            if isinstance(event, Delta) and event.channel == "answer" and event.index == 0:
                yield event.text

    async def _wait(self, until: Callable[[Call], bool]) -> None:
        if self._stopped and not self._call.ended:
            raise Cancelled(STOPPED)
        if self._call.ended or until(self._call):
            return
        wire = self._wire
        if wire is None or (wire.lost is not None and self._call.state is State.UNSENT):
            wire = await self._resubmit()
        await wire.wait(self._call, until)
        if wire.lost is not None and self._call.state is State.UNSENT:
            raise closed(wire.lost, may_have_been_executed=False)

    async def _resubmit(self) -> AsyncWire:
        """Send the request on another connection than that on which nothing of it was sent."""
        wire = await self._client._current()
        if self._stopped:
            raise Cancelled(STOPPED)
        if self._wire is not wire:
            self._wire = wire
            wire.submit(self._call)
        return wire

    def _stop(self) -> None:
        self._stopped = True
        if self._wire is not None and not self._call.ended:
            self._wire.cancel(self._call)

    def _abandon(self) -> None:
        if self._wire is not None and not self._call.ended and self._wire.process == os.getpid():
            self._wire.abandon(self._call)

    def __del__(self) -> None:
        self._abandon()


class AsyncReading(AsyncIterator[E]):
    """A loop over a stream. Dropped before the last event, it stops the request."""

    def __init__(self, stream: AsyncStream[E, Any]) -> None:
        self._stream = stream

    async def __anext__(self) -> E:
        return await self._stream.__anext__()

    def __aiter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        """Stop the request if it has not ended."""
        await self._stream.aclose()

    def __del__(self) -> None:
        self._stream._abandon()


class AsyncClient(AsyncMethods):
    """A client of the daemon, with one connection, for the tasks of one event loop.

    It connects with `async with`, with `await AsyncClient.connect()`, or at the first request. A
    connection that is found dead before a byte of a request was written is replaced (unless
    `reconnect` is off); what the daemon may have read is never sent again, but ends with
    `ConnectionClosed`. A task that is cancelled while it waits cancels its request at the daemon.

    `timeout` limits every request: `Timeouts`, a number of seconds for the whole of a request, or
    None for no limits at all, not even on connecting.
    """

    def __init__(
        self, path: Path = None, *, timeout: Timeout = DEFAULTS, reconnect: bool = True
    ) -> None:
        self._path = socket_path(path)
        self._timeouts = resolve(timeout, DEFAULTS)
        self._reconnect = reconnect
        self._closed = False
        self._connecting = asyncio.Lock()
        self._wire: AsyncWire | None = None

    @classmethod
    async def connect(
        cls, path: Path = None, *, timeout: Timeout = DEFAULTS, reconnect: bool = True
    ) -> Self:
        """Return a connected client.

        Raises:
            DaemonUnreachable: nobody listens at the socket.
            PermissionDenied: a program of another user does.
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
        """Hang up. The daemon stops what is in flight; those who wait get `ConnectionClosed`."""
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
        """Call any method; returns the result as it came. `given` holds further parameters.

        Raises:
            MlxdError: what the daemon answered, or what happened on the way.
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
        """Call any method; returns its events and its result as they come."""
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
        return AsyncStream(self, call, event, ask.of)

    def _submit_now(self, call: Call) -> AsyncWire | None:
        """Send a request on the connection that there is. None: there is none that lives."""
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
        """Return the connection, a new one where it is lost."""
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
        for connection in dial(self._path, self._timeouts.connect_s):
            if connection is not None:
                return AsyncWire(connection)
            await asyncio.sleep(PAUSE_S)
        raise AssertionError("unreachable")
