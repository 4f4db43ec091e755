"""Converts errors of a computation into errors for the caller."""

from __future__ import annotations

from mlxd.daemon.shortages import is_shortage
from mlxd.protocol.errors import Internal, MlxdError, OutOfMemory


def shortage(exc: BaseException) -> OutOfMemory | None:
    """Return OutOfMemory if the system or a limit refused a resource, else None."""
    if not is_shortage(exc):
        return None
    name = "" if isinstance(exc, MlxdError) else f"{type(exc).__name__}: "
    text = f"{name}{exc}"[:300]
    return OutOfMemory(f"The engine ran out of memory, threads or open files: {text}")


def as_error(exc: Exception) -> MlxdError:
    """Return the error to answer for a failed computation."""
    if (error := shortage(exc)) is not None:
        return error
    if isinstance(exc, MlxdError):
        return exc
    return Internal(f"Computing failed: {type(exc).__name__}: {str(exc)[:300]}")
