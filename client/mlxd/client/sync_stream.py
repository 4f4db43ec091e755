"""The events and the result of one request of the blocking client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Self, TypeVar

from mlxd.client.core import Call, closed
from mlxd.client.events import Delta
from mlxd.client.wire import Wire

E = TypeVar("E")
R = TypeVar("R")
PARENTS = "The connection belongs to the parent process."


def _has_event(call: Call) -> bool:
    return bool(call.events)


class Stream(Iterable[E], Generic[E, R]):
    """Iterates over the events of one request. Afterwards `result` is its result.

    Leaving a `for` loop early cancels the request. So do `close` and the end of a `with` block.
    `next(stream)` returns single events and cancels nothing. Use a stream from one thread only.
    """

    def __init__(
        self, wire: Wire, call: Call, event: Callable[[Any], E], of: Callable[[Any], R]
    ) -> None:
        self._wire = wire
        self._call = call
        self._event = event
        self._of = of

    @property
    def result(self) -> R:
        """The result of the request. Waits for it. Unread events can still be read afterwards.

        Raises:
            MlxdError: the request failed, was cancelled, or lost its connection.
        """
        self._wait(lambda _: False)
        if self._call.error is not None:
            raise self._call.error
        return self._of(self._call.result)

    def __iter__(self) -> Reading[E]:
        return Reading(self, self._abandon)

    def __next__(self) -> E:
        self._wait(_has_event)
        if self._call.events:
            return self._event(self._call.events.popleft())
        if self._call.error is not None:
            raise self._call.error
        raise StopIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the request if it has not ended. `result` then raises `Cancelled`."""
        if not self._call.ended and self._wire.process == os.getpid():
            self._wire.cancel(self._call)

    def texts(self) -> Iterator[str]:
        """Yield the text of the first answer as it arrives. Leaving early cancels the request."""
        for event in self:
            if isinstance(event, Delta) and event.channel == "answer" and event.index == 0:
                yield event.text

    def _wait(self, until: Callable[[Call], bool]) -> None:
        if self._call.ended or until(self._call):
            return
        if self._wire.process != os.getpid():
            raise closed(PARENTS, may_have_been_executed=self._call.whole)
        self._wire.wait(self._call, until)

    def _abandon(self) -> None:
        if not self._call.ended and self._wire.process == os.getpid():
            self._wire.abandon(self._call)

    def __del__(self) -> None:
        self._abandon()


class Reading(Iterator[E]):
    """An iterator over a stream. If it is dropped before the last event, it cancels the request."""

    def __init__(self, stream: Stream[E, Any], abandon: Callable[[], None]) -> None:
        self._stream = stream
        self._abandon = abandon

    def __next__(self) -> E:
        return next(self._stream)

    def __iter__(self) -> Self:
        return self

    def close(self) -> None:
        """Cancel the request if it has not ended."""
        self._stream.close()

    def __del__(self) -> None:
        self._abandon()
