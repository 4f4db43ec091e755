"""The blocking client.

with Client() as client:
    print(text_of(client.chat("Count from 3 to 7.", temperature=0)))
    for event in (stream := client.stream("chat", messages=[...])):
        ...
    stream.result
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator
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
    too_large,
)
from mlxd.protocol.errors import DaemonUnreachable, EngineDied, ParseError, PermissionDenied

CONNECT_TRIES = 5
CONNECT_PAUSE_S = 0.05
READ_BYTES = 1 << 16

Path = str | os.PathLike[str] | None


class Stream(Iterator[Event]):
    """Events of one request; after the last one `result` is there. Leaving early cancels."""

    def __init__(self, client: Client, request_id: int) -> None:
        self._client = client
        self._id = request_id
        self._events: deque[Event] = deque()
        self._answer: Answer | None = None

    @property
    def result(self) -> Any:
        """The whole result. Reads what is left of the events, and raises the request's error."""
        for _ in self:
            pass
        assert self._answer is not None
        return self._answer.result

    def __next__(self) -> Event:
        while not self._events:
            if self._answer is not None:
                if self._answer.error is not None:
                    raise self._answer.error
                raise StopIteration
            self._client._read(self._id)
        return self._events.popleft()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the request if it is still being answered."""
        if self._answer is None:
            self._client._cancel(self._id)

    def _take(self, item: Answer | Streamed) -> None:
        if isinstance(item, Answer):
            self._answer = item
        else:
            self._events.append(item.event)


class Client:
    """One connection to the daemon; requests one after the other or several at once.

    `timeout_s` bounds every wait for the next bytes; None waits for ever.

    Raises:
        DaemonUnreachable: nobody listens at the socket.
    """

    def __init__(self, path: Path = None, *, timeout_s: float | None = None) -> None:
        self._path = socket_path(path)
        self._timeout_s = timeout_s
        self._session = Session()
        self._streams: dict[int, Stream] = {}
        self._socket = self._connect()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; the daemon stops what this connection still had in flight."""
        self._socket.close()

    def request(self, method: str, /, **params: Any) -> Any:
        """Ask and wait for the result; raises the error that is answered."""
        return self._send(method, params).result

    def stream(self, method: str, /, **params: Any) -> Stream:
        """Ask and return the events as they come."""
        return self._send(method, {**params, "stream": True})

    def chat(self, messages: str | Messages, *, system: str | None = None, **params: Any) -> Any:
        """Answer a question or a conversation; returns the completion."""
        return self.request("chat", messages=as_messages(messages, system), **params)

    def generate(self, prompt: str | list[int], **params: Any) -> Any:
        """Continue text or tokens, without a template."""
        return self.request("generate", prompt=prompt, **params)

    def fill(self, prefix: str, suffix: str = "", **params: Any) -> Any:
        """Write what belongs between `prefix` and `suffix`."""
        return self.request("fill", prefix=prefix, suffix=suffix, **params)

    def tokenize(self, text: str, **params: Any) -> list[int]:
        """Return the tokens of a text."""
        tokens: list[int] = self.request("tokenize", text=text, **params)["tokens"]
        return tokens

    def detokenize(self, tokens: list[int], **params: Any) -> str:
        """Return the text of tokens."""
        text: str = self.request("detokenize", tokens=tokens, **params)["text"]
        return text

    def load(self, model: str | None = None, **params: Any) -> Any:
        """Load a model and keep it warm."""
        return self.request("load", model=model, **params)

    def unload(self, model: str | None = None) -> Any:
        """Free a model's memory."""
        return self.request("unload", model=model)

    def ps(self) -> list[dict[str, Any]]:
        """Return the resident models."""
        models: list[dict[str, Any]] = self.request("ps")["models"]
        return models

    def ping(self) -> bool:
        """Return True, or raise."""
        return bool(self.request("ping")["pong"])

    def status(self) -> dict[str, Any]:
        """Return the daemon's state."""
        status: dict[str, Any] = self.request("status")
        return status

    # ---- the socket

    def _connect(self) -> socket.socket:
        for left in reversed(range(CONNECT_TRIES)):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(self._timeout_s)
            try:
                connection.connect(str(self._path))
                check_daemon(connection, self._path)
                return connection
            except PermissionDenied:
                connection.close()
                raise
            except ConnectionRefusedError as exc:
                connection.close()
                # macOS answers so as well when the listener's queue is full.
                if not left:
                    raise nobody(self._path) from exc
                time.sleep(CONNECT_PAUSE_S)
            except OSError as exc:
                connection.close()
                raise nobody(self._path, exc) from exc
        raise AssertionError("unreachable")

    def _send(self, method: str, params: dict[str, Any]) -> Stream:
        request_id, data = self._session.request(method, params)
        stream = self._streams[request_id] = Stream(self, request_id)
        try:
            self._socket.sendall(data)
        except OSError as exc:
            self._refused(len(data))
            raise nobody(self._path, exc) from exc
        return stream

    def _refused(self, size: int) -> None:
        """Raise what the daemon said before it hung up on a message of `size` bytes, if anything.

        Raises:
            ParseError: the message is larger than the daemon's limit.
        """
        try:
            while data := self._socket.recv(READ_BYTES):
                for _ in self._session.feed(data):
                    pass
        except OSError:
            return
        except ParseError as exc:
            raise too_large(exc, size) from exc

    def _cancel(self, request_id: int) -> None:
        self._streams.pop(request_id, None)
        try:
            self._socket.sendall(self._session.cancel(request_id))
        except OSError:
            return  # a connection that is gone has cancelled everything already

    def _read(self, request_id: int) -> None:
        """Read once and hand what came to the streams it belongs to."""
        try:
            data = self._socket.recv(READ_BYTES)
        except TimeoutError as exc:
            self._cancel(request_id)
            raise DaemonUnreachable(
                f"The daemon at {self._path} said nothing for {self._timeout_s:g} s.",
                hint="See what it does: mlxd status, mlxd logs -n 50",
            ) from exc
        except OSError as exc:
            raise nobody(self._path, exc) from exc
        if not data:
            raise EngineDied("The daemon went away before the answer was complete.")
        for item in self._session.feed(data):
            stream = self._streams.get(item.id)
            if stream is not None:
                stream._take(item)
            if isinstance(item, Answer):
                self._streams.pop(item.id, None)
