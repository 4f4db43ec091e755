"""The blocking client.

with Client() as client:
    print(client.chat("Count from 3 to 7.", temperature=0).text)
    with client.stream_chat("Tell me a story.") as stream:
        for text in stream.texts():
            print(text, end="", flush=True)
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

from mlxd.client.asks import Ask
from mlxd.client.core import CLOSED, Call, State, closed
from mlxd.client.dial import PAUSE_S, Path, dial, socket_path
from mlxd.client.events import Delta, Event, event_of
from mlxd.client.sync_methods import Methods
from mlxd.client.timeouts import DEFAULTS, UNSET, Timeout, _Unset, resolve
from mlxd.client.wire import Wire

E = TypeVar("E")
R = TypeVar("R")
T = TypeVar("T")
PARENTS = "The connection belongs to the parent process."


def _has_event(call: Call) -> bool:
    return bool(call.events)


def _as_it_is(value: Any) -> Any:
    return value


class Stream(Iterable[E], Generic[E, R]):
    """The events of one request, and then its `result`.

    A `for` loop that is left early stops the request, as do `close` and the end of a `with` block.
    `next(stream)` takes single events and stops nothing. A stream is not made for several threads.
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
        """The result. Waits for it; events that nobody read can still be read.

        Raises:
            MlxdError: the request failed, was stopped, or lost its connection.
        """
        self._wait(lambda _: False)
        if self._call.error is not None:
            raise self._call.error
        return self._of(self._call.result)

    def __iter__(self) -> Reading[E]:
        return Reading(self)

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
        """Stop the request if it has not ended. Its `result` is then the error `cancelled`."""
        if not self._call.ended and self._wire.process == os.getpid():
            self._wire.cancel(self._call)

    def texts(self) -> Iterator[str]:
        """Yield the text of the first answer as it comes. Leaving early stops the request."""
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
    """A loop over a stream. Dropped before the last event, it stops the request."""

    def __init__(self, stream: Stream[E, Any]) -> None:
        self._stream = stream

    def __next__(self) -> E:
        return next(self._stream)

    def __iter__(self) -> Self:
        return self

    def close(self) -> None:
        """Stop the request if it has not ended."""
        self._stream.close()

    def __del__(self) -> None:
        self._stream._abandon()


class Client(Methods):
    """A client of the daemon, with one connection. Several threads may share it.

    It connects when it is made. A connection that is found dead before a byte of a request was
    written is replaced (unless `reconnect` is off); what the daemon may have read is never sent
    again, but ends with `ConnectionClosed`. After a fork the child gets a connection of its own.

    `timeout` limits every request: `Timeouts`, a number of seconds for the whole of a request, or
    None for no limits at all, not even on connecting.

    Raises:
        DaemonUnreachable: nobody listens at the socket.
        PermissionDenied: a program of another user does.
        RequestTimeout: the daemon did not accept the connection in time.
    """

    def __init__(
        self, path: Path = None, *, timeout: Timeout = DEFAULTS, reconnect: bool = True
    ) -> None:
        self._path = socket_path(path)
        self._timeouts = resolve(timeout, DEFAULTS)
        self._reconnect = reconnect
        self._closed = False
        self._lock = threading.Lock()
        self._wire: Wire | None = self._dial()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. The daemon stops what is in flight; those who wait get `ConnectionClosed`."""
        self._closed = True
        wire = self._wire
        if wire is None:
            return
        if wire.process == os.getpid():
            wire.close()
        else:
            wire.disown()

    def request(
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
        return self._ask(Ask(method, {**(given or {}), **params}, _as_it_is), timeout)

    def stream(
        self,
        method: str,
        given: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: Timeout | _Unset = UNSET,
        **params: Any,
    ) -> Stream[dict[str, Any], Any]:
        """Call any method; returns its events and its result as they come."""
        ask = Ask(method, {**(given or {}), **params, "stream": True}, _as_it_is)
        return self._open(ask, _as_it_is, timeout)

    # ---- requests

    def _ask(self, ask: Ask[T], timeout: Timeout | _Unset) -> T:
        with self._open(ask, _as_it_is, timeout) as stream:
            return stream.result

    def _stream(self, ask: Ask[T], timeout: Timeout | _Unset) -> Stream[Event, T]:
        streamed = Ask(ask.method, {**ask.params, "stream": True}, ask.of)
        return self._open(streamed, event_of, timeout)

    def _open(
        self, ask: Ask[T], event: Callable[[Any], E], timeout: Timeout | _Unset
    ) -> Stream[E, T]:
        limits = resolve(timeout, self._timeouts)
        call = Call(ask.method, ask.params, limits, started_s=time.monotonic())
        wire = self._current()
        try:
            wire.submit(call)
            if call.state is State.UNSENT and self._reconnect:
                wire = self._current()
                wire.submit(call)
        except BaseException:
            wire.cancel(call)
            raise
        if call.state is State.UNSENT:
            raise closed(wire.lost or CLOSED, may_have_been_executed=False)
        return Stream(wire, call, event, ask.of)

    def _current(self) -> Wire:
        """Return the connection, a new one where it is lost."""
        if self._wire is not None and self._wire.process != os.getpid():
            self._leave_to_parent()
        with self._lock:
            if self._closed:
                raise closed(CLOSED, may_have_been_executed=False)
            wire = self._wire
            if wire is None or (wire.lost is not None and self._reconnect):
                wire = self._wire = self._dial()
            if wire.lost is not None:
                raise closed(wire.lost, may_have_been_executed=False)
        return wire

    def _leave_to_parent(self) -> None:
        # The lock may be held by a thread that this process does not have.
        self._lock = threading.Lock()
        if self._wire is not None:
            self._wire.disown()
            self._wire = None

    def _dial(self) -> Wire:
        for connection in dial(self._path, self._timeouts.connect_s):
            if connection is not None:
                return Wire(connection)
            time.sleep(PAUSE_S)
        raise AssertionError("unreachable")
