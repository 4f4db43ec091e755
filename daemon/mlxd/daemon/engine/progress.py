"""The usage of each request so far, for the thread that answers a cancel during a step."""

from __future__ import annotations

import threading

from mlxd.protocol.errors import ERRORS, Cancelled, MlxdError

ENDINGS = {
    "superseded": "A newer request replaced this one.",
    "deadline_exceeded": "The request exceeded its deadline.",
}


class Progress:
    """Maps a request id to its usage.

    The compute thread writes it, and the link's thread reads copies.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._usage: dict[int, dict[str, int]] = {}

    def publish(self, request_id: int, usage: dict[str, int]) -> None:
        """Replace the usage of a request. The caller must not change `usage` afterwards."""
        with self._lock:
            self._usage[request_id] = usage

    def remove(self, request_id: int) -> None:
        """Forget a request that ended."""
        with self._lock:
            self._usage.pop(request_id, None)

    def stopped(self, request_id: int, code: str) -> MlxdError | None:
        """Return the error of a request that is stopped with `code`, or None if it has ended."""
        with self._lock:
            usage = self._usage.get(request_id)
        return None if usage is None else stopped(code, usage)


def stopped(code: str, usage: dict[str, int]) -> MlxdError:
    """Return the error of a request that is stopped with `code`, with its usage so far."""
    text = ENDINGS.get(code, "The request was cancelled.")
    return ERRORS.get(code, Cancelled)(text, data={"usage": usage})
