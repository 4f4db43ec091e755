"""The protocol state of one connection, without I/O. The blocking and asyncio clients share it.

A `Call` is one request and its state. A `Connection` encodes calls into bytes, and decodes bytes
into events and results of calls. The owner of the socket writes `outgoing` and calls `written`,
passes received bytes to `receive`, and calls `lose` when the socket is closed.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from mlxd.client.timeouts import NO_LIMITS, Timeouts
from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.errors import (
    Cancelled,
    ConnectionClosed,
    ErrorMap,
    InvalidParams,
    MlxdError,
    ParseError,
    RequestTimeout,
    error_from_map,
)
from mlxd.protocol.framing import TOO_LONG_HINT, Limits
from mlxd.protocol.messages import BadRequest, Message, Notification, Request, Response

ANSWER_MAX_BYTES = 1 << 30  # the client trusts the daemon more than the daemon trusts clients
ANSWER_MAX_DEPTH = 256
READ_BYTES = 1 << 16
WENT_AWAY = "The daemon went away before the answer was complete."
CLOSED = "The client was closed before the answer was complete."
STOPPED = "The caller cancelled the request."


class State(Enum):
    """The state of a request."""

    UNSENT = "no byte was written"
    SENT = "some or all bytes were written"
    STREAMING = "the first event arrived"
    ENDED = "it has a result or an error"


class Input(Enum):
    """An input of the request's state machine."""

    WRITTEN = "bytes were written"
    EVENT = "the daemon sent an event"
    ANSWER = "the daemon sent the result or an error"
    CANCEL = "the caller cancelled it"
    TIMEOUT = "one of its time limits passed"
    LOSS = "the connection ended"
    REFUSAL = "the daemon refused the whole connection"


TRANSITIONS: dict[tuple[State, Input], State] = {
    (State.UNSENT, Input.WRITTEN): State.SENT,
    (State.UNSENT, Input.CANCEL): State.ENDED,
    (State.UNSENT, Input.TIMEOUT): State.ENDED,
    (State.UNSENT, Input.REFUSAL): State.ENDED,
    (State.SENT, Input.EVENT): State.STREAMING,
    (State.SENT, Input.ANSWER): State.ENDED,
    (State.SENT, Input.CANCEL): State.ENDED,
    (State.SENT, Input.TIMEOUT): State.ENDED,
    (State.SENT, Input.LOSS): State.ENDED,
    (State.SENT, Input.REFUSAL): State.ENDED,
    (State.STREAMING, Input.ANSWER): State.ENDED,
    (State.STREAMING, Input.CANCEL): State.ENDED,
    (State.STREAMING, Input.TIMEOUT): State.ENDED,
    (State.STREAMING, Input.LOSS): State.ENDED,
    (State.STREAMING, Input.REFUSAL): State.ENDED,
}
"""An input that is not listed does not change the state. A request of which no byte was written
therefore survives the loss of its connection, and can be sent on another one."""


@dataclass(slots=True, eq=False)
class Call:
    """One request. `started_s` and `heard_s` are times of the monotonic clock."""

    method: str
    params: dict[str, Any]
    timeouts: Timeouts = NO_LIMITS
    started_s: float = 0.0
    state: State = State.UNSENT
    id: int | None = None
    size_bytes: int = 0
    whole: bool = False
    """Whether every byte was written. The daemon may then execute the request."""
    events: deque[dict[str, Any]] = field(default_factory=deque)
    result: Any = None
    error: MlxdError | None = None
    heard_s: float | None = None

    @property
    def ended(self) -> bool:
        """Whether there is a result or an error."""
        return self.state is State.ENDED

    def advance(self, happened: Input) -> bool:
        """Change the state. Return False if the input has no meaning in this state."""
        following = TRANSITIONS.get((self.state, happened))
        if following is not None:
            self.state = following
        return following is not None or (self.state, happened) in _REPEATED

    def expires(self) -> tuple[float, str, float] | None:
        """Return (time, name, seconds) of the limit that passes first, or None without limits."""
        limits = self.timeouts
        found: list[tuple[float, str, float]] = []
        if limits.total_s is not None:
            found.append((self.started_s + limits.total_s, "total_s", limits.total_s))
        if limits.first_s is not None and self.heard_s is None:
            found.append((self.started_s + limits.first_s, "first_s", limits.first_s))
        if limits.idle_s is not None:
            since = self.started_s if self.heard_s is None else self.heard_s
            found.append((since + limits.idle_s, "idle_s", limits.idle_s))
        return min(found, default=None)

    def remaining_s(self, now_s: float) -> float | None:
        """Return the seconds until a limit passes, or None without limits."""
        soonest = self.expires()
        return None if soonest is None else max(0.0, soonest[0] - now_s)


