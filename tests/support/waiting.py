"""Waits for conditions without an event, such as a file that another process writes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

GLANCE_S = 0.01
PATIENCE_S = 60.0
"""Timeout in seconds. Even on a busy machine, only a fault takes this long."""


def until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait until the condition is true. Fails with `what` after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(GLANCE_S)


def ended(pid: int) -> bool:
    """Return whether a process has exited, including zombies."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
