"""The three kinds of message, the same in both encodings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlxd.protocol.errors import MlxdError

MessageId = int | str | None
"""MessagePack-RPC uses unsigned 32-bit integers; JSON-RPC also allows strings and null."""

Params = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A call that is answered by exactly one `Response` with the same `id`."""

    id: MessageId
    method: str
    params: Params = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a `Request`. Exactly one of `error` and `result` is meaningful.

    `error` is the map `{code, message, hint, retryable, data}`, or None on success.
    """

    id: MessageId
    error: dict[str, Any] | None = None
    result: Any = None


@dataclass(frozen=True, slots=True)
class Notification:
    """A message that is not answered."""

    method: str
    params: Params = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A request that can be answered, but only with `error`. Yielded by decoders, never encoded."""

    id: MessageId
    error: MlxdError


Message = Request | Response | Notification