_REPEATED = {(State.SENT, Input.WRITTEN), (State.STREAMING, Input.EVENT)}


@dataclass(slots=True)
class _Piece:
    rest: memoryview
    call: Call | None


class Connection:
    """The state of one connection. After `lost` is set, it sends and receives nothing."""

    def __init__(self) -> None:
        self.lost: str | None = None
        """Why the connection ended. None while it is open."""
        self._ids = itertools.count(1)
        self._decoder = Decoder(
            Limits(ANSWER_MAX_BYTES, ANSWER_MAX_DEPTH, ANSWER_MAX_BYTES, ANSWER_MAX_BYTES)
        )
        self._outgoing: deque[_Piece] = deque()
        self._calls: dict[int, Call] = {}
        self._tags: dict[int | str, Call] = {}

    # ---- sending

    def submit(self, call: Call) -> None:
        """Queue a request. Write `outgoing` next.

        Raises:
            InvalidParams: a parameter cannot be encoded.
        """
        assert call.state is State.UNSENT
        assert self.lost is None
        call.id = next(self._ids)
        given = {name: value for name, value in call.params.items() if value is not None}
        data = _encoded(Request(call.id, call.method, given))
        call.size_bytes = len(data)
        self._calls[call.id] = call
        if (tag := _tag(call)) is not None:
            self._tags[tag] = call
        self._outgoing.append(_Piece(memoryview(data), call))

    @property
    def outgoing(self) -> memoryview | None:
        """The bytes to write next, or None."""
        return self._outgoing[0].rest if self._outgoing else None

    def written(self, count: int) -> None:
        """Record that `count` bytes of `outgoing` were written."""
        if not count:
            return
        piece = self._outgoing[0]
        piece.rest = piece.rest[count:]
        if piece.call is not None:
            piece.call.advance(Input.WRITTEN)
        if not piece.rest:
            self._outgoing.popleft()
            if piece.call is not None:
                piece.call.whole = True

    def cancel(self, call: Call) -> None:
        """End a call with `Cancelled` and queue a cancel. Write `outgoing` next."""
        self._stop(call, Input.CANCEL, Cancelled(STOPPED))

    def expire(self, call: Call, now_s: float) -> bool:
        """End a call with `RequestTimeout` and queue a cancel, if one of its limits has passed.

        Return whether a limit has passed. Write `outgoing` next.
        """
        soonest = call.expires()
        if call.ended or soonest is None or now_s < soonest[0]:
            return False
        _, limit, seconds = soonest
        error = RequestTimeout(
            f"{_LIMITS[limit]} within {seconds:g} s.", data={"limit": limit, "seconds": seconds}
        )
        self._stop(call, Input.TIMEOUT, error)
        return True

    def _stop(self, call: Call, why: Input, error: MlxdError) -> None:
        unsent = call.state is State.UNSENT
        if not call.advance(why):
            return
        self._forget(call)
        call.error = error
        if unsent:
            self._outgoing = deque(one for one in self._outgoing if one.call is not call)
        elif self.lost is None:
            data = encode(Notification("cancel", {"id": call.id}), Encoding.MSGPACK)
            self._outgoing.append(_Piece(memoryview(data), None))

    # ---- receiving

    def receive(self, data: bytes, now_s: float) -> list[Call]:
        """Decode bytes from the daemon. Return the calls that have news.

        An error for the whole connection ends the connection and all its calls.
        """
        if self.lost is not None:
            return []
        self._decoder.feed(data)
        found: dict[int, Call] = {}
        try:
            for message in self._decoder:
                call = self._take(message, now_s)
                if call is not None:
                    found[id(call)] = call
        except _Refused as refused:
            ended = self._lose(str(refused.error.get("message", "")), refused.error)
        except ParseError as exc:
            ended = self.lose(f"The daemon sent bytes that are not a message. {exc.message}")
        else:
            ended = []
        return [*found.values(), *ended]

    def lose(self, reason: str) -> list[Call]:
        """Record that the connection ended. Return the calls that were in flight.

        They end with `ConnectionClosed`. Calls of which no byte was written stay unsent.
        """
        return self._lose(reason, None)

    def _lose(self, reason: str, refusal: ErrorMap | None) -> list[Call]:
        if self.lost is not None:
            return []
        self.lost = reason
        self._outgoing.clear()
        calls = list(self._calls.values())
        self._calls.clear()
        self._tags.clear()
        for call in calls:
            if refusal is not None and (error := _refused(refusal, call)) is not None:
                call.advance(Input.REFUSAL)
                call.error = error
            elif call.advance(Input.LOSS):
                call.error = closed(reason, may_have_been_executed=call.whole)
        return calls

    def _take(self, message: Message | BadRequest, now_s: float) -> Call | None:
        if isinstance(message, Response):
            if message.id is None:
                raise _Refused(message.error or {"message": "The daemon refused the connection."})
            return self._answered(message, now_s)
        if isinstance(message, Notification) and message.method == "event":
            return self._event(message.params, now_s)
        return None

    def _answered(self, message: Response, now_s: float) -> Call | None:
        call = self._calls.get(message.id) if isinstance(message.id, int) else None
        if call is None or not call.advance(Input.ANSWER):
            return None  # the request was cancelled, or never existed
        self._forget(call)
        call.heard_s = now_s
        call.result = message.result
        call.error = error_from_map(message.error) if message.error is not None else None
        return call

    def _event(self, event: dict[str, Any], now_s: float) -> Call | None:
        key = event.get("id")
        if not isinstance(key, (int, str)):
            return None
        call = self._tags.get(key) or (self._calls.get(key) if isinstance(key, int) else None)
        if call is None or not call.advance(Input.EVENT):
            return None
        call.heard_s = now_s
        call.events.append(event)
        return call

    def _forget(self, call: Call) -> None:
        if call.id is not None:
            self._calls.pop(call.id, None)
        tag = _tag(call)
        if tag is not None and self._tags.get(tag) is call:
            del self._tags[tag]


