"""Accepts connections on the listening sockets, and restores a socket that was removed."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from typing import Any

from mlxd.daemon.front.log import Log
from mlxd.daemon.front.server import listener
from mlxd.daemon.front.server.listener import Listener
from mlxd.protocol.errors import PermissionDenied
from mlxd.protocol.paths import Paths
from mlxd.safesocket.folder import NoSocketFolder


class Accepting:
    """The listening sockets. `listener` changes when `keep` has to restore it."""

    def __init__(self, opened: Listener, paths: Paths, log: Log) -> None:
        self.listener = opened
        self._paths = paths
        self._log = log
        self._servers: list[asyncio.AbstractServer] = []
        self._problem = ""

    def adopted(self) -> bool:
        """Whether launchd or systemd owns the sockets."""
        return self.listener.adopted

    async def start(self, connection: Callable[[], asyncio.BufferedProtocol]) -> None:
        """Accept connections. `connection` creates the protocol of each."""
        extra: dict[str, Any] = {}
        if sys.version_info >= (3, 13):
            extra["cleanup_socket"] = False
        loop = asyncio.get_running_loop()
        for sock in self.listener.sockets:
            # A copy, because asyncio closes the socket that it gets, and a successor may need it.
            server = await loop.create_unix_server(
                connection, sock=sock.dup(), backlog=listener.ACCEPT_BURST, **extra
            )
            sock.listen(listener.BACKLOG)  # asyncio has set the kernel's queue to the burst
            self._servers.append(server)

    def stop(self, *, keep_sockets: bool) -> None:
        """Stop accepting. With `keep_sockets`, callers wait in the queue for the successor."""
        for server in self._servers:
            server.close()
        # Callers that connect now must be refused, because nothing will accept them.
        if not keep_sockets:
            for sock in self.listener.sockets:
                sock.close()

    async def keep(self, connection: Callable[[], asyncio.BufferedProtocol]) -> bool:
        """Restore the socket if its file was removed. Return False if another daemon has its
        path."""
        before, problem = self.listener, ""
        try:
            self.listener = listener.restored(before, self._paths)
        except (listener.AlreadyRunning, listener.SocketLost) as error:
            self._log("unreachable", level="error", message=error.message)
            return False
        except (OSError, PermissionDenied, NoSocketFolder) as exc:
            problem = str(exc)
        if self.listener is not before:
            await self._replace(before, connection)
        if problem and problem != self._problem:
            self._log("socket gone", level="error", message=problem)
        self._problem = problem
        return True

    async def _replace(
        self, before: Listener, connection: Callable[[], asyncio.BufferedProtocol]
    ) -> None:
        self._log("socket restored", level="warning", socket=str(self._paths.socket))
        if before.sockets != self.listener.sockets:
            for server in self._servers:
                server.close()
            for sock in before.sockets:
                sock.close()
            self._servers.clear()
            await self.start(connection)
        if before.lock_descriptor != self.listener.lock_descriptor:
            os.close(before.lock_descriptor)
