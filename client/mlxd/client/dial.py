"""Connects to the daemon's socket. Both clients use it, each with its own way to pause."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path as FilePath

from mlxd.client.peers import check_daemon
from mlxd.protocol.errors import DaemonUnreachable, RequestTimeout
from mlxd.protocol.paths import resolve_paths

REFUSED_TRIES = 5
PAUSE_S = 0.05
READ_BYTES = 1 << 16

Path = str | os.PathLike[str] | None


def socket_path(path: Path) -> FilePath:
    """Return the given socket path, or by default the one from the environment."""
    return FilePath(path) if path is not None else resolve_paths().socket


def nobody(path: FilePath, exc: OSError | None = None) -> DaemonUnreachable:
    """Return the error for a socket without a daemon."""
    reason = "" if exc is None or isinstance(exc, FileNotFoundError) else f" ({exc.strerror})"
    return DaemonUnreachable(f"No daemon is running at {path}{reason}.", data={"socket": str(path)})


def dial(path: FilePath, limit_s: float | None) -> Iterator[socket.socket | None]:
    """Connect without blocking. Yield None when the caller must pause `PAUSE_S`, then the socket.

    Raises:
        DaemonUnreachable: no daemon listens at the socket.
        PermissionDenied: the socket belongs to another user's program.
        RequestTimeout: the daemon did not accept the connection in time.
    """
    started_s = time.monotonic()
    refused = 0
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.connect(str(path))
            check_daemon(connection, path)
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
                raise nobody(path) from exc
        except OSError as exc:
            connection.close()
            raise nobody(path, exc) from exc
        except BaseException:
            connection.close()
            raise
        else:
            yield connection
            return
        yield None


def _slow(path: FilePath, limit_s: float) -> RequestTimeout:
    return RequestTimeout(
        f"The daemon at {path} did not accept the connection within {limit_s:g} s.",
        data={"limit": "connect_s", "seconds": limit_s},
    )
