"""Runs a real engine process, and drives it over its link as the front does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlxd.daemon.blas import find_blas, with_blas
from mlxd.daemon.engine.options import EngineOptions
from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.messages import Notification, Request, Response
from mlxd.protocol.methods import validate
from support.places import compiled

ROOT = Path(__file__).resolve().parents[2]
POCKET = ROOT / "daemon" / "mlxd" / "daemon" / "models" / "pocket"


def engine_environment() -> dict[str, str]:
    """Return the environment in which the front starts the engine."""
    env = with_blas(os.environ, find_blas())
    roots = [str(ROOT / part) for part in ("protocol", "client", "daemon", "launchd")]
    env["PYTHONPATH"] = os.pathsep.join(roots)
    env["TMPDIR"] = str(compiled())
    return env


class EngineProcess:
    """Sends requests and waits for events. Every wait ends with an event or the socket timeout."""

    def __init__(
        self,
        options: EngineOptions | None = None,
        timeout_s: float = 60.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`environ` is added to the environment in which the front starts the engine."""
        mine, theirs = socket.socketpair()
        mine.settimeout(timeout_s)
        self.sock = mine
        with theirs:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "mlxd.daemon.engine",
                    "--fd", str(theirs.fileno()), "--parent", str(os.getpid()),
                    "--options", (options or EngineOptions()).to_json(),
                ],
                pass_fds=[theirs.fileno()],
                env={**engine_environment(), **(environ or {})},
                # As the front starts it: what the engine runs in idle time shares with it alone.
                start_new_session=True,
            )  # fmt: skip
        self._decoder = Decoder(trusted=True)
        self._messages: list[Any] = []
        self._next_id = 0
        self.notices: list[Notification] = []
        self.events: defaultdict[int, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        self.steps: list[list[Any]] = []

    def close(self) -> None:
        self.sock.close()
        try:
            self.process.wait(15)
        finally:
            self.process.kill()
            self.process.wait()

    # ---- requests

    def submit(
        self,
        method: str = "chat",
        *,
        model: dict[str, Any] | None = None,
        conn: int = 1,
        **params: Any,
    ) -> int:
        """Send a completion request and return its id. Greedy by default."""
        self._next_id += 1
        given = validate(method, {"temperature": 0.0, **params})
        self._send(
            Notification(
                "submit",
                {
                    "rid": self._next_id,
                    "method": method,
                    "params": given,
                    "model": model or {"name": "pocket", "path": str(POCKET)},
                    "conn": conn,
                    "priority": given["priority"],
                },
            )
        )
        return self._next_id

    def ask(self, text: str, **params: Any) -> dict[str, Any]:
        """Ask one question and return the result."""
        return self.result(self.submit(messages=[{"role": "user", "content": text}], **params))

    def cancel(self, request_id: int, code: str = "cancelled") -> None:
        self._send(Notification("cancel", {"rid": request_id, "code": code}))

    def call(self, method: str, **params: Any) -> Any:
        """Send a request and return its result. An error is returned as `{"error": …}`."""
        self._next_id += 1
        wanted = self._next_id
        self._send(Request(wanted, method, params))
        while True:
            message = self._next()
            if isinstance(message, Response) and message.id == wanted:
                return {"error": message.error} if message.error else message.result

    # ---- responses and events

    def result(self, request_id: int) -> dict[str, Any]:
        """Wait for the end of a request. An error is returned as `{"error": …}`."""
        while True:
            for kind, payload in self.events[request_id]:
                if kind == "end":
                    return payload
                if kind == "error":
                    return {"error": payload}
            self._next()

    def wait_event(self, request_id: int, kind: str) -> dict[str, Any]:
        """Wait until the request has an event of this type, and return the first."""
        while True:
            for found, payload in self.events[request_id]:
                if found == kind:
                    return payload
            self._next()

    def wait_notice(self, method: str) -> dict[str, Any]:
        """Wait for a notification such as `hello` or `bye`."""
        while True:
            for notice in self.notices:
                if notice.method == method:
                    return notice.params
            self._next()

    def text_of(self, request_id: int) -> str:
        """Return the answer text of the deltas received so far."""
        return "".join(
            payload["text"]
            for kind, payload in self.events[request_id]
            if kind == "delta" and payload["channel"] == "answer"
        )

    def _send(self, message: Any) -> None:
        self.sock.sendall(encode(message, Encoding.MSGPACK))

    def _next(self) -> Any:
        while not self._messages:
            data = self.sock.recv(1 << 18)
            if not data:
                raise EOFError("the engine has gone")
            self._decoder.feed(data)
            self._messages += list(self._decoder)
        message = self._messages.pop(0)
        if isinstance(message, Notification) and message.method == "step":
            self.steps.append(message.params["events"])
            for request_id, kind, payload in message.params["events"]:
                self.events[request_id].append((kind, payload))
        elif isinstance(message, Notification):
            self.notices.append(message)
        return message


@contextmanager
def running_engine(options: EngineOptions | None = None) -> Iterator[EngineProcess]:
    """Run a real engine during a `with` block."""
    engine = EngineProcess(options)
    try:
        yield engine
    finally:
        engine.close()
