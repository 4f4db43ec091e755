"""Runs a real HTTP bridge, with a plain HTTP client for it."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mlxd.daemon.starter import READY_FD
from support.places import MLXD

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    data: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.data)

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events without a name; "[DONE]" as it is."""
        return list(sse_data(self.data))

    @property
    def named_events(self) -> list[tuple[str, Any]]:
        """Name and data of server-sent events with names."""
        return list(sse_named(self.data))

    @property
    def lines(self) -> list[Any]:
        """The values of a stream with one JSON object per line."""
        return [json.loads(line) for line in self.data.splitlines()]


def sse_data(data: bytes) -> Iterator[Any]:
    for block in data.decode().strip().split("\n\n"):
        assert block.startswith("data: "), block
        text = block.removeprefix("data: ")
        yield text if text == "[DONE]" else json.loads(text)


def sse_named(data: bytes) -> Iterator[tuple[str, Any]]:
    for block in data.decode().strip().split("\n\n"):
        first, second = block.split("\n")
        yield first.removeprefix("event: "), json.loads(second.removeprefix("data: "))


@dataclass
class Bridge:
    """One `mlxd http`."""

    process: subprocess.Popen[bytes]
    port: int
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self, address: str = "127.0.0.1") -> http.client.HTTPConnection:
        return http.client.HTTPConnection(address, self.port, timeout=TIMEOUT_S)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> Answer:
        """Send one request on a new connection and return the whole answer."""
        connection = self.connection(address)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {**self.headers, **(headers or {})})
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)


def has_ipv6() -> bool:
    """Return whether this machine has the address ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@contextmanager
def running_bridge(
    environ: Mapping[str, str], *arguments: str, wrapper: Sequence[str] = ()
) -> Iterator[Bridge]:
    """Run a bridge at a free port during a `with` block."""
    ready, tell = os.pipe()
    process = subprocess.Popen(
        [*wrapper, *MLXD, "http", "--port=0", *arguments],
        env={**environ, READY_FD: str(tell)},
        pass_fds=(tell,),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    os.close(tell)
    try:
        assert select.select([ready], [], [], TIMEOUT_S)[0], "the bridge is not ready"
        url = os.read(ready, 256).decode().strip()
        assert url, process.communicate()[1].decode()
        yield Bridge(process, int(url.rpartition(":")[2]))
    finally:
        os.close(ready)
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
