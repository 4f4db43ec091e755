"""What happens when a connection is accepted, before any of its data is read."""

from __future__ import annotations

import asyncio
import errno
from typing import Any

import pytest

from mlxd.daemon.front.server.connection import Connection
from mlxd.daemon.front.server.turns import Turns
from mlxd.protocol.codec import Encoding, Limits, encode
from mlxd.protocol.errors import PermissionDenied
from mlxd.protocol.messages import Notification, Request

REQUEST = encode(Request(1, "ping", {}), Encoding.MSGPACK)


class HungUpSocket:
    """A socket whose peer has gone, on macOS: options cannot be set any more."""

    def setsockopt(self, *_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")


class HungUpTransport(asyncio.Transport):
    """A transport of such a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return HungUpSocket() if name == "socket" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return True

    def pause_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        pass

    def abort(self) -> None:
        self.aborted = True


def deliver(connection: Connection, data: bytes) -> None:
    """Deliver data as asyncio does."""
    connection.get_buffer(len(data))[: len(data)] = data
    connection.buffer_updated(len(data))


class Checks:
    """Whether the caller's user was checked, and which requests were served."""

    def __init__(self, *, own_user: bool, broken: bool = False) -> None:
        self.own_user = own_user
        self.broken = broken
        self.checked = 0
        self.served: list[Request | Notification] = []

    def connection(self) -> Connection:
        return Connection(
            1, Limits(), self.handle, self.opened, lambda _: None, lambda: None,
            memoryview(bytearray(4096)), Turns(),
        )  # fmt: skip

    def opened(self, connection: Connection) -> bool:
        self.checked += 1
        if self.broken:
            raise RuntimeError("the check failed")
        if not self.own_user:
            connection.refuse(PermissionDenied("This daemon serves its own user only."))
        return self.own_user

    def handle(self, _: Connection, request: Request | Notification) -> None:
        self.served.append(request)


@pytest.mark.parametrize("own_user", [True, False])
def test_a_caller_that_hung_up_is_checked_before_its_data_is_served(
    own_user: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    checks = Checks(own_user=own_user)

    async def accept() -> None:
        connection = checks.connection()
        connection.connection_made(HungUpTransport())
        deliver(connection, REQUEST)

    asyncio.run(accept())
    assert checks.checked == 1
    assert len(checks.served) == int(own_user)


def test_data_of_a_connection_whose_check_failed_is_never_served() -> None:
    checks = Checks(own_user=True, broken=True)

    async def accept() -> None:
        connection, transport = checks.connection(), HungUpTransport()
        with pytest.raises(RuntimeError):
            connection.connection_made(transport)
        deliver(connection, REQUEST)  # as asyncio does after an exception
        assert transport.aborted

    asyncio.run(accept())
    assert checks.served == []
