"""The interface of all contenders."""

from __future__ import annotations

import socket
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from suite.machine import resident_bytes
from suite.recipes import Model
from suite.traffic import Call, Trace, drive

START_PATIENCE_S = 180.0
LLAMA_CONTEXT = 16_384


class Contender(ABC):
    """Keeps one model loaded during a `with` block."""

    name = ""
    streams = 1_000
    """Maximum number of concurrent answers."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.process: subprocess.Popen[Any] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Start, and return when it answers."""

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    @abstractmethod
    def run(self, prompts: list[str], max_tokens: int) -> list[Trace]:
        """Answer all prompts concurrently."""

    def memory(self) -> dict[str, int]:
        """Return the memory in bytes of each process, by name."""
        assert self.process is not None
        return {self.name: resident_bytes(self.process.pid)}


class SocketContender(Contender):
    """A server that answers calls over a socket."""

    @abstractmethod
    def call(self, prompt: str, max_tokens: int, **params: Any) -> Call:
        """Return a request that has not been sent yet."""

    def run(self, prompts: list[str], max_tokens: int) -> list[Trace]:
        return drive([self.call(prompt, max_tokens) for prompt in prompts])


class HttpContender(SocketContender):
    """A server on a TCP port of the loopback interface."""

    port = 0

    def launch(self, command: list[str], env: dict[str, str], log: Path) -> None:
        """Start the server and wait until it listens."""
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        limit_s = time.monotonic() + START_PATIENCE_S
        while True:
            if self.process.poll() is not None or time.monotonic() > limit_s:
                raise RuntimeError(f"{self.name} did not start: {log.read_text()[-500:]}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
