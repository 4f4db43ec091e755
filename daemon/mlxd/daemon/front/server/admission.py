"""Admits connections, and closes those that are dead or hold too much incomplete data."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable

from mlxd.daemon.config import Config
from mlxd.daemon.front.log import Log
from mlxd.daemon.front.server import listener
from mlxd.daemon.front.server.connection import (
    REFUSED_AT_ONCE,
    Connection,
    Handle,
    connections_that_fit,
)
from mlxd.daemon.front.server.turns import Turns
from mlxd.protocol.codec import Limits
from mlxd.protocol.errors import MlxdError, Overloaded, PermissionDenied

SWEEP_S = 0.25
"""Seconds between two checks of half-closed connections and incomplete messages."""

HALF_SENT_MESSAGES = 8
"""Memory for incomplete messages of all callers, in messages of the largest size."""

READ_BYTES = 256 * 1024
"""Bytes that one read may bring. All connections receive into the same buffer of this size."""

PARTING_S = 2.0
"""Seconds that callers have to read their last answers when the daemon stops."""


class Connections:
    """The open connections, and their limit."""

    def __init__(self, configured: int) -> None:
        self.configured = configured
        self.limit = configured
        """Lower than `configured` if the system allows few open files."""
        self.open: set[Connection] = set()
        self._none = asyncio.Event()

    def __len__(self) -> int:
        return len(self.open)

    def fit(self) -> None:
        """Lower the limit if the system's limit on open files requires it."""
        self.limit = connections_that_fit(self.configured)

    def discard(self, conn: Connection) -> None:
        """Remove a connection that is closed."""
        self.open.discard(conn)
        if not self.open:
            self._none.set()

    async def close(self) -> None:
        """Close every connection once its caller has read the last answer."""
        if not self.open:
            return
        self._none.clear()
        for conn in list(self.open):
            conn.close()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._none.wait(), PARTING_S)


class Admission:
    """Creates a `Connection` per caller, and decides whether it is served.

    `adopted` states whether launchd or systemd owns the listening socket.
    """

    def __init__(
        self,
        connections: Connections,
        config: Config,
        *,
        adopted: Callable[[], bool],
        handle: Handle,
        log: Log,
    ) -> None:
        self._connections = connections
        self._max_message_bytes = config.max_message_bytes
        self._message_timeout_s = config.message_timeout_s
        self._limits = Limits(config.max_message_bytes, config.max_depth)
        self._adopted = adopted
        self._handle = handle
        self._log = log
        self._serials = itertools.count(1)
        self._refused: set[Connection] = set()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._turns = Turns()
        self._sweeping: asyncio.TimerHandle | None = None

    def connection(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(
            next(self._serials),
            self._limits,
            self._handle,
            self._opened,
            self._lost,
            self._sweep_later,
            self._buffer,
            self._turns,
        )

    def _opened(self, conn: Connection) -> bool:
        uid = listener.uid_of(conn.socket)
        error: MlxdError | None = None
        if not listener.peer_allowed(uid, adopted=self._adopted()):
            error = PermissionDenied("This daemon serves its own user only.")
        elif len(self._connections) >= self._connections.limit:
            error = self._full()
        if error is not None:
            self._log("refused", level="warning", code=error.code, uid=uid)
            if len(self._refused) >= REFUSED_AT_ONCE:
                conn.abort()
            self._refused.add(conn)
            conn.refuse(error)
            return False
        self._connections.open.add(conn)
        return True

    def _full(self) -> Overloaded:
        limit = self._connections.limit
        hint = ""
        if limit < self._connections.configured:
            hint = "The system allows few open files. See how to raise the limit: mlxd doctor"
        data = {"max_connections": limit}
        return Overloaded(f"{limit} connections are open.", hint=hint, data=data)

    def _lost(self, conn: Connection) -> None:
        self._connections.discard(conn)
        self._refused.discard(conn)
        conn.cancel_all()

    def _sweep_later(self) -> None:
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Close connections whose caller has disconnected or whose message remains incomplete."""
        self._sweeping = None
        now = asyncio.get_running_loop().time()
        opened = self._connections.open
        watched = [conn for conn in opened if conn.half_closed or conn.partial_since is not None]
        for conn in watched:
            began = conn.partial_since
            late = began is not None and now - began > self._message_timeout_s
            if late or (conn.half_closed and conn.has_hung_up()):
                conn.abort()
        self._bound_half_sent([conn for conn in watched if conn.open])
        if watched:
            self._sweep_later()

    def _bound_half_sent(self, watched: list[Connection]) -> None:
        """Close the connections with the largest incomplete messages until the others fit into
        memory."""
        room = HALF_SENT_MESSAGES * self._max_message_bytes
        held = sum(conn.half_sent_bytes for conn in watched)
        for conn in sorted(watched, key=lambda conn: -conn.half_sent_bytes):
            if held <= room:
                return
            held -= conn.half_sent_bytes
            self._log("too much incomplete data", level="warning", conn=conn.serial)
            conn.abort()
