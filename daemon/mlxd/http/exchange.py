"""One HTTP request and its answer, as handlers see them."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol
from urllib.parse import unquote

from mlxd.http.problems import BadRequest, BodyTooLarge, SlowSender, TooManyBodies

BODY_PAUSE_S = 20.0
"""Longest pause between two pieces of a request's body."""
BODY_TOTAL_S = 300.0
HIGH_WATER_BYTES = 1 << 18


class ClientGone(Exception):
    """The client closed the connection."""


@dataclass(frozen=True, slots=True)
class Head:
    """The first part of a request. Names of headers are in lower case, `path` is decoded."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: str = ""


class Output(Protocol):
    """Writes an answer to the connection."""

    def send_head(self, status: int, headers: Mapping[str, str]) -> None: ...

    def send_data(self, data: bytes) -> None: ...

    def send_end(self) -> None: ...

    async def drain(self) -> None: ...


class Budget:
    """The bytes that the bodies of all requests may hold in memory together."""

    def __init__(self, limit_bytes: int) -> None:
        self._left = limit_bytes

    def take(self, count: int) -> bool:
        """Reserve bytes. Return False if too few are left."""
        if count > self._left:
            return False
        self._left -= count
        return True

    def give_back(self, count: int) -> None:
        """Release bytes."""
        self._left += count


class Exchange:
    """Reads the body of one request and writes its answer."""

    def __init__(
        self, head: Head, output: Output, budget: Budget, resume: Callable[[], None]
    ) -> None:
        self.head = head
        self.started = False
        self._output = output
        self._budget = budget
        self._resume = resume
        self._more_headers: dict[str, str] = {}
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._whole = False
        self._gone = False
        self._news = asyncio.Event()

    # ---- from the connection

    def feed(self, data: bytes) -> bool:
        """Take a piece of the body. Return False if reading must pause."""
        self._pieces.append(data)
        self._news.set()
        return sum(map(len, self._pieces)) < HIGH_WATER_BYTES

    def feed_end(self) -> None:
        """Record that the body is complete."""
        self._whole = True
        self._news.set()

    def lose(self) -> None:
        """Record that the client closed the connection."""
        self._gone = True
        self._news.set()

    def release(self) -> None:
        """Release the memory of the body. Call it when the request has ended."""
        self._budget.give_back(self._held)
        self._held = 0

    # ---- for handlers

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Add headers to the answer. It must not have started."""
        self._more_headers.update(headers)

    async def body(self, limit_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            BodyTooLarge: it has more than `limit_bytes`.
            SlowSender: it did not arrive in time.
            TooManyBodies: the bodies of all requests need too much memory.
            ClientGone: the client closed the connection.
        """
        found: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_TOTAL_S):
                while (piece := await self._piece()) is not None:
                    found.append(self._kept(piece, limit_bytes))
        except TimeoutError:
            raise SlowSender("The request's body did not arrive in time.") from None
        self._resume()  # a connection that is not read does not tell when the client leaves
        return b"".join(found)

    def _kept(self, piece: bytes, limit_bytes: int) -> bytes:
        if self._held + len(piece) > limit_bytes:
            raise BodyTooLarge(f"The body is larger than {limit_bytes:,} bytes.")
        if not self._budget.take(len(piece)):
            raise TooManyBodies("Too many large requests arrive at the same time.")
        self._held += len(piece)
        return piece

    async def _piece(self) -> bytes | None:
        while not self._pieces:
            if self._gone:
                raise ClientGone
            if self._whole:
                return None
            self._news.clear()
            self._resume()
            async with asyncio.timeout(BODY_PAUSE_S):
                await self._news.wait()
        return self._pieces.popleft()

    async def json(self, limit_bytes: int) -> dict[str, Any]:
        """Return the body as a JSON object. An empty body is an empty object.

        Raises:
            BadRequest: it is not a JSON object.
        """
        return parse_json(await self.body(limit_bytes))

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status and the headers."""
        if self._gone:
            raise ClientGone
        self.started = True
        self._output.send_head(status, {**headers, **self._more_headers})

    async def write(self, data: bytes) -> None:
        """Send a piece of the answer. Waits while the client reads too slowly."""
        if self._gone:
            raise ClientGone
        self._output.send_data(data)
        await self._output.drain()

    async def finish(self) -> None:
        """End the answer."""
        if not self._gone:
            self._output.send_end()

    async def reply(
        self, status: int, data: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer."""
        await self.start(
            status,
            {"content-type": content_type, "content-length": str(len(data)), **(headers or {})},
        )
        if self.head.method != "HEAD":
            await self.write(data)
        await self.finish()

    async def reply_json(
        self, status: int, value: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole answer in JSON."""
        await self.reply(status, dump_json(value), "application/json", headers)


def head_of(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]) -> Head:
    """Return the head of a request. Repeated headers are joined with commas.

    Raises:
        BadRequest: the target is not a path.
    """
    raw_path, _, query = target.decode("ascii", "replace").partition("?")
    if not raw_path.startswith("/"):
        raise BadRequest(f"The request target {raw_path[:80]!r} is not a path.")
    joined: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("ascii").lower(), value.decode("latin-1")
        joined[key] = f"{joined[key]}, {text}" if key in joined else text
    return Head(method.decode("ascii"), unquote(raw_path), joined, query)


def parse_json(data: bytes) -> dict[str, Any]:
    """Return a JSON object. Raises BadRequest."""
    if not data.strip():
        return {}
    try:
        value = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"The body is not JSON: {exc}.") from None
    if not isinstance(value, dict):
        raise BadRequest("The body is not a JSON object.")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def dump_json(value: Any) -> bytes:
    """Return a value as JSON in ASCII.

    Clients split streams at line ends. Some of them also split at U+2028 and U+0085, which a
    JSON text may contain unless they are escaped.
    """
    return json.dumps(value, separators=(",", ":")).encode("ascii")
