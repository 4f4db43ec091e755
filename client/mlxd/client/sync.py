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
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from mlxd.client.asks import Ask
from mlxd.client.core import CLOSED, Call, State, closed
from mlxd.client.events import Event, event_of
from mlxd.client.sync_methods import Methods
from mlxd.client.sync_stream import Stream
from mlxd.client.timeouts import DEFAULTS, UNSET, Timeout, _Unset, resolve
from mlxd.client.wire import Wire
from mlxd.safesocket.connect import GivenPath, connect, socket_path

__all__ = ["Client", "Stream"]

E = TypeVar("E")
T = TypeVar("T")


def _as_it_is(value: Any) -> Any:
    return value


class Client(Methods):
    """A blocking client with one connection, which several threads may share.

    The constructor connects. `path` is the path of the socket; by default it comes from the
    environment. `timeout` limits every request: `Timeouts`, a number of seconds for a whole
    request, or None for no limits, not even on connecting. If the connection turns out to be
    closed before any byte of a request was written, the client opens a new one, unless `reconnect`
    is False. It never sends a request again that the daemon may have read. Such a request raises
    `ConnectionClosed`. After a fork, the child process opens its own connection.

    Raises:
        DaemonUnreachable: no daemon listens at the socket.
        PermissionDenied: the socket belongs to another user's program.
        RequestTimeout: the daemon did not accept the connection in time.
    """

    def __init__(
        self, path: GivenPath = None, *, timeout: Timeout = DEFAULTS, reconnect: bool = True
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
        """Close the connection. The daemon cancels its requests.

        Callers that wait get `ConnectionClosed`.
        """
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
        """Call any method and return its untyped result.

        Parameters are keyword arguments, or keys of `given` if their names are not identifiers.

        Raises:
            MlxdError: the daemon answered with an error, or the connection failed.
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
        """Call any method and return a stream of its untyped events and result."""
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
        """Return the connection, or a new one if it is lost."""
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
        # A thread that exists only in the parent process may hold the lock.
        self._lock = threading.Lock()
        if self._wire is not None:
            self._wire.disown()
            self._wire = None

    def _dial(self) -> Wire:
        return Wire(connect(self._path, self._timeouts.connect_s))