def _encoded(request: Request) -> bytes:
    try:
        return encode(request, Encoding.MSGPACK)
    except (OverflowError, RecursionError, TypeError, ValueError) as exc:
        raise InvalidParams(
            "",
            f"The parameters cannot be sent: {exc}.",
            hint="Use integers of at most 64 bits, and text, lists and maps only.",
        ) from exc


def _refused(refusal: ErrorMap, call: Call) -> MlxdError | None:
    """Return the error of a request when the daemon refuses the whole connection.

    None: the refusal is about the size of another request. The error has both sizes.
    """
    limit = (refusal.get("data") or {}).get("max_message_bytes")
    if limit is None:
        return error_from_map(refusal)
    if call.size_bytes <= limit:
        return None
    return ParseError(
        f"The request has {call.size_bytes:,} bytes; the daemon accepts at most {limit:,}.",
        hint=TOO_LONG_HINT,
        data={"max_message_bytes": limit, "bytes": call.size_bytes},
    )


def _tag(call: Call) -> int | str | None:
    tag = call.params.get("tag")
    return tag if isinstance(tag, (int, str)) else None


class _Refused(Exception):
    """The daemon refused the connection as a whole."""

    def __init__(self, error: ErrorMap) -> None:
        self.error = error


_LIMITS = {
    "total_s": "The daemon did not finish the request",
    "first_s": "The daemon did not begin to answer",
    "idle_s": "The daemon sent nothing",
}


def closed(reason: str, *, may_have_been_executed: bool) -> ConnectionClosed:
    """Return the error for a request whose connection ended."""
    return ConnectionClosed(reason, reason=reason, may_have_been_executed=may_have_been_executed)
