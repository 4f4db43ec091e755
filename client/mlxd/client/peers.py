"""Verifies which user's program listens at the socket, before a client sends a prompt."""

from __future__ import annotations

import os
import socket
import struct
import sys

from mlxd.protocol.errors import PermissionDenied

LOCAL_PEERCRED = 1  # <sys/un.h> on macOS; level 0 is SOL_LOCAL


def check_daemon(connection: socket.socket, path: object) -> None:
    """Check that the listener belongs to this user or to root.

    Root is accepted because launchd creates the sockets of its services, and because root can read
    everything anyway.

    Raises:
        PermissionDenied: another user's program listens.
    """
    uid = _listener_uid(connection)
    if uid not in (os.geteuid(), 0):
        raise PermissionDenied(
            f"A program of user {uid} listens at {path}, so nothing was sent to it.",
            hint="Use a socket in your own folder: export MLXD_SOCKET=$HOME/.mlxd.sock",
        )


def _listener_uid(connection: socket.socket) -> int:
    if sys.platform == "darwin":
        # struct xucred: version, uid, ngroups, 16 groups
        raw = connection.getsockopt(0, LOCAL_PEERCRED, 76)
        return int(struct.unpack("=IIh2x16I", raw)[1])
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("iII"))
    return int(struct.unpack("iII", raw)[1])
