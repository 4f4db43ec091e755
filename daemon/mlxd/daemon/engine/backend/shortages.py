"""Converts errors of a computation into errors for the caller."""

from __future__ import annotations

from mlxd.daemon.shortages import is_shortage
from mlxd.protocol.errors import Internal, MlxdError, OutOfMemory

DEVICE_FAILURES = ("[metal]", "command buffer", "[metal::", "cuda", "cudnn", "cublas")
"""Parts of messages of MLX about a GPU, in lower case. `[METAL] Command buffer execution failed` is
that of `CommandEncoder::commit` in mlx 0.32."""


def device_failure(exc: BaseException | None) -> bool:
    """Whether a GPU failed. Everything computed since the last check is then invalid.

    The error is raised once, at a later check, which may belong to another request. The causes of
    an error count too.
    """
    while exc is not None:
        if not isinstance(exc, MlxdError):
            text = str(exc).lower()
            if any(part in text for part in DEVICE_FAILURES):
                return True
        exc = exc.__cause__
    return False


def not_device_failure(exc: BaseException) -> None:
    """Raise `exc` again if it is the GPU's, which no other handling may hide."""
    if device_failure(exc):
        raise exc


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


def out_of_gpu_memory(exc: BaseException) -> bool:
    """Whether a GPU failed for want of memory: kIOGPUCommandBufferCallbackErrorOutOfMemory."""
    text = str(exc).lower()
    return any(part in text for part in ("insufficient memory", "outofmemory", "out of memory"))
