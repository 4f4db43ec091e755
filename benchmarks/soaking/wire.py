"""A caller's connection. It uses either encoding and enters every answer into the ledger."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.errors import MlxdError
from mlxd.protocol.messages import Notification, Request, Response
from soaking.ledger import ANSWER, HUNG_UP, LOST, Entry, Ledger

READ_BYTES = 1 << 16
SLOW_READ_BYTES = 1024
SLOW_PAUSE_S = 0.05
NEVER_S = 600.0
"""A request that takes longer counts as lost."""


@dataclass(slots=True)
class Call:
    """A pending request. `answer` is its result, or its error as `{"error": …}`."""

    entry: Entry
    id: int
    params: dict[str, Any]
    answer: asyncio.Future[dict[str, Any]]
    texts: defaultdict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def streamed(self, index: int) -> str:
        return "".join(self.texts[index])


class Wire:
    """One connection. If `slow`, it reads a kilobyte at a time with pauses."""

    def __init__(self, ledger: Ledger, encoding: Encoding, *, slow: bool = False) -> None:
        self._ledger = ledger
        self._encoding = encoding
        self._slow = slow
        self._ids = itertools.count(1)
        self._calls: dict[int, Call] = {}
        self._names: dict[Any, Call] = {}
        self._ended: set[int] = set()
        self._hung_up = False
        self._lost = False

    async def connect(self, path: str) -> None:
        """Connect. Raises OSError if no daemon listens."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            if self._slow:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, path)
        except OSError:
            sock.close()
            raise
        limit = SLOW_READ_BYTES if self._slow else READ_BYTES
        self._reader, self._writer = await asyncio.open_unix_connection(sock=sock, limit=limit)
        self._task = asyncio.create_task(self._read())

    # ---- sending

    def send(self, method: str, *allowed: str, **params: Any) -> Call:
        """Send a request. `allowed` are the error codes that count as expected."""
        entry = self._ledger.begin(method, *allowed)
        future = asyncio.get_running_loop().create_future()
        call = Call(entry, next(self._ids), params, future)
        self._calls[call.id] = call
        if params.get("stream"):
            self._names[params.get("tag", call.id)] = call
        self._write(Request(call.id, method, params))
        if self._lost:
            # The connection was lost before the send, so this request has no answer either.
            self._lose()
        return call

    def notify(self, method: str, **params: Any) -> None:
        self._write(Notification(method, params))

    async def result(self, call: Call) -> dict[str, Any]:
        """Wait for the end of a request. Raises ConnectionError if it lost its connection."""
        try:
            return await asyncio.wait_for(asyncio.shield(call.answer), NEVER_S)
        except TimeoutError:
            self._ledger.violate(f"{call.entry} was never answered")
            raise ConnectionError from None

    def send_eof(self) -> None:
        """Shut down the writing side, and keep reading."""
        self._writer.write_eof()

    def abort(self) -> None:
        """Close the connection while requests are pending."""
        self._hung_up = True
        self._writer.transport.abort()

    async def close(self) -> None:
        self._hung_up = True
        self._writer.close()
        await self._task

    # ---- receiving

    def _write(self, message: Any) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(message, self._encoding))

    async def _read(self) -> None:
        decoder = Decoder()
        try:
            while data := await self._reader.read(SLOW_READ_BYTES if self._slow else READ_BYTES):
                decoder.feed(data)
                for message in decoder:
                    self._take(message)
                if self._slow:
                    await asyncio.sleep(SLOW_PAUSE_S)
        except OSError:
            pass
        except MlxdError as error:
            self._ledger.violate(f"the daemon sent an invalid message: {error}")
        self._lose()

    def _lose(self) -> None:
        """Close all pending entries, because the connection is lost."""
        self._lost = True
        for call in self._calls.values():
            self._ledger.end(call.entry, HUNG_UP if self._hung_up else LOST)
            call.answer.set_exception(ConnectionError())
            call.answer.exception()  # no caller may be waiting for it
            call.begun.set()
        self._calls.clear()
        self._writer.close()

    def _take(self, message: Any) -> None:
        if isinstance(message, Response):
            self._answered(message)
        elif isinstance(message, Notification) and message.method == "event":
            self._event(message.params)
        else:
            self._ledger.violate(f"the daemon sent {type(message).__name__}")

    def _answered(self, response: Response) -> None:
        call = self._calls.pop(response.id, None) if isinstance(response.id, int) else None
        if call is None:
            twice = response.id in self._ended
            what = "a second answer" if twice else "an answer to nothing"
            self._ledger.violate(f"{what}: id {response.id!r}, error {response.error!r}")
            return
        self._ended.add(call.id)
        error = response.error
        if error is None:
            self._ledger.end(call.entry, ANSWER)
        else:
            self._ledger.end(call.entry, error["code"], error["message"])
        call.answer.set_result(response.result if error is None else {"error": error})
        call.begun.set()

    def _event(self, event: dict[str, Any]) -> None:
        call = self._names.get(event["id"])
        if call is None or call.answer.done():
            self._ledger.violate(f"an event after its answer: {event['type']}")
            return
        if event["type"] == "delta":
            call.begun.set()
            if event["channel"] == "answer":
                call.texts[event["index"]].append(event["text"])
