"""Waiting for what tells nobody that it changed: a file of another process, a socket's return."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

GLANCE_S = 0.01
PATIENCE_S = 60.0
"""Only a fault takes this long, also on a busy machine."""


def until(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Return once the condition holds; fails with `what` where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(GLANCE_S)


def ended(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has collected it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True
