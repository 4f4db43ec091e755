"""Translates exceptions of the front into errors of the protocol."""

from __future__ import annotations

from mlxd.daemon.shortages import is_disk_full, is_shortage
from mlxd.protocol.errors import Internal, MlxdError, Overloaded


def as_error(exc: BaseException) -> MlxdError:
    """Return the error to answer for an exception."""
    if isinstance(exc, MlxdError):
        return exc
    if is_shortage(exc):
        return Overloaded(
            f"The daemon has no memory, threads or open files left: {type(exc).__name__}: {exc}",
            hint="Close other programs or raise the limit. See: mlxd doctor",
            data={"retry_after_s": 1.0},
        )
    if is_disk_full(exc):
        return Internal(
            "The disk is full: No space left on device.",
            hint="Nothing was changed. Free some space, then try again. See: mlxd doctor",
        )
    return Internal(f"{type(exc).__name__}: {exc}")
