"""The three kinds of messages. They are the same in both encodings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlxd.protocol.errors import MlxdError

MessageId = int | str | None
"""The id of a request: an unsigned 32-bit integer. JSON-RPC also allows strings and null."""

Params = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A call. The daemon answers it with exactly one `Response` that has the same `id`."""

    id: MessageId
    method: str
    params: Params = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to a `Request`.

    `error` is the map `{code, message, hint, retryable, data}`, or None if the request succeeded.
    `result` is valid only in that case.
    """

    id: MessageId
    error: dict[str, Any] | None = None
    result: Any = None


@dataclass(frozen=True, slots=True)
class Notification:
    """A message without an answer."""

    method: str
    params: Params = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadRequest:
    """A request that must be answered with `error`. Decoders yield it; it is never encoded."""

    id: MessageId
    error: MlxdError


Message = Request | Response | Notification
