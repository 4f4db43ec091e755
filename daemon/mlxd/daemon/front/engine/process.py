"""One engine process and the socket to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from mlxd.daemon import lifeline
from mlxd.daemon.blas import find_blas, with_blas
from mlxd.daemon.isolation import python_command
from mlxd.daemon.stderr import open_for_append
from mlxd.protocol.codec import Decoder, Encoding, encode
from mlxd.protocol.messages import BadRequest, Message

LINK_BUFFER_BYTES = 1 << 20
STDERR_TAIL_BYTES = 4096
KILLED_GRACE_S = 10.0
POLL_S = 0.02
STDERR_MAX_BYTES = 1 << 20


def engine_command(options: Mapping[str, Any]) -> list[str]:
    """Return the engine's command line, without `--fd` and `--parent`.

    The environment variable MLXD_ENGINE_COMMAND (a JSON list) replaces it.
    """
    if replaced := os.environ.get("MLXD_ENGINE_COMMAND"):
        return [str(part) for part in json.loads(replaced)]
    return [*python_command("mlxd.daemon.engine"), "--options", json.dumps(options)]


def engine_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the engine's environment.

    MLX's Linux wheel contains the slow reference BLAS. A faster one is preloaded if installed.
    """
    env = with_blas(environ, find_blas())
    # Only hub workers use the network.
    env.setdefault("HF_HUB_OFFLINE", "1")
    env.setdefault("TOKENIZERS_PARALLELISM", "false")
    return env


class EngineLink(asyncio.Protocol):
    """One engine process. `received` is called with its messages, and `ended` once, at its end."""

    def __init__(
        self,
        command: list[str],
        stderr_path: Path,
        received: Callable[[EngineLink, Message], None],
        ended: Callable[[EngineLink], None],
    ) -> None:
        self._received = received
        self._ended = ended
        self._decoder = Decoder(trusted=True)
        self._transport: asyncio.Transport | None = None
        self._stderr_path = stderr_path
        self._errors = -1
        self.said_bye = False
        mine, theirs = socket.socketpair()
        for end in (mine, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, LINK_BUFFER_BYTES)
        self._socket = mine
        try:
            self.process = self._spawn(command, theirs)
            self._guard = self._guarded()
        except Exception:
            mine.close()
            self._close_errors()
            raise

    def _spawn(self, command: list[str], theirs: socket.socket) -> subprocess.Popen[bytes]:
        with theirs:
            errors = self._errors = open_for_append(self._stderr_path, STDERR_MAX_BYTES)
            self._errors_start = os.fstat(errors).st_size
            return subprocess.Popen(
                [*command, "--fd", str(theirs.fileno()), "--parent", str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=(theirs.fileno(),),
                env=engine_environment(os.environ),
                cwd="/",  # the folder in which the daemon was started may be gone
                start_new_session=True,
            )

    def _guarded(self) -> lifeline.Guard | None:
        try:
            return lifeline.guard(self.process.pid)
        except OSError:
            self.kill()
            raise

    def release(self) -> None:
        """Release what belongs to the process. Call it after the process has ended."""
        if self._guard is not None:
            self._guard.release()
            self._guard = None

    async def connect(self) -> None:
        """Attach the socket to the running loop."""
        self._socket.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self, sock=self._socket)

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, message: Message) -> None:
        """Write one message. Messages to a dead engine are dropped, and requests are resent."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode(message, Encoding.MSGPACK))

    def kill(self) -> None:
        """Kill the process. `ended` is called afterwards."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)

    def hang_up(self) -> None:
        """Close the link. The engine then finishes its step and exits."""
        if self._transport is not None:
            self._transport.close()

    def stderr_tail(self) -> str:
        """Return the end of the process's stderr. Call it once: it closes the file."""
        if self._errors < 0:
            return ""
        size = os.fstat(self._errors).st_size
        start = max(self._errors_start, size - STDERR_TAIL_BYTES)
        tail = os.pread(self._errors, max(0, size - start), start)
        self._close_errors()
        return tail.decode(errors="replace").strip()

    def _close_errors(self) -> None:
        errors, self._errors = self._errors, -1
        if errors >= 0:
            os.close(errors)

    # ---- called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._decoder.feed(data)
        for message in self._decoder:
            assert not isinstance(message, BadRequest)
            self._received(self, message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended(self)


async def wait_for_exit(process: subprocess.Popen[bytes], grace_s: float) -> int:
    """Wait for a process and return its exit status. Kill it after `grace_s`."""
    for _ in range(int(grace_s / POLL_S)):
        status = process.poll()
        if status is not None:
            return status
        await asyncio.sleep(POLL_S)
    process.kill()
    # Polled, because no thread may be left to wait. The kernel may keep a killed process for long
    # (a driver, a network file system), so this wait has an end too.
    for _ in range(int(KILLED_GRACE_S / POLL_S)):
        if (status := process.poll()) is not None:
            return status
        await asyncio.sleep(POLL_S)
    return -signal.SIGKILL


def describe_exit(status: int) -> str:
    """Return how a process ended, from its exit status."""
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = str(-status)
        return f"killed by {name}"
    return f"exit status {status}"
