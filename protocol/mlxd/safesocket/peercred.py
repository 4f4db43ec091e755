"""The user at the other end of a connection, as reported by the kernel.

The fast path imports this file by its bare name. Only built-in modules: others cost start-up time.
"""

import _socket
import posix
import sys

SOL_LOCAL = 0
LOCAL_PEERCRED = 1  # <sys/un.h> on macOS
XUCRED_BYTES = 76  # version, uid, number of groups, 16 groups
UCRED_BYTES = 12  # pid, uid, gid


def peer_uid(connection: _socket.socket) -> int:
    """Return the effective uid with which the peer connected or listened.

    Raises:
        OSError: the kernel does not know the peer.
    """
    if sys.platform == "darwin":
        raw = connection.getsockopt(SOL_LOCAL, LOCAL_PEERCRED, XUCRED_BYTES)
    else:
        raw = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, UCRED_BYTES)
    return int.from_bytes(raw[4:8], sys.byteorder)


def is_trusted_listener(uid: int) -> bool:
    """Return whether a client may send prompts to a listener of this user: its own user or root.

    launchd and systemd create sockets as root, and root can read everything anyway.
    """
    return uid in (posix.geteuid(), 0)
