"""The bridge's process: admits connections, and stops gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable

from mlxd.http import peers
from mlxd.http.connection import Handle, HttpConnection, Refusal
from mlxd.http.exchange import Budget
from mlxd.http.options import BODIES_IN_MEMORY, Options
from mlxd.safesocket import peercred

DRAIN_S = 10.0
"""Time for running requests when the bridge stops."""
BUSY = (503, "Too many connections are open. Try again in a moment.")
OTHER_USER = (403, "This server serves its own user only.")


class Server:
    """Accepts connections. `checks_uid`: refuse the TCP connections of other users."""

    def __init__(self, options: Options, handle: Handle, *, checks_uid: bool) -> None:
        self._options = options
        self._handle = handle
        self._checks_uid = checks_uid
        self._budget = Budget(options.max_body_bytes * BODIES_IN_MEMORY)
        self._open: set[HttpConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._none = asyncio.Event()

    async def start(self, sockets: list[socket.socket]) -> None:
        """Accept connections on the sockets."""
        loop = asyncio.get_running_loop()
        for one in sockets:
            make = loop.create_unix_server if one.family == socket.AF_UNIX else loop.create_server
            self._servers.append(await make(self._connection, sock=one))

    async def stop(self) -> None:
        """Accept no more, let running requests end, and close."""
        for server in self._servers:
            server.close()
        for connection in [*self._open]:
            connection.close_when_idle()
        if self._open:
            self._none.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none.wait(), DRAIN_S)
        for connection in [*self._open]:
            connection.close()

    def _connection(self) -> HttpConnection:
        return HttpConnection(self._handle, self._admit, self._lost, self._budget)

    def _admit(self, connection: HttpConnection) -> Refusal | None:
        if not self._is_own(connection.transport.get_extra_info("socket")):
            return OTHER_USER
        if len(self._open) >= self._options.max_connections and not self._close_idle():
            return BUSY
        self._open.add(connection)
        return None

    def _close_idle(self) -> bool:
        """Close the connection that has been idle longest. Return False if none is idle."""
        idle = [one for one in self._open if one.idle_since_s is not None]
        if not idle:
            return False
        oldest = min(idle, key=lambda one: one.idle_since_s or 0.0)
        self._open.discard(oldest)
        oldest.close()
        return True

    def _is_own(self, sock: socket.socket) -> bool:
        try:
            if sock.family == socket.AF_UNIX:
                return peers.is_own(peercred.peer_uid(sock))
            if not self._checks_uid:
                return True
            return peers.is_own(peers.peer_uid(sock.getpeername()[:2], sock.getsockname()[:2]))
        except OSError:
            return False  # it has closed already

    def _lost(self, connection: HttpConnection) -> None:
        self._open.discard(connection)
        if not self._open:
            self._none.set()


async def serve(server: Server, sockets: list[socket.socket], ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT. `ready` is called when connections are accepted."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await server.start(sockets)
    ready()
    await stopping.wait()
    # A second signal ends the process at once.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: os._exit(1))
    await server.stop()
