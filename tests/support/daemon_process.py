"""Runs a real daemon in an isolated environment, with raw connections to it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlxd.daemon.starter import READY_FD, READY_WORD
from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.messages import Notification, Request, Response
from support.places import MLXD, own_environ
from support.waiting import until

FAKE_ENGINE = [sys.executable, str(Path(__file__).with_name("fake_engine.py"))]
TIMEOUT_S = 60.0


class Daemon:
    """One `mlxd run`. `environ` is its environment; `peer()` connects."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str], wrapper: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.wrapper = wrapper
        self.environ = {**own_environ(folder), **settings}
        self.socket_path = self.environ["MLXD_SOCKET"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, pass_fds: Sequence[int] = ()) -> None:
        """Start the daemon and wait until it accepts connections."""
        ready, tell = os.pipe()
        self.spawn([*self.wrapper, *MLXD, "run"], [tell, *pass_fds], **{READY_FD: str(tell)})
        os.close(tell)
        try:
            assert select.select([ready], [], [], TIMEOUT_S)[0], "the daemon is not ready"
            assert os.read(ready, 64) == READY_WORD
        finally:
            os.close(ready)

    def spawn(self, command: Sequence[str], pass_fds: Sequence[int] = (), **more: str) -> None:
        """Run a command that becomes the daemon."""
        self.process = subprocess.Popen(
            command,
            env={**self.environ, **more},
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
        )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)

    def peer(self, encoding: Encoding = Encoding.MSGPACK) -> Peer:
        return Peer(self.socket_path, encoding)

    def ask(self, method: str, **params: Any) -> Any:
        """Send one request on a new connection. An error is returned as `{"error": …}`."""
        with self.peer() as peer:
            return peer.call(method, **params)

    def engine_pid(self) -> int:
        """Return the process id of the engine, after starting it if necessary."""
        self.ask("load")
        pid: int = self.ask("status")["engine"]["pid"]
        return pid

    def wait_event(self, event: str, times: int = 1) -> None:
        """Wait until the log contains an event `count` times."""

        until(lambda: self.logged(event=event) >= times, f"{event!r} in the log", TIMEOUT_S)

    def logged(self, **fields: Any) -> int:
        """Return the number of log lines with these fields."""
        return sum(fields.items() <= line.items() for line in self.log_lines())

    def running(self) -> int:
        """Return the number of running requests."""
        number: int = self.ask("status")["requests"]["running"]
        return number

    def wait_idle(self) -> None:
        """Wait until no request is running or queued."""
        idle = {"running": 0, "queued": 0}
        until(lambda: self.ask("status")["requests"] == idle, "no request", TIMEOUT_S)

    def log_lines(self) -> list[dict[str, Any]]:
        text = (self.folder / "log" / "mlxd.log").read_text()
        return [json.loads(line) for line in text.splitlines()]


class Peer:
    """A caller that implements the protocol itself."""

    def __init__(self, path: str, encoding: Encoding = Encoding.MSGPACK) -> None:
        self.encoding = encoding
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        try:
            self.sock.connect(path)
        except OSError:
            self.sock.close()
            raise
        self._decoder = Decoder()
        self._messages: list[Any] = []
        self._next_id = 0
        self._responses: dict[Any, Response] = {}
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, method: str, **params: Any) -> int:
        """Send a request and return its id."""
        self._next_id += 1
        self.raw(encode(Request(self._next_id, method, params), self.encoding))
        return self._next_id

    def notify(self, method: str, **params: Any) -> None:
        self.raw(encode(Notification(method, params), self.encoding))

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, request_id: int | None) -> Any:
        """Wait for a response. An error is returned as `{"error": …}`.

        Keeps events, and responses to other requests that arrive first.
        """
        while request_id not in self._responses:
            self._keep(self.message())
        response = self._responses.pop(request_id)
        return {"error": response.error} if response.error else response.result

    def _keep(self, message: Any) -> None:
        if isinstance(message, Response):
            self._responses[message.id] = message

    def call(self, method: str, **params: Any) -> Any:
        return self.answer(self.send(method, **params))

    def wait_event(self, kind: str) -> dict[str, Any]:
        """Wait for the next unread event of this type."""
        while True:
            message = self.message()
            if isinstance(message, Notification) and message.params["type"] == kind:
                return message.params
            self._keep(message)

    def message(self) -> Any:
        """Return the next message. Raises EOFError if the daemon closed the connection."""
        while not self._messages:
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError
            self._decoder.feed(data)
            self._messages += list(self._decoder)
        message = self._messages.pop(0)
        if isinstance(message, Notification):
            self.events.append(message.params)
        return message


@contextmanager
def running_daemon(
    folder: Path | None = None, wrapper: Sequence[str] = (), /, **settings: str
) -> Iterator[Daemon]:
    """Run a daemon during a `with` block. `settings` are environment variables.

    `wrapper` is a command prefix. It must keep the process id.
    """
    with tempfile.TemporaryDirectory(prefix="mlxd-") as temporary:
        daemon = Daemon(folder or Path(temporary), settings, wrapper)
        try:
            daemon.start()
            yield daemon
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.stop()
        finally:
            if daemon.process is not None and daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()


def fake_engine_settings(script: str = "") -> dict[str, str]:
    """Return the settings of a daemon whose engine is `fake_engine.py`."""
    command = json.dumps([*FAKE_ENGINE, "--script", script])
    return {"MLXD_ENGINE_COMMAND": command, "MLXD_PRELOAD": "false"}


@contextmanager
def daemon_with_fake_engine(
    script: str = "", wrapper: Sequence[str] = (), /, **settings: str
) -> Iterator[Daemon]:
    """Run a daemon whose engine is `fake_engine.py`, which follows `script`."""
    settings = {**fake_engine_settings(script), **settings}
    with running_daemon(None, wrapper, **settings) as daemon:
        yield daemon


def open_files(pid: int) -> int:
    """Return the number of open file descriptors of a process, or 0 if it is unknown."""
    folder = Path(f"/proc/{pid}/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def user(text: str) -> list[dict[str, str]]:
    """Return a conversation with one question."""
    return [{"role": "user", "content": text}]
