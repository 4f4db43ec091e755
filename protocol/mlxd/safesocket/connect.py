"""Connects to the daemon's socket, with retries while it is busy.

`attempts` never blocks, so that asyncio and threads share it, each with its own way to pause.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from mlxd.protocol.errors import DaemonUnreachable, PermissionDenied, RequestTimeout
from mlxd.protocol.paths import resolve_paths
from mlxd.safesocket.peercred import is_trusted_listener, peer_uid

REFUSED_TRIES = 5
PAUSE_S = 0.05

GivenPath = str | os.PathLike[str] | None


def socket_path(given: GivenPath) -> Path:
    """Return the given socket path, or by default the one from the environment."""
    return Path(given) if given is not None else resolve_paths().socket


def connect(path: Path, limit_s: float | None) -> socket.socket:
    """Return a non-blocking socket that is connected to the daemon at `path`.

    Raises:
        DaemonUnreachable: no daemon listens at the socket.
        PermissionDenied: the socket belongs to another user's program.
        RequestTimeout: the daemon did not accept the connection within `limit_s` seconds.
    """
    for connection in attempts(path, limit_s):
        if connection is not None:
            return connection
        time.sleep(PAUSE_S)
    raise AssertionError("attempts end with a connection or an error")


def attempts(path: Path, limit_s: float | None) -> Iterator[socket.socket | None]:
    """Connect without blocking. Yield None when the caller must pause `PAUSE_S`, then the socket.

    Raises what `connect` raises.
    """
    started_s = time.monotonic()
    refused = 0
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(str(path))
            check_listener(connection, path)
        except BlockingIOError:
            # The result on Linux when the listener's queue is full.
            connection.close()
            if limit_s is not None and time.monotonic() - started_s >= limit_s:
                raise _slow(path, limit_s) from None
        except ConnectionRefusedError as exc:
            # Also the result on macOS when the listener's queue is full.
            connection.close()
            refused += 1
            if refused == REFUSED_TRIES:
                raise unreachable(path) from exc
        except OSError as exc:
            connection.close()
            raise unreachable(path, exc) from exc
        except BaseException:
            connection.close()
            raise
        else:
            yield connection
            return
        yield None


def check_listener(connection: socket.socket, path: object) -> None:
    """Check that the listener belongs to this user or to root, before anything is sent.

    Raises:
        PermissionDenied: another user's program listens.
    """
    uid = peer_uid(connection)
    if not is_trusted_listener(uid):
        raise PermissionDenied(
            f"A program of user {uid} listens at {path}, so nothing was sent to it.",
            hint="Use a socket in your own folder: export MLXD_SOCKET=$HOME/.mlxd.sock",
        )


def unreachable(path: Path, exc: OSError | None = None) -> DaemonUnreachable:
    """Return the error for a socket without a daemon."""
    reason = "" if exc is None or isinstance(exc, FileNotFoundError) else f" ({exc.strerror})"
    return DaemonUnreachable(f"No daemon is running at {path}{reason}.", data={"socket": str(path)})


def _slow(path: Path, limit_s: float) -> RequestTimeout:
    return RequestTimeout(
        f"The daemon at {path} did not accept the connection within {limit_s:g} s.",
        data={"limit": "connect_s", "seconds": limit_s},
    )
