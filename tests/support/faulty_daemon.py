"""A daemon on a real socket that follows a script: it disconnects, stays silent or answers late.

A script is a list of connections. Each connection is a list of steps:

    "read"           wait for the next request
    "answer"         answer the last request with `{"pong": true}`
    "event"          send a `delta` of the last request
    "half"           send the first half of an answer
    "garbage"        send bytes that are not a message
    "refuse"         refuse the connection, like a daemon with too many connections
    "deaf"           shut the reading side
    "wait"           until the client disconnects
    "go"             until the test calls `go`
    "serve"          answer every request until the client disconnects
    "close"          close the connection; also happens after the last step

After the last connection, no connection is accepted. As a program, it takes a path and the script
as JSON, for clients in other languages.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.errors import Overloaded
from mlxd.protocol.messages import Message, Notification, Request, Response
from support.waiting import until

Script = list[list[str]]
PATIENCE_S = 20.0


class FaultyDaemon:
    """Listens at `path`. `requests` are the received methods, `cancelled` the cancelled ids."""

    def __init__(self, path: str, script: Script) -> None:
        self.path = path
        self.requests: list[str] = []
        self.cancelled: list[Any] = []
        self.hung_up = 0
        self.next_step = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(8)
        self._thread = threading.Thread(target=self._run, args=(script,), daemon=True)
        self._thread.start()

    def go(self) -> None:
        """Continue after the step `go`."""
        self.next_step.set()

    def wait_cancelled(self) -> None:
        until(lambda: bool(self.cancelled), "no cancel received", PATIENCE_S)

    def wait_requests(self, count: int) -> None:
        until(lambda: len(self.requests) >= count, "too few requests received", PATIENCE_S)

    def join(self) -> None:
        """Wait until all steps are done."""
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._listener.close()
        self.go()

    def _run(self, script: Script) -> None:
        for number, steps in enumerate(script, 1):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed: the test is over
            if number == len(script):
                self._listener.close()
            with connection, contextlib.suppress(OSError):
                _Peer(self, connection).play(steps)
            self.hung_up += 1


class _Peer:
    def __init__(self, daemon: FaultyDaemon, connection: socket.socket) -> None:
        self.daemon = daemon
        self.connection = connection
        self.decoder = Decoder()
        self.waiting: list[Request] = []
        self.last: Any = None
        self.open = True

    def play(self, steps: list[str]) -> None:
        for step in steps:
            getattr(self, f"do_{step}")()

    def do_read(self) -> None:
        while not self.waiting and self.open:
            self._receive()
        if self.waiting:
            self.last = self.waiting.pop(0).id

    def do_answer(self) -> None:
        self._send(Response(self.last, None, {"pong": True}))

    def do_event(self) -> None:
        delta = {"type": "delta", "index": 0, "text": "on ", "channel": "answer"}
        self._send(Notification("event", {"id": self.last, **delta}))

    def do_half(self) -> None:
        data = encode(Response(self.last, None, {"pong": True}), Encoding.MSGPACK)
        self.connection.sendall(data[: len(data) // 2])

    def do_garbage(self) -> None:
        self.connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    def do_refuse(self) -> None:
        self._send(Response(None, Overloaded("Too many connections.").to_map(), None))

    def do_deaf(self) -> None:
        self.connection.shutdown(socket.SHUT_RD)

    def do_wait(self) -> None:
        while self.open:
            self._receive()

    def do_go(self) -> None:
        self.daemon.next_step.wait(PATIENCE_S)
        self.daemon.next_step.clear()

    def do_serve(self) -> None:
        while self.open:
            self.do_read()
            if self.open:
                self.do_answer()

    def do_close(self) -> None:
        self.connection.close()

    def _send(self, message: Message) -> None:
        self.connection.sendall(encode(message, Encoding.MSGPACK))

    def _receive(self) -> None:
        data = self.connection.recv(1 << 16)
        self.open = bool(data)
        self.decoder.feed(data)
        for message in self.decoder:
            if isinstance(message, Request):
                self.daemon.requests.append(message.method)
                self.waiting.append(message)
            elif isinstance(message, Notification) and message.method == "cancel":
                self.daemon.cancelled.append(message.params["id"])


@contextmanager
def faulty_daemon(*script: list[str]) -> Iterator[FaultyDaemon]:
    """Run a daemon that follows the script, with one list of steps per connection."""
    with tempfile.TemporaryDirectory(prefix="mlxd-") as folder:
        daemon = FaultyDaemon(str(Path(folder) / "s"), list(script))
        try:
            yield daemon
        finally:
            daemon.close()


if __name__ == "__main__":
    running = FaultyDaemon(sys.argv[1], json.loads(sys.argv[2]))
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "go":
            running.go()
        print(
            json.dumps({"requests": running.requests, "cancelled": running.cancelled}), flush=True
        )
