"""Recognises errors that mean that memory, threads, file descriptors or disk space ran out."""

from __future__ import annotations

import errno

from mlxd.protocol.errors import MlxdError

REFUSED = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN})
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
MESSAGES = (
    "malloc",
    "bad_alloc",
    "out of memory",
    "allocate memory",
    "can't start new thread",
    "too many open files",
)
"""Parts of the messages of MLX, Python, C++ and Rust libraries, in lower case."""


def is_shortage(exc: BaseException) -> bool:
    """Return whether the system or a limit refused memory, a thread or a descriptor.

    The causes of an error count too, because a file that cannot be opened may be reported as
    unreadable.
    """
    if exc.__cause__ is not None and is_shortage(exc.__cause__):
        return True
    if isinstance(exc, MlxdError):
        return False
    if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in REFUSED):
        return True
    text = f"{type(exc).__name__}: {exc}".lower()
    return any(part in text for part in MESSAGES)


def is_disk_full(exc: BaseException) -> bool:
    """Return whether the disk or the user's quota is full."""
    return isinstance(exc, OSError) and exc.errno in DISK_FULL
