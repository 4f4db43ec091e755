"""Recognises errors that mean: no memory, threads or file descriptors left."""

from __future__ import annotations

import errno

from mlxd.protocol.errors import Internal, MlxdError, OutOfMemory

SCARCE = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN})
MESSAGES = ("malloc", "bad_alloc", "out of memory", "allocate memory", "can't start new thread")
"""Parts of the messages of MLX, Python and the C++ library, in lower case."""


def shortage(exc: BaseException) -> OutOfMemory | None:
    """Return OutOfMemory if the system or a limit refused a resource, else None."""
    text = f"{type(exc).__name__}: {exc}"
    denied = isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in SCARCE)
    if not denied and not any(part in text.lower() for part in MESSAGES):
        return None
    return OutOfMemory(f"The engine ran out of memory, threads or open files: {text[:200]}")


def as_error(exc: Exception) -> MlxdError:
    """Return the error to answer for a failed computation."""
    if isinstance(exc, MlxdError):
        return exc
    return shortage(exc) or Internal(f"Computing failed: {type(exc).__name__}: {str(exc)[:300]}")
