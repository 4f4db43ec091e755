"""Requests to mlxd's socket, and to servers with OpenAI's API."""

from __future__ import annotations

import json
import re
import socket
from typing import Any

import msgpack

from suite.traffic import Call

USAGE = re.compile(rb'"completion_tokens": ?(\d+)')


class MlxdCall(Call):
    """A streaming `generate` request in MessagePack."""

    def __init__(self, path: str, prompt: str, max_tokens: int, **params: Any) -> None:
        super().__init__()
        self._path = path
        self._params = {
            "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0,
            "ignore_eos": True, "stream": True, **params,
        }  # fmt: skip
        self._method = "chat" if "messages" in params else "generate"
        if self._method == "chat":
            del self._params["prompt"]
        self._unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
        self.result: dict[str, Any] = {}
        self.events: list[tuple[float, dict[str, Any]]] = []
        """All events except deltas, with their times."""
        self.bytes_read = 0
        self.messages_read = 0

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self._path)
        return sock

    def request(self) -> bytes:
        packed: bytes = msgpack.packb([0, 1, self._method, [self._params]])
        return packed

    def cancel(self) -> None:
        assert self.sock is not None
        self.sock.sendall(msgpack.packb([2, "cancel", [{"id": 1}]]))

    def feed(self, data: bytes, now_s: float) -> None:
        self.bytes_read += len(data)
        self._unpacker.feed(data)
        for message in self._unpacker:
            self.messages_read += 1
            if message[0] == 2:
                if message[2][0].get("type") == "delta":
                    self.trace.arrivals_s.append(now_s)
                else:
                    self.events.append((now_s, message[2][0]))
            elif message[0] == 1 and message[1] == 1:
                self._ended(message[2], message[3])

    def saw(self, kind: str) -> list[float]:
        """Return the times of events of this type."""
        return [now_s for now_s, event in self.events if event["type"] == kind]

    def _ended(self, error: dict[str, Any] | None, result: Any) -> None:
        self.done = True
        if error is not None:
            self.trace.error = f"{error['code']}: {error['message']}"
        else:
            self.result = result
            self.trace.tokens = result["usage"]["completion_tokens"]


class OpenAiCall(Call):
    """A streaming completion over HTTP, like curl's."""

    def __init__(self, port: int, prompt: str, max_tokens: int, **body: Any) -> None:
        super().__init__()
        self._port = port
        self._body = {
            "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.0, "stream": True,
            "stream_options": {"include_usage": True}, **body,
        }  # fmt: skip
        self._tail = b""
        self._headers = True
        self.pieces: list[str] = []

    def connect(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self._port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def request(self) -> bytes:
        body = json.dumps(self._body).encode()
        path = "/v1/chat/completions" if "messages" in self._body else "/v1/completions"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def feed(self, data: bytes, now_s: float) -> None:
        lines = (self._tail + data).split(b"\n")
        self._tail = lines.pop()
        for line in lines:
            if self._headers and line.startswith(b"HTTP/"):
                self._headers = False
                if b" 200 " not in line:
                    self.trace.error = line.decode(errors="replace").strip()
            elif line.startswith(b"data: "):
                self._event(line, now_s)

    def _event(self, line: bytes, now_s: float) -> None:
        if line.startswith(b"data: [DONE]"):
            self.done = True
            self.trace.tokens = self.trace.tokens or len(self.trace.arrivals_s)
        elif (found := USAGE.search(line)) and b'"choices": []' in line:
            self.trace.tokens = int(found[1])
        elif b'"finish_reason": null' in line or b'"finish_reason":null' in line:
            self.trace.arrivals_s.append(now_s)
            if "messages" in self._body:
                choice = json.loads(line[6:])["choices"][0]
                self.pieces.append(choice["delta"].get("content") or "")
