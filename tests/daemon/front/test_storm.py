"""Arbitrary bytes over the socket: the daemon survives and serves other connections."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxd.protocol.methods import METHODS
from support.daemon_process import Daemon, daemon_with_fake_engine, open_files, user
from support.waiting import until

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
VALUES = st.recursive(
    SCALARS | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# Without shutdown, which ends the daemon, and `models.*`, which may use the network.
NAMES = st.sampled_from(
    sorted(name for name in METHODS if name != "shutdown" and not name.startswith("models."))
)
REQUESTS = st.tuples(st.just(0), st.integers(0, 5), NAMES | st.text(), VALUES)
PACKED = (REQUESTS | VALUES).map(lambda value: msgpack.packb(value, unicode_errors="surrogatepass"))
LINES = VALUES.filter(lambda value: b"bytes" not in repr(type(value)).encode()).map(
    lambda value: json.dumps(value, default=repr).encode() + b"\n"
)
STORM = st.lists(PACKED | LINES | st.binary(max_size=60), max_size=6).map(b"".join)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with daemon_with_fake_engine(MLXD_MESSAGE_TIMEOUT_S="0.2") as running:
        yield running


def test_the_daemon_survives_arbitrary_input(daemon: Daemon) -> None:
    assert daemon.process is not None
    pid = daemon.process.pid
    # Opened once and kept: the engine's link and the database.
    daemon.ask("chat", messages=user("hello"), conversation="new")
    daemon.ask("conversations.list")
    before = open_files(pid)
    with daemon.peer() as bystander:

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(STORM)
        def storm(data: bytes) -> None:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(daemon.socket_path)
                reader = threading.Thread(target=drain, args=(sock,))
                reader.start()
                try:
                    sock.sendall(data)
                    sock.shutdown(socket.SHUT_WR)
                except (BrokenPipeError, ConnectionResetError, OSError):
                    pass  # the daemon may disconnect at any point
                reader.join(30)
                assert not reader.is_alive(), "neither answered nor disconnected"
            assert bystander.call("ping")["pong"]

        storm()
    until(lambda: daemon.ask("status")["connections"] == 1, "all connections are closed")
    assert open_files(pid) <= before + 2
    assert daemon.process.poll() is None
    assert not [line for line in daemon.log_lines() if line["event"] == "unexpected"]


def drain(sock: socket.socket) -> None:
    """Read until the daemon closes the connection."""
    try:
        while sock.recv(1 << 16):
            pass
    except OSError:
        return
