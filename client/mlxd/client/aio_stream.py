"""The events and the result of one request of the asyncio client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from mlxd.client.aio_wire import AsyncWire
from mlxd.client.core import STOPPED, Call, State, closed
from mlxd.client.events import Delta
from mlxd.protocol.errors import Cancelled

E = TypeVar("E")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Wires:
    """The connections of a client, as its streams use them."""

    submit_now: Callable[[Call], AsyncWire | None]
    """Send a request on the present connection. None: there is none, or it is closed."""
    current: Callable[[], Awaitable[AsyncWire]]
    """Return an open connection, after connecting if necessary."""


def _has_event(call: Call) -> bool:
    return bool(call.events)


class AsyncStream(AsyncIterable[E], Generic[E, R]):
    """Iterates over the events of one request. Afterwards `result()` returns its result.

    Leaving an `async for` loop early cancels the request. So do `aclose` and the end of an
    `async with` block. `anext(stream)` returns single events and cancels nothing.
    """

    def __init__(
        self, call: Call, event: Callable[[Any], E], of: Callable[[Any], R], wires: Wires
    ) -> None:
        self._wires = wires
        self._call = call
        self._event = event
        self._of = of
        self._stopped = False
        self._wire: AsyncWire | None = None
        self._wire = wires.submit_now(call)

    async def result(self) -> R:
        """Wait for the result and return it. Unread events can still be read afterwards.

        Raises:
            MlxdError: the request failed, was cancelled, or lost its connection.
        """
        await self._wait(lambda _: False)
        if self._call.error is not None:
            raise self._call.error
        return self._of(self._call.result)

    def __aiter__(self) -> AsyncReading[E]:
        return AsyncReading(self, self._abandon)

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
        """Cancel the request if it has not ended. `result()` then raises `Cancelled`."""
        self._stop()

    async def texts(self) -> AsyncIterator[str]:
        """Yield the text of the first answer as it arrives. Leaving early cancels the request."""
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
        """Send the request on a new connection. No byte of it was written to the old one."""
        wire = await self._wires.current()
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
    """An iterator over a stream. If it is dropped before the last event, it cancels the request."""

    def __init__(self, stream: AsyncStream[E, Any], abandon: Callable[[], None]) -> None:
        self._stream = stream
        self._abandon = abandon

    async def __anext__(self) -> E:
        return await self._stream.__anext__()

    def __aiter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        """Cancel the request if it has not ended."""
        await self._stream.aclose()

    def __del__(self) -> None:
        self._abandon()
