"""What both clients share: ids, requests as bytes, bytes as events and answers. Sans I/O."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.errors import (
    DaemonUnreachable,
    InvalidParams,
    MlxdError,
    ParseError,
    error_from_map,
)
from mlxd.protocol.framing import Limits
from mlxd.protocol.messages import BadRequest, Notification, Request, Response
from mlxd.protocol.paths import resolve_paths

Event = dict[str, Any]
Messages = list[dict[str, Any]]
ANSWER_MAX_BYTES = 1 << 30  # the daemon is trusted more than a caller is


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a request: `error` or `result`."""

    id: int
    result: Any = None
    error: MlxdError | None = None


@dataclass(frozen=True, slots=True)
class Streamed:
    """An event of a request that is being answered."""

    id: int
    event: Event


class Session:
    """One connection's conversation. `request` gives bytes to send; feed what comes back."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._decoder = Decoder(Limits(max_message_bytes=ANSWER_MAX_BYTES, max_depth=256))

    def request(self, method: str, params: dict[str, Any]) -> tuple[int, bytes]:
        """Return (id, bytes). Parameters that are None are left out.

        Raises:
            InvalidParams: a value does not fit into a message.
        """
        given = {name: value for name, value in params.items() if value is not None}
        request_id = next(self._ids)
        try:
            return request_id, encode(Request(request_id, method, given), Encoding.MSGPACK)
        except (OverflowError, RecursionError, TypeError, ValueError) as exc:
            raise InvalidParams(
                "", f"The parameters cannot be sent: {exc}.", hint="Integers have at most 64 bits."
            ) from exc

    def cancel(self, request_id: int) -> bytes:
        """Return bytes that stop a request; its answer is then the error `cancelled`."""
        return encode(Notification("cancel", {"id": request_id}), Encoding.MSGPACK)

    def feed(self, data: bytes) -> Iterator[Answer | Streamed]:
        """Yield what `data` completes.

        Raises:
            MlxdError: the daemon refused the connection, or speaks something else.
        """
        self._decoder.feed(data)
        for message in self._decoder:
            if isinstance(message, Response):
                error = error_from_map(message.error) if message.error is not None else None
                if message.id is None:
                    raise error or ParseError("The daemon answered a request that nobody made.")
                assert isinstance(message.id, int)
                yield Answer(message.id, message.result, error)
            elif isinstance(message, Notification) and message.method == "event":
                yield Streamed(message.params["id"], message.params)
            elif isinstance(message, BadRequest):
                raise message.error


def as_messages(prompt: str | Messages, system: str | None = None) -> Messages:
    """Return a conversation from a question, or from one already in that form."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return messages


def socket_path(path: str | os.PathLike[str] | None) -> Path:
    """Return the daemon's socket: the given one, or that of this environment."""
    return Path(path) if path is not None else resolve_paths().socket


def nobody(path: Path, exc: OSError | None = None) -> DaemonUnreachable:
    """Return the error for a socket where no daemon answers."""
    reason = "" if exc is None or isinstance(exc, FileNotFoundError) else f" ({exc.strerror})"
    return DaemonUnreachable(f"No daemon is running at {path}{reason}.", data={"socket": str(path)})


def too_large(refusal: ParseError, size: int) -> ParseError:
    """Return the refusal of a message of `size` bytes with both numbers, where size is why."""
    limit = refusal.data.get("max_message_bytes")
    if limit is None or size <= limit:
        return refusal
    return ParseError(
        f"The request has {size:,} bytes; the daemon accepts at most {limit:,}.",
        hint="Send less, or raise max_message_bytes in config.toml and restart: mlxd restart",
        data={**refusal.data, "bytes": size},
    )


def text_of(result: dict[str, Any]) -> str:
    """Return the text of a completion's first answer."""
    text: str = result["choices"][0]["text"]
    return text
