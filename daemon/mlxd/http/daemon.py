"""Connections to the daemon, which is started if none runs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mlxd.client.aio import AsyncClient
from mlxd.protocol.errors import DaemonUnreachable


class Daemon:
    """Opens one connection for each HTTP request.

    Closing it cancels the request, and the daemon shares its time fairly between connections.
    """

    def __init__(self, socket_path: Path | None = None) -> None:
        self._path = socket_path
        self._starting = asyncio.Lock()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncClient]:
        """Yield a connected client, and close it afterwards.

        Raises:
            DaemonUnreachable: no daemon runs and none could be started.
        """
        client = await self._connected()
        try:
            yield client
        finally:
            await client.aclose()

    async def _connected(self) -> AsyncClient:
        try:
            return await AsyncClient.connect(self._path, reconnect=False)
        except DaemonUnreachable:
            if os.environ.get("MLXD_AUTOSTART") == "0":
                raise
        async with self._starting:  # `mlxd start` does nothing if the request before started it
            await _start()
        return await AsyncClient.connect(self._path, reconnect=False)


async def _start() -> None:
    beside = Path(sys.executable).with_name("mlxd")
    command = [str(beside)] if beside.exists() else [sys.executable, "-I", "-m", "mlxd.daemon.cli"]
    process = await asyncio.create_subprocess_exec(
        *command,
        "start",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    if process.returncode:
        text = said.decode(errors="replace").strip().removeprefix("mlxd: ")
        raise DaemonUnreachable(
            f"mlxd could not be started: {text or f'exit status {process.returncode}'}",
            hint="Read its messages in the foreground: mlxd run",
        )
