"""The client for asyncio: many requests in flight on one connection.

async with await AsyncClient.connect() as client:
    result = await client.chat("Count from 3 to 7.", temperature=0)
    async for event in client.stream("chat", messages=[...]):
        ...
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from mlxd.client.peers import check_daemon
from mlxd.client.session import (
    Answer,
    Event,
    Messages,
    Session,
    Streamed,
    as_messages,
    nobody,
    socket_path,
)
from mlxd.client.sync import READ_BYTES, Path
from mlxd.protocol.errors import EngineDied, MlxdError, PermissionDenied


class AsyncStream(AsyncIterator[Event]):
    """Events of one request. `result()` waits for the end; `aclose()` stops the request."""

    def __init__(self, client: AsyncClient, request_id: int) -> None:
        self._client = client
        self._id = request_id
        self._items: asyncio.Queue[Answer | Streamed | MlxdError] = asyncio.Queue()
        self._answer: Answer | None = None

    async def __anext__(self) -> Event:
        if self._answer is not None:
            raise StopAsyncIteration
        item = await self._items.get()
        if isinstance(item, Streamed):
            return item.event
        if isinstance(item, Answer):
            self._answer = item
            if item.error is None:
                raise StopAsyncIteration
            raise item.error
        raise item

    async def result(self) -> Any:
        """Return the whole result, skipping events that nobody read."""
        async for _ in self:
            pass
        assert self._answer is not None
        if self._answer.error is not None:
            raise self._answer.error
        return self._answer.result

    async def aclose(self) -> None:
        """Stop the request if it is still being answered."""
        if self._answer is None:
            await self._client._cancel(self._id)


class AsyncClient:
    """One connection. Make it with `connect`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._session = Session()
        self._streams: dict[int, AsyncStream] = {}
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, path: Path = None) -> AsyncClient:
        """Connect to the daemon.

        Raises:
            DaemonUnreachable: nobody listens.
            PermissionDenied: a program of another user does.
        """
        where = socket_path(path)
        try:
            reader, writer = await asyncio.open_unix_connection(str(where))
        except OSError as exc:
            raise nobody(where, exc) from exc
        try:
            check_daemon(writer.get_extra_info("socket"), where)
        except PermissionDenied:
            writer.close()
            raise
        return cls(reader, writer)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hang up; the daemon stops what this connection still had in flight."""
        self._task.cancel()
        self._writer.close()

    async def request(self, method: str, /, **params: Any) -> Any:
        """Ask and wait for the result. A caller that is cancelled cancels the request."""
        stream = self._send(method, params)
        try:
            return await stream.result()
        except asyncio.CancelledError:
            await stream.aclose()
            raise

    def stream(self, method: str, /, **params: Any) -> AsyncStream:
        """Ask and return the events as they come."""
        return self._send(method, {**params, "stream": True})

    async def chat(
        self, messages: str | Messages, *, system: str | None = None, **params: Any
    ) -> Any:
        """Answer a question or a conversation; returns the completion."""
        return await self.request("chat", messages=as_messages(messages, system), **params)

    async def generate(self, prompt: str | list[int], **params: Any) -> Any:
        """Continue text or tokens, without a template."""
        return await self.request("generate", prompt=prompt, **params)

    async def fill(self, prefix: str, suffix: str = "", **params: Any) -> Any:
        """Write what belongs between `prefix` and `suffix`."""
        return await self.request("fill", prefix=prefix, suffix=suffix, **params)

    def _send(self, method: str, params: dict[str, Any]) -> AsyncStream:
        request_id, data = self._session.request(method, params)
        stream = self._streams[request_id] = AsyncStream(self, request_id)
        self._writer.write(data)
        return stream

    async def _cancel(self, request_id: int) -> None:
        self._streams.pop(request_id, None)
        if not self._writer.is_closing():
            self._writer.write(self._session.cancel(request_id))

    async def _read(self) -> None:
        error: MlxdError = EngineDied("The daemon went away before the answer was complete.")
        try:
            while data := await self._reader.read(READ_BYTES):
                for item in self._session.feed(data):
                    if (stream := self._streams.get(item.id)) is not None:
                        stream._items.put_nowait(item)
                    if isinstance(item, Answer):
                        self._streams.pop(item.id, None)
        except OSError:
            pass
        except MlxdError as refused:
            error = refused
        for stream in self._streams.values():
            stream._items.put_nowait(error)
