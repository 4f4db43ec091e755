"""Tells what an operation failed of: want of memory, threads or descriptors, or something else."""

from __future__ import annotations

import errno

from mlxd.protocol.errors import Internal, MlxdError, OutOfMemory

SCARCE = frozenset({errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN})
WORDS = ("malloc", "bad_alloc", "out of memory", "allocate memory", "can't start new thread")
"""Parts of what MLX, Python and the C++ library say, in lower case."""


def shortage(exc: BaseException) -> OutOfMemory | None:
    """Return the error for what the machine or a limit denied; None: it is something else."""
    text = f"{type(exc).__name__}: {exc}"
    denied = isinstance(exc, MemoryError) or (isinstance(exc, OSError) and exc.errno in SCARCE)
    if not denied and not any(word in text.lower() for word in WORDS):
        return None
    return OutOfMemory(f"The engine ran out of memory, threads or open files: {text[:200]}")


def as_error(exc: Exception) -> MlxdError:
    """Return what a caller is told of a failed computation."""
    if isinstance(exc, MlxdError):
        return exc
    return shortage(exc) or Internal(f"Computing failed: {type(exc).__name__}: {str(exc)[:300]}")
