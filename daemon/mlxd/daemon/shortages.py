"""Recognises errors that mean: no memory, threads or file descriptors left."""

from __future__ import annotations

import errno

REFUSED = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN})
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
    """Whether the system or a limit refused memory, a thread or a descriptor."""
    if isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in REFUSED):
        return True
    text = f"{type(exc).__name__}: {exc}".lower()
    return any(part in text for part in MESSAGES)
